"""Each highlight as a file of its own: the stream itself where the cut allows it, else encoded again.

A copy needs a keyframe at the start of the highlight, a codec that MP4 players know, and an end that leaves no frame
behind; its bits are those of the source. Everything else is encoded again, frame for frame at its own time
(libx264, mp4.CRF; AAC). Sound is kept. Every clip is read back before it gets its name; a copy that does not hold what
it should is encoded instead. Knows no other format of the hand-off.
"""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import av

from models.decoding import displayed_frames, opened
from models.errors import VideoError
from models.files import replacing
from models.video import probe
from tasks.handoff.mp4 import Mp4Writer, add_audio, encode_sound, open_mp4
from tasks.handoff.reading import Sound, Upright, even, shown_frames, sound_format, sound_stream
from tasks.handoff.values import Handoff, Highlight, Media

Mode = Literal["copy", "encode"]
_COPIED_CODECS = ("h264", "hevc", "av1", "vp9")
_COPIED_SOUND = ("aac", "mp3")
_COPIED_CONTAINERS = ("mov,", "matroska")
# Beyond a frame, what rounding in containers and the pieces of compressed sound explain, seconds.
_ROUNDING_S = 0.003


@dataclass(frozen=True)
class Clip:
    """A clip that was written and read back.

    path:       where it is
    mode:       "copy" where it holds the source's own bits, "encode" where it was encoded again
    duration_s: of its picture, as read back, seconds
    num_frames: pictures in it
    """

    path: Path
    mode: Mode
    duration_s: float
    num_frames: int


def write_clip(path: Path, item: Handoff, highlight: Highlight) -> Clip:
    """Write `highlight` to `path` as MP4. Raises VideoError where the source cannot be read there."""
    media = item.media
    start_s, end_s = highlight.start_s, min(highlight.end_s, media.info.duration_s)
    with replacing(path) as temporary:
        copied = copy_clip(temporary, media, start_s, end_s)
        clip = copied or encode_clip(temporary, media, start_s, end_s)
    return Clip(path, clip.mode, clip.duration_s, clip.num_frames)


def encode_clip(path: Path, media: Media, start_s: float, end_s: float) -> Clip:
    """Write [start_s, end_s) of `media` encoded again. Raises VideoError where it cannot be read."""
    size = (even(media.info.width), even(media.info.height))
    sound = sound_format(media)
    upright = Upright(media, size)
    rate, layout = sound or (48000, "mono")
    duration = Fraction(end_s) - Fraction(start_s)
    with Mp4Writer(path, size, media.rate, sound) as writer, Sound(media, start_s, rate=rate, layout=layout) as source:
        for time_s, until_s, frame in _with_ends(shown_frames(media, start_s, end_s), duration):
            writer.add_picture(upright(frame), time_s, until_s - time_s)
            if sound is not None:
                writer.add_sound(source.take(round(until_s * rate) - writer.num_samples))
        num_frames = writer.num_frames
    return verified(path, media, float(duration), num_frames, "encode")


def _with_ends(timed: Iterator[tuple[float, Any]], end: Fraction) -> Iterator[tuple[Fraction, Fraction, Any]]:
    """Yield (time, end, frame), seconds: each frame is shown until the next, the last until `end`."""
    pending: tuple[Fraction, Any] | None = None
    for time_s, frame in timed:
        if pending is not None:
            yield pending[0], Fraction(time_s), pending[1]
        pending = (Fraction(time_s), frame)
    if pending is not None:
        yield pending[0], max(end, pending[0]), pending[1]


def verified(path: Path, media: Media, duration_s: float, num_frames: int, mode: Mode) -> Clip:
    """Return the clip at `path`, read to its end. Raises VideoError where it is not what was to be written."""
    info = probe(path)
    frame_s = 1 / min(info.mean_fps, media.info.mean_fps)
    if abs(info.duration_s - duration_s) > frame_s + _ROUNDING_S:
        raise VideoError(f"{path.name}: the clip lasts {info.duration_s:.3f} s instead of {duration_s:.3f} s")
    with opened(path) as (_, stream):
        found = sum(1 for _ in displayed_frames(path, stream))
    if found != num_frames:
        raise VideoError(f"{path.name}: the clip shows {found} frames instead of {num_frames}")
    upright = (even(media.info.width), even(media.info.height))
    if (even(info.width), even(info.height)) != upright:
        raise VideoError(f"{path.name}: the clip is {info.width} x {info.height} px, the video {upright}")
    return Clip(path, mode, info.duration_s, num_frames)


@dataclass(frozen=True)
class CopyPlan:
    """Which packets of a video make up a stretch of it: numbers in the order of the file, from a keyframe's seek.

    first:      packet of the keyframe
    last:       last packet that is needed
    first_pts:  time of the keyframe, ticks of the stream
    num_frames: pictures that it shows
    """

    first: int
    last: int
    first_pts: int
    num_frames: int


