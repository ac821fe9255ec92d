"""Files of features as users of video_features know them: names, arrays, and whether they are finished.

For each video `STEM`, in `OUTPUT/TYPE/MODEL` (a `/` of the model's name is written `_`, as in `clip/ViT-B_32`):

    STEM_TYPE.npy          float32 [num_frames, dim]
    STEM_fps.npy           float64 [], frames a second
    STEM_timestamps_ms.npy float64 [num_frames], milliseconds from the first frame shown

or the same three arrays as `.pkl`. Features are written as they come and never held in memory. Pickles are written
for those who want them and never read: a finished one is told by its first and last bytes.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
import numpy.typing as npt

from models.files import replacing
from tasks.footage import printable

Suffix = Literal[".npy", ".pkl"]
_MIN_PICKLE_BYTES = 20


def feature_folder(output: Path, feature_type: str, model_name: str) -> Path:
    """Return the folder of one model's features."""
    return output / feature_type / model_name.replace("/", "_")


def feature_paths(folder: Path, video: Path, feature_type: str, suffix: Suffix) -> dict[str, Path]:
    """Return the three files of a video by the name of their array, the features first."""
    return {key: folder / f"{video.stem}_{key}{suffix}" for key in (feature_type, "fps", "timestamps_ms")}


class RowWriter:
    """Appends rows of D float32 to a .npy file whose number of rows is known at the end only."""

    def __init__(self, target: BinaryIO, dim: int) -> None:
        self._target = target
        self._dim = dim
        self.num_rows = 0
        self._write_header()

    def add(self, row: npt.NDArray[np.float32], times: int = 1) -> None:
        """Append a row [D], `times` times."""
        content = row.astype("<f4").tobytes()
        for _ in range(times):
            self._target.write(content)
        self.num_rows += times

    def finish(self) -> None:
        """Write the number of rows into the header, which numpy makes of one length whatever that number is."""
        self._target.seek(0)
        self._write_header()

    def _write_header(self) -> None:
        shape = (self.num_rows, self._dim)
        np.lib.format.write_array_header_1_0(self._target, {"descr": "<f4", "fortran_order": False, "shape": shape})


@contextlib.contextmanager
def writing_rows(path: Path, dim: int) -> Iterator[RowWriter]:
    """Open `path` for rows of `dim` features; closed and finished when the block ends without an error."""
    with path.open("wb") as target:
        writer = RowWriter(target, dim)
        yield writer
        writer.finish()


def save_array(path: Path, value: npt.NDArray[np.float64]) -> None:
    """Write an array as .npy, or as a pickle where the name says so, atomically."""
    with replacing(path) as temporary:
        if path.suffix == ".pkl":
            value.dump(temporary)
        else:
            np.save(temporary, value, allow_pickle=False)


def save_features(path: Path, rows: Path) -> None:
    """Give the finished .npy file `rows` its place at `path`, or write it there as a pickle, atomically."""
    with replacing(path) as temporary:
        if path.suffix == ".pkl":
            np.asarray(np.load(rows, mmap_mode="r", allow_pickle=False)).dump(temporary)
        else:
            rows.replace(temporary)


def is_finished(paths: dict[str, Path], dim: int) -> bool:
    """Return whether all three files of a video are there and open, with `dim` features a row."""
    if any(path.suffix == ".pkl" for path in paths.values()):
        return all(_is_whole_pickle(path) for path in paths.values())
    try:
        # A memory map checks the length of the file against its header without reading it.
        features, fps, times_ms = (np.load(path, mmap_mode="r", allow_pickle=False) for path in paths.values())
    except (OSError, ValueError, EOFError):
        return False
    return features.ndim == 2 and features.shape[1] == dim and times_ms.shape == features.shape[:1] and not fps.ndim


def stored_fps(path: Path) -> float | None:
    """Return the frames a second that a finished .npy file says, None for a pickle."""
    return None if path.suffix == ".pkl" else float(np.load(path, allow_pickle=False))


def _is_whole_pickle(path: Path) -> bool:
    """Return whether `path` begins and ends as a pickle of protocol 2 or later does; nothing of it is run."""
    try:
        with path.open("rb") as source:
            head = source.read(2)
            if source.seek(0, 2) < _MIN_PICKLE_BYTES:
                return False
            source.seek(-1, 2)
            return head[:1] == b"\x80" and 2 <= head[1] <= 5 and source.read() == b"."
    except OSError:
        return False


def told(path: Path) -> str:
    """Return `path` so that it can be printed."""
    return printable(str(path))
