"""The paper model to a petabyte: its arithmetic on made costs, and the page that quotes it."""

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import scale
from benchmarks.results_file import RESULTS, ROOT
from benchmarks.scale import Assumptions, Costs, nodes_at_limit, plan, read_costs, render, write_into
from benchmarks.scoring_dask import make_equal_videos
from models.errors import DataError, ParamsError
from models.files import hash_file
from models.video import Sampling, sample_video

COSTS = Costs(core_s=360.0, wh=1.0, efficiency=0.9)
positive = st.floats(1e-2, 1e4)


def leave(folder: Path, name: str, **figures: float | None) -> None:
    (folder / f"{name}.json").write_text(json.dumps({"figures": figures}))


def test_a_petabyte_by_hand() -> None:
    assumed = Assumptions()
    assert assumed.video_hours == pytest.approx(277_777.8, rel=1e-6)
    one = plan(COSTS, assumed, 1)
    assert (one.hours, one.limit) == (pytest.approx(277_777.8 * 0.1 / (64 * 0.9)), "compute")
    assert one.energy_mwh == pytest.approx(0.2777778 * 1.4)
    assert one.read_gb_s == pytest.approx(2e6 / (one.hours * 3600))
    many = plan(COSTS, assumed, 10_000)
    assert (many.hours, many.limit) == (pytest.approx(2e6 / 10 / 3600), "storage")
    assert plan(COSTS, Assumptions(node_gbit_per_s=0.1), 2).limit == "a node's network"
    assert plan(COSTS, Assumptions(file_gb=0.01), 10_000).limit == "metadata"


def test_energy_without_a_measurement_comes_from_watts_and_says_so() -> None:
    costs = Costs(core_s=3600.0, wh=None, efficiency=0.5)
    assert plan(costs, Assumptions(), 1).energy_mwh == pytest.approx(277_777.8 * 6 / 0.5 * 1.4 / 1e6)
    assert "(assumed)" in render(costs, Assumptions()).split("without the building")[1].split("\n")[0]
    assert "1.00 (measured)" in render(COSTS, Assumptions())


@given(positive, st.floats(0.1, 1.0), st.integers(1, 500))
def test_more_nodes_are_never_slower_and_stop_helping_at_the_limit(core_s: float, efficiency: float, num: int) -> None:
    costs, assumed = Costs(core_s, None, efficiency), Assumptions()
    assert plan(costs, assumed, num + 1).hours <= plan(costs, assumed, num).hours
    num_nodes, limit = nodes_at_limit(costs, assumed)
    assert plan(costs, assumed, num_nodes + 1).hours == pytest.approx(plan(costs, assumed, num_nodes).hours)
    assert plan(costs, assumed, num_nodes + 1).limit == limit
    if num_nodes > 1:
        assert plan(costs, assumed, num_nodes - 1).hours > plan(costs, assumed, num_nodes).hours * (1 - 1e-9)


def test_costs_are_read_from_the_results(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"benchmarks\.scoring_dask"):
        read_costs(tmp_path)
    leave(tmp_path, "scoring_dask", core_s_per_video_hour=300.0, dask_two_workers=1.8)
    assert read_costs(tmp_path) == Costs(300.0, None, 0.9)
    leave(tmp_path, "scoring", core_s_per_video_hour=200.0, wh_per_video_hour=0.7, dask_two_workers=None)
    assert read_costs(tmp_path) == Costs(200.0, 0.7, 0.9)
    leave(tmp_path, "scoring", dask_two_workers=2.3)
    assert read_costs(tmp_path).efficiency == 1.0


@pytest.mark.parametrize("value", [0.0, -1.0, math.inf, math.nan])
def test_assumptions_are_numbers_above_nothing(value: float) -> None:
    with pytest.raises(ParamsError, match="must be above 0"):
        Assumptions(mbit_per_s=value)


def test_the_tables_take_the_place_of_the_old_ones(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"# Title\n\n{scale.BEGIN}\nold\n{scale.END}\n\nafter\n")
    write_into(page, "new\n")
    write_into(page, "newer\n")
    assert page.read_text() == f"# Title\n\n{scale.BEGIN}\n\nnewer\n\n{scale.END}\n\nafter\n"
    page.write_text("no marks\n")
    with pytest.raises(DataError, match=r"page\.md"):
        write_into(page, "new\n")


def test_the_page_quotes_what_the_results_say() -> None:
    page = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
    try:
        text = render(read_costs(RESULTS), Assumptions())
    except DataError as error:
        pytest.skip(str(error))
    assert text in page, "run python -m benchmarks.scale --write"


def test_equal_videos_differ_in_content_alone(tmp_path: Path) -> None:
    folder = make_equal_videos(tmp_path, 3, 0.2)
    paths = sorted(folder.iterdir())
    assert len({hash_file(path) for path in paths}) == 3
    first, *others = [sample_video(path, Sampling(10.0, 32)) for path in paths]
    assert len(first.times_s) == 2
    assert all((video.frames_THWC == first.frames_THWC).all() for video in others)
