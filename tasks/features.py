"""Features of every frame, or of regular instants, of many videos, in the files that video_features writes.

For each video one frame after the other is decoded, prepared, embedded and written; nothing grows with its length but
eight bytes a row of timestamps. What is finished and opens is kept; what is damaged is made again. A video that cannot
be read is a rejected row with its reason and the others go on. Names and arrays of the files are
`tasks.feature_files`'s; how a tower is found is `models.feature_tower`'s.
"""

import tempfile
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from models.errors import ParamsError, VideoError
from models.feature_tower import FeatureTower, TextLogits
from models.shown import batched, iterate_shown
from models.video import probe
from tasks.feature_files import (
    Suffix,
    feature_folder,
    feature_paths,
    is_finished,
    save_array,
    save_features,
    stored_fps,
    told,
    writing_rows,
)
from tasks.footage import Footage, printable
from tasks.scored_files import RejectedRow

OnExtraction = Literal["print", "save_numpy", "save_pickle"]
SUFFIXES: dict[OnExtraction, Suffix] = {"save_numpy": ".npy", "save_pickle": ".pkl"}
MAX_SHOWN_TEXTS = 5
Say = Callable[[str], None]


@dataclass(frozen=True)
class FeatureOptions:
    """What is done with every video.

    feature_type:     part of the names of files and folders: clip, timm, onnx or resnet
    model_name:       as it was asked for; part of the folder's name
    output:           folder of all results
    on_extraction:    print, save_numpy or save_pickle
    extraction_fps:   instants a second, above 0; None for every frame at its true time
    extraction_total: number of instants, spread evenly over each video, instead
    batch_size:       frames embedded at a time, from 1
    exact_resize:     prepare pictures as the tower's own project does; False: by the decoder's scaler, faster
    pred_texts:       texts whose probabilities are printed for each row; none for no such table
    """

    feature_type: str
    model_name: str
    output: Path
    on_extraction: OnExtraction = "print"
    extraction_fps: float | None = None
    extraction_total: int | None = None
    batch_size: int = 32
    exact_resize: bool = True
    pred_texts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.extraction_fps is not None and self.extraction_total is not None:
            raise ParamsError("extraction_fps and extraction_total exclude each other; give one of them")
        if self.extraction_fps is not None and not 0 < self.extraction_fps <= 1000:
            raise ParamsError(f"extraction_fps = {self.extraction_fps}: must be above 0 and at most 1000")
        if self.extraction_total is not None and self.extraction_total < 1:
            raise ParamsError(f"extraction_total = {self.extraction_total}: must be at least 1")
        if self.batch_size < 1:
            raise ParamsError(f"batch_size = {self.batch_size}: must be at least 1")

    @property
    def folder(self) -> Path:
        """Folder of this model's features."""
        return feature_folder(self.output, self.feature_type, self.model_name)

    def paths(self, video: Path) -> dict[str, Path]:
        """Return the files of a video, the features first. Only where they are saved."""
        assert self.on_extraction != "print"
        return feature_paths(self.folder, video, self.feature_type, SUFFIXES[self.on_extraction])


@dataclass(frozen=True)
class FeatureRow:
    """What became of one video.

    video:    its name
    num_rows: features of it, 0 where they were kept
    fps:      frames, or instants, a second
    kept:     an earlier run's files are there and open
    """

    video: str
    num_rows: int
    fps: float
    kept: bool = False


@dataclass(frozen=True)
class FeatureReport:
    """What became of every input, each list in the order of the inputs."""

    extracted: tuple[FeatureRow, ...]
    rejected: tuple[RejectedRow, ...]


def extract_to_file(
    tower: FeatureTower,
    path: Path,
    options: FeatureOptions,
    rows_path: Path,
    on_rows: Callable[[npt.NDArray[np.float32], int], None] = lambda _row, _times: None,
) -> tuple[npt.NDArray[np.float64], float]:
    """Write the features of the video at `path` as .npy to `rows_path`; return their times (ms) and frames a second.

    on_rows: called with every feature [D] and the number of rows it makes
    Raises VideoError where the video cannot be read to its end.
    """
    info = probe(path)
    total = options.extraction_total
    fps = options.extraction_fps if total is None else total / info.duration_s
    times_ms = array("d")
    with writing_rows(rows_path, tower.spec.embed_dim) as writer:
        shown = iterate_shown(path, fps, tower.resize, exact=options.exact_resize)
        rows = batched(shown, options.batch_size, tower.embed)
        if total is not None and fps is not None:
            rows = _exactly(rows, total, fps)
        for times_s, feature in rows:
            writer.add(feature, len(times_s))
            times_ms.extend(times_s * 1000)
            on_rows(feature, len(times_s))
    return np.array(times_ms, dtype=np.float64), info.nominal_fps if fps is None else fps


