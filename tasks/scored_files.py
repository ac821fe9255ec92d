"""What scoring leaves in its output folder, and reading it back on a rerun.

Knows the names and contents of the files that the docstring of `tasks.score` lists; knows nothing of how a video is
scored. Every file is written atomically, `spans.json` last, so that a rerun can trust what it finds.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from models.category import Category
from models.energy import Energy
from models.files import hash_file, read_json, replacing, write_json
from models.spans import ScoreTrack, Span, total_duration_s
from tasks.footage import Footage, printable
from tasks.score_cascade import CascadeResult
from tasks.score_settings import ScoreSettings
from tasks.selecting import Highlights, rows_of
from tasks.thumbnails import Thumbnail
from tasks.timeline import draw_timeline

_MAX_STEM_BYTES = 150
_SPANS_SUFFIX = ".spans.json"
_ENERGY_SUFFIX = ".energy.json"


@dataclass(frozen=True)
class ModelIdentity:
    """Which model scored.

    name:    as it was asked for, e.g. models:/herdlight@champion
    version: registry version, or "" where it came from a folder
    sha256:  over the files of the served model's folder
    """

    name: str
    version: str
    sha256: str


@dataclass(frozen=True, eq=False)
class ScoredVideo:
    """One video with its scores.

    track:      score of each sampled frame
    spans:      the highlights, in order
    threshold:  the score from which a frame counts, 0 to 1
    thumbnails: a few frames in order of time
    partial:    why the video was read up to some point alone, "" where it was read to its end
    categories: of each span, None where the model gives none; empty where nobody asked
    note:       what was left out of the spans, and where there are none, why
    settings:   of the run; None for a plain one
    closer:     what a cascade, or keyframes alone, looked at; None in mode exact
    """

    track: ScoreTrack
    spans: tuple[Span, ...]
    threshold: float
    thumbnails: tuple[Thumbnail, ...]
    partial: str = ""
    categories: tuple[Category | None, ...] = ()
    note: str = ""
    settings: ScoreSettings | None = None
    closer: CascadeResult | None = None


@dataclass(frozen=True)
class ScoredRow:
    """One line of `scored.json`.

    video:       name as it is shown: relative to the folder that was given, or the file's name
    video_id:    first 16 hexadecimal digits of the SHA-256 of the content
    output:      stem of the three files in the output folder
    duration_s:  length of the video, seconds
    num_spans:   number of highlights
    highlight_s: seconds inside highlights
    kept:        the outputs of an earlier run were there for the same video, model and threshold
    partial, note: as in ScoredVideo
    """

    video: str
    video_id: str
    output: str
    duration_s: float
    num_spans: int
    highlight_s: float
    kept: bool
    partial: str = ""
    note: str = ""


@dataclass(frozen=True)
class RejectedRow:
    """One line of `rejected.json`: a video that could not be read, and why."""

    video: str
    reason: str


@dataclass(frozen=True)
class ScoreReport:
    """What became of every input, each list in the order of the inputs."""

    scored: tuple[ScoredRow, ...]
    rejected: tuple[RejectedRow, ...]


def identify_model(folder: Path, name: str, version: str = "") -> ModelIdentity:
    """Return the identity of the served model in `folder`: a hash over the names and contents of its files."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")):
        digest.update(f"{path.relative_to(folder).as_posix()}\0{hash_file(path)}\n".encode())
    return ModelIdentity(name, version, digest.hexdigest())


def owned_stems(out: Path) -> dict[str, str]:
    """Return which video (video_id) has which stem (in lower case, for file systems that take no notice) in `out`."""
    owners = {}
    for path in sorted(out.glob(f"*{_SPANS_SUFFIX}")):
        owners[path.name.removesuffix(_SPANS_SUFFIX).lower()] = str(_read_spans(path).get("video_id", ""))
    return owners


def output_stem(path: Path, video_id: str, owners: dict[str, str]) -> str:
    """Return the stem of the outputs: the video's own, or with its identity behind it where another video has that.

    A name once given stays with its video; it is entered in `owners`.
    """
    stem = printable(path.stem)
    if len(stem.encode()) > _MAX_STEM_BYTES:
        stem = stem.encode()[:_MAX_STEM_BYTES].decode(errors="ignore")
    distinct = f"{stem}-{video_id[:8]}"
    if owners.get(distinct.lower()) == video_id or owners.get(stem.lower(), video_id) not in (video_id, ""):
        stem = distinct
    owners[stem.lower()] = video_id
    return stem


