"""AOTInductor: the tower compiled ahead of time into one .pt2 file, which loads without the code of the tower.

The archive is a zip with a shared library, its sources and a few lines of text. torch's loader unpacks it and opens
the library; no pickle is in it and none is read (a test looks into the archive). It is machine code all the same:
`engine.json`'s hash says that it is the one that was built, and `machine.json` names the processor, or the GPU, that it
was compiled for. On another one it is refused, since its instructions may not exist there.
"""

from pathlib import Path
from typing import Any

import torch

from models.engines.base import (
    DTYPES,
    Built,
    EngineRecord,
    MakeTower,
    Runner,
    engine_errors,
    example_frames,
    frames_tower,
    require_torch_device,
    torch_device,
    torch_runner,
    unreadable,
    version_of,
)
from models.engines.compiler import INDUCTOR, machine, quiet_compiler, require_compiler
from models.engines.source import TowerSource
from models.errors import EngineError
from models.files import read_json, write_json

_FILE, _MACHINE_FILE = "tower.pt2", "machine.json"
_MAX_BATCH = 4096


def build(source: TowerSource, folder: Path, precision: str) -> Built:
    """Compile and write the archive. Raises EngineNotPossible on a machine that cannot compile."""
    require_compiler("aot")
    device = torch_device()
    module = frames_tower(source.tower, DTYPES[precision], device)
    with quiet_compiler(), torch.no_grad():
        program = torch.export.export(
            module,
            (example_frames(source.image_size, device),),
            dynamic_shapes=({0: torch.export.Dim("batch", max=_MAX_BATCH)},),
        )
        inductor: Any = torch._inductor
        inductor.aoti_compile_and_package(program, package_path=str(folder / _FILE), inductor_configs=INDUCTOR)
    write_json(folder / _MACHINE_FILE, {"machine": machine()})
    return Built((_FILE, _MACHINE_FILE), version_of("torch"), device)


def load(folder: Path, record: EngineRecord, make_tower: MakeTower | None) -> Runner:
    """Return the function of an engine that `build` wrote. Raises EngineError on another machine or another torch."""
    require_torch_device(record)
    made_for, here = read_json(folder / _MACHINE_FILE)["machine"], machine()
    if made_for != here:
        raise EngineError(f"{folder}: compiled for {made_for}, this is {here}; run stage compile on this machine")
    current = version_of("torch")["torch"]
    if record.versions.get("torch") != current:
        written_by = record.versions.get("torch")
        raise EngineError(f"{folder}: compiled by torch {written_by}, here is {current}; run stage compile again")
    with quiet_compiler(), engine_errors(unreadable(folder / _FILE, record, "torch")):
        inductor: Any = torch._inductor
        module = inductor.aoti_load_package(str(folder / _FILE))

    def run(frames_NHWC: torch.Tensor) -> torch.Tensor:
        parts = [module(part) for part in torch.split(frames_NHWC, _MAX_BATCH)]
        return torch.cat(parts)

    return torch_runner(run, record.device)
