"""Stage `frames`: every video decoded once, into sampled frames with their presentation times.

One shard a video (models.shards). Stage `pretrain` and stage `embed` read these; nothing decodes twice.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field

from models.encoder import EncoderParams, encoder_image_size
from models.errors import VideoError
from models.manifest import Rejection, VideoRow, read_manifest, refuse_too_many, write_manifest, write_rejections
from models.params import Section
from models.shards import fingerprint, keep_only, read_metadata, write_shard
from models.video import Sampling, sample_video
from tasks.shell import progress_bar, stage_shell

_log = logging.getLogger(__name__)
_VERSION = 1  # raise it when the same params give other pixels


class FramesParams(Section):
    """How frames are taken."""

    fps: float = Field(default=4.0, gt=0, le=240)
    """Samples a second of presentation time."""
    fit: Literal["crop", "squash"] = "squash"
    """`squash` shows the model the whole picture; `crop` keeps the centre square, as OpenAI's CLIP was trained."""
    max_rejected_fraction: float = Field(default=0.1, ge=0, le=1)
    """Share of videos whose decoding may break off before the run stops."""


def sampling_of(params: FramesParams, encoder: EncoderParams) -> Sampling:
    """Return the sampling that an encoder needs."""
    return Sampling(params.fps, encoder_image_size(encoder), params.fit)


@dataclass(frozen=True)
class FramesResult:
    """What decoding left.

    rows:       the videos that have a shard
    rejected:   path and reason of the videos whose decoding broke off
    num_frames: sampled frames of all rows
    """

    rows: tuple[VideoRow, ...]
    rejected: tuple[Rejection, ...]
    num_frames: int


def store_frames(
    rows: Sequence[VideoRow],
    videos: Path,
    sampling: Sampling,
    folder: Path,
    on_progress: Callable[[int], None] = lambda done: None,
) -> FramesResult:
    """Sample the videos of `rows` below `videos` into shards in `folder`; what is there already is kept.

    A video whose decoding breaks off in the middle becomes a rejection: never black frames, never half of it.
    """
    wanted = {
        row.video_id: fingerprint(_VERSION, row.video_id, sampling.fps, sampling.image_size, sampling.fit)
        for row in rows
    }
    current = keep_only(folder, wanted)
    kept: list[VideoRow] = []
    rejected: list[Rejection] = []
    num_frames = 0
    for done, row in enumerate(rows, start=1):
        on_progress(done)
        if row.video_id not in current:
            try:
                video = sample_video(videos / row.path, sampling)
            except VideoError as error:
                _log.warning("rejected %s", error)
                rejected.append(Rejection(row.path, str(error)))
                continue
            metadata = {
                "fingerprint": wanted[row.video_id],
                "duration_s": repr(video.duration_s),
                "num_frames": str(len(video.times_s)),
            }
            write_shard(folder, row.video_id, {"frames": video.frames_THWC, "times_s": video.times_s}, metadata)
        num_frames += int((read_metadata(folder, row.video_id) or {})["num_frames"])
        kept.append(row)
    return FramesResult(tuple(kept), tuple(rejected), num_frames)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the stage."""
    with stage_shell("frames", ["data", "manifest"], argv) as shell:
        params = shell.section("frames", FramesParams)
        rows = read_manifest(shell["manifest"])
        with progress_bar("videos", len(rows)) as on_progress:
            sampling = sampling_of(params, shell.section("encoder", EncoderParams))
            result = store_frames(rows, shell["data"] / "videos", sampling, shell.out / "shards", on_progress)
        write_rejections(shell.out / "rejected.json", result.rejected)
        refuse_too_many(result.rejected, len(rows), params.max_rejected_fraction, "frames.max_rejected_fraction")
        write_manifest(shell.out / "manifest.parquet", result.rows)
        shell.write_metrics(
            {"num_videos": len(result.rows), "num_rejected": len(result.rejected), "num_frames": result.num_frames}
        )


if __name__ == "__main__":
    main()