def _read_spans(path: Path) -> dict[str, Any]:
    """Return what an earlier run wrote to `path`, or an empty object where there is none or it is damaged."""
    try:
        content = read_json(path)
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def kept_row(
    item: Footage, video_id: str, output: str, out: Path, identity: ModelIdentity, settings: ScoreSettings
) -> ScoredRow | None:
    """Return the row of outputs that an earlier run left for the same video, model and settings, or None."""
    content = _read_spans(out / f"{output}{_SPANS_SUFFIX}")
    model = content.get("model")
    same = (
        content.get("video_id") == video_id
        and isinstance(model, dict)
        and model.get("sha256") == identity.sha256
        and content.get("threshold") == settings.threshold
        and content.get("settings", {}) == settings.to_json()
        and (out / f"{output}.scores.parquet").is_file()
        and (out / f"{output}.timeline.png").is_file()
    )
    if not same:
        return None
    try:
        spans = [Span(span["start_s"], span["end_s"], span["score"]) for span in content["spans"]]
        told = str(content.get("partial", "")), str(content.get("note", ""))
        return _row(item, video_id, output, float(content["duration_s"]), spans, *told, kept=True)
    except (KeyError, TypeError, ValueError):
        return None


def _row(
    item: Footage,
    video_id: str,
    output: str,
    duration_s: float,
    spans: Sequence[Span],
    partial: str,
    note: str,
    *,
    kept: bool,
) -> ScoredRow:
    seconds = float(total_duration_s(spans))
    return ScoredRow(item.name, video_id, output, duration_s, len(spans), seconds, kept, partial, note)


def write_video(
    item: Footage,
    video_id: str,
    output: str,
    out: Path,
    video: ScoredVideo,
    identity: ModelIdentity,
    energy: Energy | None = None,
) -> ScoredRow:
    """Write the files of one video, `spans.json` last, and return its row; `energy` has a file of its own."""
    spans_path = out / f"{output}{_SPANS_SUFFIX}"
    spans_path.unlink(missing_ok=True)
    table = pa.table({"time_s": video.track.times_s, "score": video.track.scores})
    with replacing(out / f"{output}.scores.parquet") as temporary:
        pq.write_table(table, temporary)
    with replacing(out / f"{output}.timeline.png") as temporary:
        draw_timeline(temporary, item.name, video.track, video.spans, video.threshold, video.thumbnails)
    (out / f"{output}{_ENERGY_SUFFIX}").unlink(missing_ok=True)  # of an earlier run that measured
    if energy is not None:
        write_json(
            out / f"{output}{_ENERGY_SUFFIX}", energy_content(item.name, video_id, video.track.duration_s, energy)
        )
    content = {
        "video": item.name,
        "video_id": video_id,
        "duration_s": video.track.duration_s,
        "model": asdict(identity),
        "threshold": video.threshold,
        "spans": span_rows(video),
        **({"partial": video.partial} if video.partial else {}),
        **({"note": video.note} if video.note else {}),
        **_asked(video),
    }
    write_json(spans_path, content)
    return _row(item, video_id, output, video.track.duration_s, video.spans, video.partial, video.note, kept=False)


def span_rows(video: ScoredVideo) -> list[dict[str, Any]]:
    """Return a JSON object for each span; its category only where it has one."""
    return rows_of(Highlights(video.spans, video.categories or (None,) * len(video.spans), video.note))


def looked_of(video: ScoredVideo) -> dict[str, Any] | None:
    """Return what a cascade, or keyframes alone, looked at and what that cost; None in mode exact."""
    closer = video.closer
    if closer is None:
        return None
    return {
        "num_keyframes": closer.num_keyframes,
        "num_samples": closer.num_samples,
        "decoded_s": closer.decoded_s,
        "decoded_share": closer.decoded_share,
        **({"fell_back": closer.fell_back} if closer.fell_back else {}),
    }


def _asked(video: ScoredVideo) -> dict[str, Any]:
    """Return what spans.json says beyond a plain run: its settings, and what a closer look cost."""
    asked = video.settings.to_json() if video.settings else {}
    looked = looked_of(video)
    if looked is None:
        return {"settings": asked} if asked else {}
    return {"settings": asked, "looked": looked}


def energy_content(name: str, video_id: str, duration_s: float, energy: Energy) -> dict[str, Any]:
    """Return what a result says of its energy: watt-hours for an hour of video, and how that is known.

    Never part of `spans.json`: a second run measures something else, and its results must be the same bytes.
    """
    return {
        "video": name,
        "video_id": video_id,
        "duration_s": duration_s,
        "wh_per_video_hour": energy.wh_per_hour(duration_s),
        "energy": energy.to_json(),
    }


def write_index(out: Path, report: ScoreReport) -> None:
    """Write the two lists; whether a row was kept is left out, so that a rerun writes the same bytes."""
    scored = [
        {
            key: value
            for key, value in asdict(row).items()
            if key != "kept" and (key, value) not in (("partial", ""), ("note", ""))
        }
        for row in report.scored
    ]
    write_json(out / "scored.json", scored)
    write_json(out / "rejected.json", [asdict(row) for row in report.rejected])
