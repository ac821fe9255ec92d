"""torch.compile: the tower's operators fused by torch's own compiler (Inductor) each time that it is loaded.

Ansel et al., "PyTorch 2: Faster Machine Learning Through Dynamic Python Bytecode Transformation and Graph
Compilation", ASPLOS 2024. The files hold weights alone, as those of the eager engine do, so a caller who loads one
brings the tower. Two graphs are compiled, for one frame and for any number: both when the engine is loaded, so that
what cannot be compiled is told there and no caller waits for it later. Loading takes seconds to a minute.
"""

from pathlib import Path

import torch

from models.engines import eager
from models.engines.base import (
    DTYPES,
    EXAMPLE_BATCH,
    Built,
    EngineRecord,
    MakeTower,
    Runner,
    engine_errors,
    frames_tower,
    torch_runner,
)
from models.engines.compiler import INDUCTOR, quiet_compiler, require_compiler
from models.engines.source import TowerSource


def build(source: TowerSource, folder: Path, precision: str) -> Built:
    """Write the weights in `precision`. Raises EngineNotPossible on a machine that cannot compile."""
    require_compiler("torch-compile")
    return eager.build(source, folder, precision)


def load(folder: Path, record: EngineRecord, make_tower: MakeTower | None) -> Runner:
    """Return the function of an engine that `build` wrote, compiled for this machine."""
    require_compiler(record.name)
    tower = eager.load_tower(folder, record, make_tower)
    module = frames_tower(tower, DTYPES[record.precision], record.device)
    with quiet_compiler():
        compiled = torch.compile(module, options=INDUCTOR)

    def call(frames_NHWC: torch.Tensor) -> torch.Tensor:
        torch._dynamo.maybe_mark_dynamic(frames_NHWC, 0)
        with quiet_compiler():
            features_ND: torch.Tensor = compiled(frames_NHWC)
        return features_ND

    run = torch_runner(call, record.device)
    side = record.image_size
    with engine_errors(f"engine {record.name} cannot be compiled"):
        for size in (EXAMPLE_BATCH, 1):
            run(torch.zeros(size, side, side, 3, dtype=torch.uint8).numpy())
    return run
