"""What a petabyte of footage costs, on paper: nodes, hours, energy, and what is in the way next.

Takes what was measured on a few cores (`benchmarks/results/scoring.json`: seconds of one core and watt-hours for an
hour of video, two Dask workers against one) and what a centre is assumed to have (`Assumptions`), and multiplies. What
is measured and what is assumed stands beside each line. Knows no machine and runs nothing.

`python -m benchmarks.scale` prints the tables; with `--write` they replace those in docs/scale.md.
"""

import argparse
import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.results_file import RESULTS, ROOT
from models.errors import DataError, ParamsError
from models.files import read_json, write_text
from tasks.shell import one_line_errors

NAME = "scale"
CORE_S, WH, TWO_WORKERS = "core_s_per_video_hour", "wh_per_video_hour", "dask_two_workers"
BEGIN, END = "<!-- made by python -m benchmarks.scale --write -->", "<!-- end -->"
NODE_COUNTS = (1, 4, 16, 64, 256)


@dataclass(frozen=True)
class Assumptions:
    """What is not measured here; each is an option of the command.

    footage_pb:         footage, 10^15 bytes
    mbit_per_s:         of an hour of it, 10^6 bit/s: 720p to 1080p H.264 of camera traps and hand-held cameras
    file_gb:            of one file, 10^9 bytes
    cores_per_node:     physical cores that score
    node_gbit_per_s:    network of one node
    storage_gb_per_s:   what the file system reads for all nodes together, 10^9 bytes/s
    reads:              times that a file comes over the network: hashing and decoding, with too little memory between
    metadata_per_file:  operations of the ledger for one file: looks, claims, renames, flushes
    metadata_per_s:     such operations that the file system does for all nodes together
    watts_per_core:     of a busy node with everything in it, for where no watt-hours were measured
    pue:                what the building takes for each watt of the nodes
    """

    footage_pb: float = 1.0
    mbit_per_s: float = 8.0
    file_gb: float = 1.0
    cores_per_node: float = 64.0
    node_gbit_per_s: float = 10.0
    storage_gb_per_s: float = 10.0
    reads: float = 2.0
    metadata_per_file: float = 60.0
    metadata_per_s: float = 2000.0
    watts_per_core: float = 6.0
    pue: float = 1.4

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if not (math.isfinite(value) and value > 0):
                raise ParamsError(f"{name} {value}: must be above 0")

    @property
    def video_hours(self) -> float:
        """Hours of footage."""
        return self.footage_pb * 1e15 * 8 / (self.mbit_per_s * 1e6) / 3600

    @property
    def num_files(self) -> float:
        """Files of footage."""
        return self.footage_pb * 1e6 / self.file_gb


@dataclass(frozen=True)
class Costs:
    """What was measured.

    core_s:     seconds of one core for an hour of video
    wh:         watt-hours for an hour of video, None where none were measured
    efficiency: of a worker beside another one, against alone: half of two over one, at most 1
    """

    core_s: float
    wh: float | None
    efficiency: float

    def __post_init__(self) -> None:
        if not all(math.isfinite(value) and value > 0 for value in (self.core_s, self.efficiency, self.wh or 1.0)):
            raise DataError(f"costs must be above 0: {self}")


@dataclass(frozen=True)
class Plan:
    """One number of nodes.

    num_nodes:   at work
    hours:       that they take, wall
    limit:       what holds them back: compute, a node's network, storage, metadata
    read_gb_s:   read over the network meanwhile, 10^9 bytes/s
    energy_mwh:  of nodes and building, 10^6 Wh
    """

    num_nodes: int
    hours: float
    limit: str
    read_gb_s: float
    energy_mwh: float


def read_costs(results: Path = RESULTS) -> Costs:
    """Return the measured costs. Raises DataError where they were not measured."""
    figures: dict[str, Any] = {}
    for name in ("scoring_dask", "scoring"):  # the second has the last word
        path = results / f"{name}.json"
        if path.is_file():
            figures |= {key: value for key, value in read_json(path)["figures"].items() if value is not None}
    missing = [key for key in (CORE_S, TWO_WORKERS) if key not in figures]
    if missing:
        raise DataError(f"{results.name}: no {' and no '.join(missing)}; run python -m benchmarks.scoring_dask first")
    return Costs(figures[CORE_S], figures.get(WH), min(1.0, figures[TWO_WORKERS] / 2))