def plan_copy(media: Media, start_s: float, end_s: float) -> CopyPlan | None:
    """Return how [start_s, end_s) can be cut without encoding, None where it cannot.

    Only packets are read. The end is clean where no packet that is needed is shown a frame or more after it.
    """
    info = media.info
    if info.codec not in _COPIED_CODECS or not info.container.startswith(_COPIED_CONTAINERS):
        return None
    frame_s = 1 / info.mean_fps
    first: tuple[int, int] | None = None
    shown: list[tuple[int, float]] = []
    for number, time_s, packet in _timed_packets(media, start_s):
        if packet.pts is None or packet.dts is None or packet.is_discard:
            return None
        if first is None:
            if packet.is_keyframe and abs(time_s - start_s) <= frame_s / 2:
                first = (number, packet.pts)
            elif time_s > start_s + 1 + frame_s:
                return None
        if first is not None and packet.pts >= first[1]:
            shown.append((number, time_s))
        if float(packet.dts * packet.time_base) - info.start_pts_s >= end_s:
            break
    if first is None:
        return None
    inside = [number for number, time_s in shown if time_s < end_s - _ROUNDING_S]
    if not inside or any(time_s >= end_s + frame_s / 2 for number, time_s in shown if number <= inside[-1]):
        return None
    return CopyPlan(first[0], inside[-1], first[1], sum(number <= inside[-1] for number, _ in shown))


def _timed_packets(media: Media, start_s: float) -> Iterator[tuple[int, float, Any]]:
    """Yield number, time (seconds) and packet of the picture from the keyframe before `start_s` on."""
    with opened(media.path) as (container, stream):
        if start_s > 0:
            ticks = round((start_s + media.info.start_pts_s + 1 / media.info.mean_fps / 2) / float(stream.time_base))
            container.seek(ticks, stream=stream, backward=True)
        for number, packet in enumerate(packet for packet in container.demux(stream) if packet.size):
            time = packet.pts if packet.pts is not None else packet.dts
            yield number, float((time or 0) * packet.time_base) - media.info.start_pts_s, packet


def copy_clip(path: Path, media: Media, start_s: float, end_s: float) -> Clip | None:
    """Write [start_s, end_s) of `media` without encoding its picture; None where that cannot be done exactly."""
    try:
        plan = plan_copy(media, start_s, end_s)
        if plan is None:
            return None
        _write_copy(path, media, plan, start_s, end_s)
        return verified(path, media, end_s - start_s, plan.num_frames, "copy")
    except (VideoError, av.FFmpegError, ValueError):
        return None  # what cannot be copied exactly is encoded


def _write_copy(path: Path, media: Media, plan: CopyPlan, start_s: float, end_s: float) -> None:
    with opened(media.path) as (source, video), open_mp4(path) as target:
        picture = target.add_stream_from_template(video)
        if media.info.codec == "hevc":
            picture.codec_context.codec_tag = "hvc1"  # QuickTime and Safari play HEVC under no other name
        stream = sound_stream(source)
        sound = None if stream is None else sound_format(media)
        packets = [_copied_picture(media, plan, picture, start_s, end_s)]
        if stream is not None and stream.codec_context.codec.canonical_name in _COPIED_SOUND:
            packets.append(_copied_sound(media, target.add_stream_from_template(stream), start_s, end_s))
        elif sound is not None:
            packets.append(_encoded_sound(media, add_audio(target, *sound), sound, start_s, end_s))
        for _, packet in heapq.merge(*packets, key=lambda timed: timed[0]):
            target.mux(packet)


def _copied_picture(
    media: Media, plan: CopyPlan, out: Any, start_s: float, end_s: float
) -> Iterator[tuple[float, Any]]:
    """Yield time and packet of the picture, its times counted from the keyframe."""
    for number, _, packet in _timed_packets(media, start_s):
        if number > plan.last:
            break
        if number < plan.first or packet.pts < plan.first_pts:
            continue
        packet.pts, packet.dts = packet.pts - plan.first_pts, packet.dts - plan.first_pts
        last_tick = round((end_s - start_s) / packet.time_base)
        if packet.pts < last_tick < packet.pts + (packet.duration or 0):
            packet.duration = last_tick - packet.pts
        packet.stream = out
        yield float(packet.dts * packet.time_base), packet


def _copied_sound(media: Media, out: Any, start_s: float, end_s: float) -> Iterator[tuple[float, Any]]:
    """Yield time and packet of the sound that begins inside the stretch."""
    with opened(media.path) as (container, _):
        stream = sound_stream(container)
        origin_s = media.info.start_pts_s
        offset = round((start_s + origin_s) / stream.time_base)
        if start_s > 0:
            container.seek(max(0, offset - round(1 / stream.time_base)), stream=stream, backward=True)
        for packet in container.demux(stream):
            if not packet.size or packet.pts is None:
                continue
            time_s = float(packet.pts * packet.time_base) - origin_s
            if time_s >= end_s:
                break
            if time_s >= start_s - _ROUNDING_S:
                packet.pts = packet.dts = max(0, packet.pts - offset)
                packet.stream = out
                yield time_s - start_s, packet


def _encoded_sound(
    media: Media, out: Any, sound: tuple[int, str], start_s: float, end_s: float
) -> Iterator[tuple[float, Any]]:
    """Yield time and packet of the sound, encoded again."""
    rate, layout = sound
    total, done = round((end_s - start_s) * rate), 0
    with Sound(media, start_s, rate=rate, layout=layout) as source:
        while done < total:
            samples = source.take(min(rate // 4, total - done))
            yield from ((done / rate, packet) for packet in encode_sound(out, samples, done, rate, layout))
            done += samples.shape[1]
    yield from ((done / rate, packet) for packet in out.encode())
