"""Small real videos with sound, and what `herdlight score` would have said of them."""

import json
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from models.files import hash_file
from models.video import probe

SOUND_RATE = 48_000


def level_of(index: int) -> int:
    """Return the grey of frame `index`: no two neighbours alike, and far enough apart to survive an encoder."""
    return 30 + 40 * (index % 6)


def write_video(
    path: Path,
    num_frames: int = 60,
    *,
    rate: Fraction | int = 25,
    size: tuple[int, int] = (96, 64),
    gop: int = 12,
    has_sound: bool = True,
    times_s: Sequence[float] | None = None,
    bframes: int = 0,
    metadata: dict[str, str] | None = None,
) -> Path:
    """Write grey frames (see `level_of`) and a tone that doubles its pitch every second."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", metadata_encoding="utf-8") as container:
        container.metadata.update(metadata or {})
        options = {"preset": "ultrafast", "crf": "8", "g": str(gop), "bf": str(bframes), "sc_threshold": "0"}
        video = container.add_stream("libx264", rate=Fraction(rate), options=options)
        video.width, video.height, video.pix_fmt = *size, "yuv420p"
        base = Fraction(1, 90_000)
        video.codec_context.time_base = base
        sound = container.add_stream("aac", rate=SOUND_RATE, layout="mono") if has_sound else None
        for index in range(num_frames):
            frame = av.VideoFrame.from_ndarray(
                np.full((size[1], size[0], 3), level_of(index), np.uint8), format="rgb24"
            )
            time_s = index / Fraction(rate) if times_s is None else Fraction(times_s[index])
            frame.pts, frame.time_base = round(time_s / base), base
            container.mux(video.encode(frame))
        container.mux(video.encode())
        if sound is not None:
            write_tone(container, sound, float(num_frames / Fraction(rate) if times_s is None else times_s[-1]))
    return path


def write_tone(container: Any, stream: Any, duration_s: float) -> None:
    """Write silence but for the second half of every second, which holds 1000 Hz."""
    time_s = np.arange(round(duration_s * SOUND_RATE)) / SOUND_RATE
    samples = (0.5 * np.sin(2 * np.pi * 1000 * time_s) * (time_s % 1 >= 0.5)).astype(np.float32)
    frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
    frame.sample_rate, frame.pts, frame.time_base = SOUND_RATE, 0, Fraction(1, SOUND_RATE)
    container.mux(stream.encode(frame))
    container.mux(stream.encode())


def write_result(
    folder: Path, video: Path, spans: Sequence[dict[str, Any]], *, stem: str | None = None, name: str | None = None
) -> Path:
    """Write what scoring leaves of `video` in `folder`: spans, scores and timeline (a blank one)."""
    folder.mkdir(parents=True, exist_ok=True)
    duration_s = probe(video).duration_s
    stem = stem or video.stem
    times_s = np.arange(0, duration_s, 0.25)
    scores = np.full(len(times_s), 0.1, np.float32)
    for span in spans:
        scores[(times_s >= span["start_s"]) & (times_s < span["end_s"])] = 0.8
    pq.write_table(pa.table({"time_s": times_s, "score": scores}), folder / f"{stem}.scores.parquet")
    Image.new("RGB", (160, 56), "white").save(folder / f"{stem}.timeline.png")
    content = {
        "video": name or video.name,
        "video_id": hash_file(video)[:16],
        "duration_s": duration_s,
        "model": {"name": "models:/herdlight@champion", "version": "3", "sha256": "ab" * 32},
        "threshold": 0.5,
        "spans": [{"score": 0.8, **span} for span in spans],
    }
    path = folder / f"{stem}.spans.json"
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    if not (folder / "scored.json").exists():
        (folder / "scored.json").write_text("[]")
    return path


def read_frames(path: Path) -> list[tuple[float, float]]:
    """Return time (seconds) and mean grey of every frame, as PyAV decodes them."""
    with av.open(str(path)) as container:
        return [(frame.time, float(frame.to_ndarray(format="gray").mean())) for frame in container.decode(video=0)]


def read_sound(path: Path) -> tuple[np.ndarray, int]:
    """Return the first channel, float32 [N], from time 0 on, and samples a second."""
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        resampler = av.AudioResampler(format="fltp", layout="mono")
        parts, at = [], 0
        for frame in container.decode(stream):
            for piece in resampler.resample(frame):
                samples = piece.to_ndarray()[0]
                start = round(float(frame.pts * frame.time_base) * frame.sample_rate)
                if start > at:
                    parts.append(np.zeros(start - at, np.float32))
                    at = start
                parts.append(samples[max(0, at - start) :])
                at = max(at, start + len(samples))
        return np.concatenate(parts), stream.codec_context.sample_rate


def tone_seconds(samples: np.ndarray, rate: int) -> np.ndarray:
    """Return for each twentieth of a second whether there is a tone in it."""
    size = rate // 20
    blocks = samples[: len(samples) // size * size].reshape(-1, size)
    return np.sqrt((blocks**2).mean(1)) > 0.1