def _exactly(
    rows: Iterator[tuple[npt.NDArray[np.float64], npt.NDArray[np.float32]]], total: int, fps: float
) -> Iterator[tuple[npt.NDArray[np.float64], npt.NDArray[np.float32]]]:
    """Yield of `rows` exactly `total` instants: a last frame may last longer or shorter than the container says."""
    done = 0
    feature = None
    for times_s, feature in rows:
        if done < total:
            yield times_s[: total - done], feature
        done += len(times_s)
    if feature is not None and done < total:
        yield np.arange(done, total) / fps, feature


def extract_video(
    tower: FeatureTower, item: Footage, options: FeatureOptions, say: Say, texts: TextLogits | None = None
) -> FeatureRow:
    """Make, keep or print the features of one video. Raises VideoError where it cannot be read to its end.

    say:   takes the lines that the options ask for
    texts: whose probabilities are said for every row
    """
    if options.on_extraction != "print":
        kept = _kept_row(tower, item, options, say)
        if kept is not None:
            return kept
        options.folder.mkdir(parents=True, exist_ok=True)
    show = _sayer(texts, say) if texts is not None else lambda _row, _times: None
    place = None if options.on_extraction == "print" else options.folder
    with tempfile.TemporaryDirectory(prefix=".features.", suffix=".part", dir=place) as temporary:
        rows = Path(temporary) / "rows.npy"
        times_ms, fps = extract_to_file(tower, item.path, options, rows, show)
        if options.on_extraction == "print":
            features = np.load(rows, mmap_mode="r", allow_pickle=False)
            _say_arrays({options.feature_type: features, "fps": np.array(fps), "timestamps_ms": times_ms}, say)
        else:
            features_path, fps_path, times_path = options.paths(item.path).values()
            features_path.unlink(missing_ok=True)  # three files of different runs would look finished
            save_array(fps_path, np.array(fps))
            save_array(times_path, times_ms)
            save_features(features_path, rows)
    return FeatureRow(item.name, len(times_ms), fps)


def _kept_row(tower: FeatureTower, item: Footage, options: FeatureOptions, say: Say) -> FeatureRow | None:
    """Return the row of features that an earlier run finished, None where there are none or they do not open."""
    paths = options.paths(item.path)
    if not is_finished(paths, tower.spec.embed_dim):
        return None
    fps = stored_fps(paths["fps"])
    say(f"Features for {told(item.path)} already exist in {told(options.folder.absolute())}/ - skipping")
    if fps is not None and options.extraction_fps is not None and fps != options.extraction_fps:
        say(f"  they were made at {fps:g} a second, not {options.extraction_fps:g}: remove them to make them again")
    return FeatureRow(item.name, 0, fps or 0.0, kept=True)


def _say_arrays(arrays: dict[str, npt.NDArray[np.float32] | npt.NDArray[np.float64]], say: Say) -> None:
    for key, value in arrays.items():
        say(f"{key}\n{np.array_str(value)}")
        say(f"max: {value.max():.8f}; mean: {value.mean():.8f}; min: {value.min():.8f}\n")


def _sayer(texts: TextLogits, say: Say) -> Callable[[npt.NDArray[np.float32], int], None]:
    """Return what says the table of the most probable texts, once for every row."""

    def show(feature: npt.NDArray[np.float32], times: int) -> None:
        table = prediction_table(texts(feature[None])[0], texts.texts)
        for _ in range(times):
            say(table)

    return show


def prediction_table(logits_P: npt.NDArray[np.float64], texts: tuple[str, ...]) -> str:
    """Return the lines for one row: logit, share of the softmax over all P texts, text; the most probable first."""
    shares = np.exp(logits_P - logits_P.max())
    shares /= shares.sum()
    best = np.argsort(-logits_P, kind="stable")[:MAX_SHOWN_TEXTS]
    lines = [f"{logits_P[index]:8.3f} | {shares[index]:.3f} | {texts[index]}" for index in best]
    return "\n".join(["  Logits | Prob. | Label ", *lines, ""])


def extract_one(
    tower: FeatureTower, item: Footage, options: FeatureOptions, say: Say, texts: TextLogits | None
) -> FeatureRow | RejectedRow:
    """Return what became of one video: its row, or the reason why it was rejected."""
    try:
        return extract_video(tower, item, options, say, texts)
    except VideoError as error:
        return RejectedRow(item.name, printable(str(error)).removeprefix(f"{printable(item.path.name)}: "))


def report_of(outcomes: list[FeatureRow | RejectedRow]) -> FeatureReport:
    """Return the outcomes, sorted into extracted and rejected."""
    extracted = tuple(outcome for outcome in outcomes if isinstance(outcome, FeatureRow))
    return FeatureReport(extracted, tuple(outcome for outcome in outcomes if isinstance(outcome, RejectedRow)))


def refuse_same_stems(footage: list[Footage], options: FeatureOptions) -> None:
    """Raise ParamsError where two videos would be written to the same files."""
    owners: dict[str, Footage] = {}
    for item in footage if options.on_extraction != "print" else ():
        other = owners.setdefault(item.path.stem, item)
        if other is not item:
            raise ParamsError(
                f"{told(other.path)} and {told(item.path)} have one stem, and features are named by it; "
                "rename one, or give them another output_path"
            )
