"""TorchScript: the tower traced into one archive that torch runs without its Python source.

An archive is a zip of TorchScript code and tensors. It is read by torch's C++ unpickler, which knows tensors and
plain containers and cannot name a Python class, so no Python pickle is opened. Its code is a program all the same;
`engine.json`'s hash says that it is the one that was built.
"""

from pathlib import Path

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
    quiet_export,
    require_torch_device,
    torch_device,
    torch_runner,
    unreadable,
    version_of,
)
from models.engines.source import TowerSource

_FILE = "tower.torchscript"


def build(source: TowerSource, folder: Path, precision: str) -> Built:
    """Trace the tower and write its archive."""
    device = torch_device()
    module = frames_tower(source.tower, DTYPES[precision], device)
    with quiet_export(), torch.no_grad():
        traced = torch.jit.trace(  # type: ignore[no-untyped-call]
            module, example_frames(source.image_size, device), check_trace=False
        )
        torch.jit.save(torch.jit.freeze(traced), folder / _FILE)
    _drop_debug_records(folder / _FILE)
    return Built((_FILE,), version_of("torch"), device)


def _drop_debug_records(path: Path) -> None:
    """Write an archive again without its source ranges: they hold paths of this machine, and size hangs on them."""
    reader = torch._C.PyTorchFileReader(str(path))
    kept = [name for name in sorted(reader.get_all_records()) if not name.endswith(".debug_pkl")]
    records = {name: reader.get_record(name) for name in kept if not name.startswith(".data/") and name != "version"}
    del reader
    writer = torch._C.PyTorchFileWriter(str(path))
    for name, content in records.items():
        writer.write_record(name, content, len(content))
    writer.write_end_of_file()


def load(folder: Path, record: EngineRecord, make_tower: MakeTower | None) -> Runner:
    """Return the function of an engine that `build` wrote."""
    require_torch_device(record)
    with quiet_export(), engine_errors(unreadable(folder / _FILE, record, "torch")):
        module = torch.jit.load(folder / _FILE, record.device).eval()  # type: ignore[no-untyped-call]
    return torch_runner(module, record.device)
