"""Writing the sample data set: videos, annotations and the unseen videos with their truth.

Knows the layout of a data folder. A folder that holds anything this package did not write is left alone.
"""

from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

from models.errors import DataError
from models.files import read_json, replacing_folder, write_json
from tasks.sample.draw import Frame, draw_frames
from tasks.sample.encode import write_video
from tasks.sample.plan import DURATION_S, Clip, plan_clips, plan_unseen

NUM_CLIPS = 148
SEED = 7

_RECORD = "sample.json"


def make_sample(
    out: Path,
    num_clips: int = NUM_CLIPS,
    seed: int = SEED,
    on_progress: Callable[[int, int], None] | None = None,
    duration_s: tuple[float, float] = DURATION_S,
) -> list[Clip]:
    """Write the sample data set to the folder `out`, all of it or nothing, and return its annotated clips.

    num_clips:   annotated clips, at least plan.MIN_CLIPS; two unseen ones come on top
    seed:        fixes everything
    on_progress: called with (clips written, clips in all) after each
    duration_s:  shortest and longest clip, seconds

    Raises ParamsError for too few clips, DataError where `out` holds files that an earlier sample did not write.
    """
    clips, unseen = plan_clips(num_clips, seed, duration_s), plan_unseen(seed, min(duration_s[1], 6.7))
    _refuse_foreign_files(out)
    with replacing_folder(out) as folder:
        files = [(folder / "videos" / clip.name, clip) for clip in clips]
        files += [(folder / "unseen" / clip.name, clip) for clip in unseen]
        for done, (path, clip) in enumerate(files, start=1):
            write_clip(path, clip)
            if on_progress is not None:
                on_progress(done, len(files))
        write_json(folder / "annotations.json", {"videos": {clip.name: annotate(clip) for clip in clips}})
        write_json(folder / "unseen" / "truth.json", {"videos": {clip.name: annotate(clip) for clip in unseen}})
        written = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        write_json(folder / _RECORD, {"num_clips": num_clips, "seed": seed, "files": [*written, _RECORD]})
    return clips


def write_clip(path: Path, clip: Clip) -> None:
    """Draw and encode one clip to `path`, atomically."""
    encoding = clip.encoding
    write_video(path, draw_clip(clip), encoding.frame_times_s(clip.duration_s), encoding, clip.shots[0].seed)


def draw_clip(clip: Clip) -> "chain[Frame]":
    """Return an iterator over the frames of `clip` before encoding, uint8 [height, width, 3] RGB."""
    times_s = clip.encoding.frame_times_s(clip.duration_s)
    parts, start = [], 0.0
    for index, scene in enumerate(clip.shots):
        end = start + scene.duration_s if index + 1 < len(clip.shots) else float("inf")
        inside = [time_s - start for time_s in times_s if start <= time_s < end]
        parts.append(draw_frames(scene, inside, clip.encoding.width, clip.encoding.height))
        start = end
    return chain.from_iterable(parts)


def annotate(clip: Clip) -> dict[str, Any]:
    """Return the clip's entry for annotations.json. A highlight throughout has no segments: its folder says it."""
    entry: dict[str, Any] = {
        "group": clip.group,
        "content": clip.content,
        "caption": clip.caption(),
        "captions": [{"start_s": s.start_s, "end_s": s.end_s, "text": text} for s, text in clip.captions()],
    }
    if not clip.is_highlight_throughout:
        entry["segments"] = [[span.start_s, span.end_s] for span in clip.spans()]
    return entry


def _refuse_foreign_files(out: Path) -> None:
    if not out.exists():
        return
    record = out / _RECORD
    ours = set(read_json(record)["files"]) if record.is_file() else set()
    foreign = sorted(p.relative_to(out).as_posix() for p in out.rglob("*") if not p.is_dir())
    foreign = [name for name in foreign if name not in ours]
    if foreign:
        raise DataError(
            f"{out}: holds {len(foreign)} files that are not of an earlier sample, such as {foreign[0]!r}; "
            "they would be lost, so choose another folder with --out or move them away"
        )
