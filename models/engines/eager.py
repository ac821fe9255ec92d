"""torch itself, operator by operator: the float32 reference, and bfloat16 for processors with AMX or AVX512-BF16.

The files hold weights alone (safetensors), so that a caller who loads one brings the tower: `make_tower`.
"""

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from models.engines.base import (
    DTYPES,
    Built,
    EngineRecord,
    MakeTower,
    Runner,
    frames_tower,
    require_torch_device,
    torch_device,
    torch_runner,
    version_of,
)
from models.engines.source import TowerSource
from models.errors import EngineError

_WEIGHTS_FILE = "tower.safetensors"


def run_tower(tower: nn.Module, precision: str, device: str) -> Runner:
    """Return the tower in memory as an engine's function."""
    return torch_runner(frames_tower(tower, DTYPES[precision], device), device)


def build(source: TowerSource, folder: Path, precision: str) -> Built:
    """Write the weights in `precision`."""
    state = frames_tower(source.tower, DTYPES[precision]).tower.state_dict()
    save_file({key: value.contiguous().clone() for key, value in state.items()}, folder / _WEIGHTS_FILE)
    return Built((_WEIGHTS_FILE,), version_of("torch"), torch_device())


def load_tower(folder: Path, record: EngineRecord, make_tower: MakeTower | None) -> nn.Module:
    """Return the tower with the weights that `build` wrote."""
    require_torch_device(record)
    if make_tower is None:
        raise EngineError(f"{folder}: engine {record.name} holds weights alone; load it with its model.json beside it")
    tower = make_tower()
    try:
        tower.load_state_dict(load_file(folder / _WEIGHTS_FILE))
    except (SafetensorError, RuntimeError) as error:
        first = str(error).splitlines()[0]
        raise EngineError(f"{folder / _WEIGHTS_FILE}: weights do not fit the tower: {first}") from None
    return tower


def load(folder: Path, record: EngineRecord, make_tower: MakeTower | None) -> Runner:
    """Return the function of an engine that `build` wrote."""
    return run_tower(load_tower(folder, record, make_tower), record.precision, record.device)