def plan(costs: Costs, assumed: Assumptions, num_nodes: int) -> Plan:
    """Return what `num_nodes` nodes take: the slowest of computing, reading and the ledger decides."""
    read_gb = assumed.footage_pb * 1e6 * assumed.reads
    core_hours = assumed.video_hours * costs.core_s / 3600
    hours = {
        "compute": core_hours / (num_nodes * assumed.cores_per_node * costs.efficiency),
        "a node's network": read_gb / (num_nodes * assumed.node_gbit_per_s / 8) / 3600,
        "storage": read_gb / assumed.storage_gb_per_s / 3600,
        "metadata": assumed.num_files * assumed.metadata_per_file / assumed.metadata_per_s / 3600,
    }
    limit = max(hours, key=lambda name: hours[name])
    return Plan(num_nodes, hours[limit], limit, read_gb / (hours[limit] * 3600), energy_mwh(costs, assumed))


def energy_mwh(costs: Costs, assumed: Assumptions) -> float:
    """Return the energy of the work, 10^6 Wh, with the building's; nodes that wait for a disk take more."""
    wh = costs.wh if costs.wh is not None else costs.core_s / 3600 * assumed.watts_per_core / costs.efficiency
    return assumed.video_hours * wh * assumed.pue / 1e6


def nodes_at_limit(costs: Costs, assumed: Assumptions) -> tuple[int, str]:
    """Return the number of nodes from which another one is no use, and why."""
    one = plan(costs, assumed, 1)
    shared = {
        "storage": assumed.footage_pb * 1e6 * assumed.reads / assumed.storage_gb_per_s / 3600,
        "metadata": assumed.num_files * assumed.metadata_per_file / assumed.metadata_per_s / 3600,
    }
    limit = max(shared, key=lambda name: shared[name])
    return math.ceil(max(one.hours, shared[limit]) / shared[limit]), limit


def render(costs: Costs, assumed: Assumptions) -> str:
    """Return the tables in Markdown."""
    wh = f"{costs.wh:.2f} (measured)" if costs.wh is not None else f"at {assumed.watts_per_core:g} W a core (assumed)"
    lines = [
        "| | |",
        "|---|---:|",
        f"| seconds of one core for an hour of video (measured) | {costs.core_s:,.0f} |",
        f"| times real time, one core | {3600 / costs.core_s:,.1f} |",
        f"| a worker beside another one, against alone (measured) | {costs.efficiency:.2f} |",
        f"| watt-hours for an hour of video, without the building | {wh} |",
        *(f"| {name.replace('_', ' ')} (assumed) | {value:g} |" for name, value in _shown(assumed).items()),
        f"| hours of video | {assumed.video_hours:,.0f} |",
        f"| files | {assumed.num_files:,.0f} |",
        f"| hours of one core | {assumed.video_hours * costs.core_s / 3600:,.0f} |",
        "",
        "| nodes | hours | days | held back by | read, GB/s | energy, MWh |",
        "|---:|---:|---:|---|---:|---:|",
    ]
    for num_nodes in NODE_COUNTS:
        row = plan(costs, assumed, num_nodes)
        cells = (f"{row.hours:,.1f}", f"{row.hours / 24:,.2f}", row.limit, f"{row.read_gb_s:,.2f}")
        lines.append(f"| {num_nodes} | {' | '.join(cells)} | {row.energy_mwh:,.2f} |")
    num_nodes, limit = nodes_at_limit(costs, assumed)
    lines += ["", f"From {num_nodes:,} nodes on, {limit} is the next bottleneck: another node makes nothing faster."]
    return "\n".join(lines) + "\n"


def write_into(page: Path, text: str) -> None:
    """Put `text` between the two marks in `page`. Raises DataError where it has none."""
    content = page.read_text(encoding="utf-8")
    before, begin, rest = content.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise DataError(f"{page.name}: no {BEGIN!r} and {END!r} in it; the tables go between them")
    write_text(page, f"{before}{BEGIN}\n\n{text}\n{END}{after}")


def _shown(assumed: Assumptions) -> Mapping[str, float]:
    return dataclasses.asdict(assumed)


def main(argv: Sequence[str] | None = None) -> None:
    """Shell: print the tables, or put them into docs/scale.md."""
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{NAME}", description="What a petabyte costs, on paper."
    )
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="FOLDER", help="default: benchmarks/results")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/scale.md")
    for field in dataclasses.fields(Assumptions):
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=float, default=field.default, metavar="NUMBER")
    options = vars(parser.parse_args(argv))
    results, write = options.pop("results"), options.pop("write")
    with one_line_errors(NAME):
        text = render(read_costs(results), Assumptions(**options))
        print(text)
        if write:
            write_into(ROOT / "docs" / "scale.md", text)


if __name__ == "__main__":
    main()
