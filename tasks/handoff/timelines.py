"""Highlights as editing timelines: OpenTimelineIO, EDL (CMX 3600), Final Cut Pro 7 XML, and a LosslessCut project.

Knows one timeline, all highlights one after the other, and the adapters of OpenTimelineIO that write it; FCPXML is
fcpxml.py. Every edit point is a frame of a stated rate, [first, end), rounded once by `timecode.cut_of`: source
times count in the rate of the source and carry its timecode. A timeline without a highlight is a valid empty one that
says so.
"""

import json
import os
import re
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import opentimelineio as otio

from models.errors import ShapeError
from models.files import write_text
from tasks.footage import printable
from tasks.handoff.timecode import cut_of, is_drop_frame, show_rate
from tasks.handoff.values import Handoff, Highlight

_REEL_LENGTH = 8  # characters of a tape's name in CMX 3600
_LINE_LENGTH = 200
_EVENT = re.compile(r"^(\d{3,}  \S{8} )V ")
NO_HIGHLIGHT = "no highlight"


def plain_text(text: str) -> str:
    """Return `text` on one line, without the control characters that end a line or break XML 1.0."""
    shown = "".join(char if char.isprintable() else " " for char in text)
    return " ".join(shown.split())[:_LINE_LENGTH] or "untitled"


def common_rate(handoffs: Sequence[Handoff]) -> Fraction:
    """Return the rate in which most of the highlighted time (else most of the footage) is counted; 25 for nothing."""
    seconds: dict[Fraction, tuple[float, float]] = {}
    for item in handoffs:
        inside_s, whole_s = seconds.get(item.media.rate, (0.0, 0.0))
        inside_s += sum(highlight.duration_s for highlight in item.scored.highlights)
        seconds[item.media.rate] = (inside_s, whole_s + item.scored.duration_s)
    return max(seconds, key=lambda rate: (seconds[rate], rate), default=Fraction(25))


def rate_notes(handoffs: Sequence[Handoff], rate: Fraction) -> list[str]:
    """Return a line about the timeline's rate, and one for every video that is not counted in frames of its own."""
    drop = "drop-frame" if is_drop_frame(rate) else "non-drop-frame"
    notes = [f"timeline rate {show_rate(rate)} frames/s, {drop} timecode"]
    notes += [f"{plain_text(item.scored.video)}: {item.media.rate_note}" for item in handoffs if item.media.rate_note]
    return notes


def frame_size(handoffs: Sequence[Handoff]) -> tuple[int, int]:
    """Return width and height of the largest picture with a highlight, px; 1920 x 1080 for nothing."""
    sizes = [(item.media.info.width, item.media.info.height) for item in handoffs if item.scored.highlights]
    return max(sizes, key=lambda size: (size[0] * size[1], size), default=(1920, 1080))


def file_url(path: Path) -> str:
    """Return the file: URL of `path`, every odd character escaped."""
    return path.resolve().as_uri()


def build_timeline(name: str, handoffs: Sequence[Handoff], rate: Fraction) -> otio.schema.Timeline:
    """Return the highlights of `handoffs` one after the other at `rate`; a sound track runs along where there is one.

    Each clip carries its score and category as a marker, as a comment, and as metadata `herdlight`.
    """
    notes = rate_notes(handoffs, rate)
    picture = otio.schema.Track("V1", kind=otio.schema.TrackKind.Video)
    sound = otio.schema.Track("A1", kind=otio.schema.TrackKind.Audio)
    for item in handoffs:
        for index, highlight in enumerate(item.scored.highlights, 1):
            clip = _clip(item, index, highlight)
            picture.append(clip)
            if item.media.info.has_audio:
                sound.append(_clip(item, index, highlight))
            else:
                sound.append(otio.schema.Gap(duration=clip.duration()))
            clip.markers.append(
                otio.schema.Marker(plain_text(highlight.label), clip.source_range, otio.schema.MarkerColor.YELLOW)
            )
    if not len(picture):
        notes.append(NO_HIGHLIGHT)
    start = otio.opentime.RationalTime(0, float(rate))
    timeline = otio.schema.Timeline(plain_text(name), None, start, {"herdlight": {"notes": notes}})
    timeline.tracks.append(picture)
    if any(isinstance(child, otio.schema.Clip) for child in sound):
        timeline.tracks.append(sound)
    return timeline


def _clip(item: Handoff, index: int, highlight: Highlight) -> otio.schema.Clip:
    media = item.media
    fps, zero = float(media.rate), media.start_frame

    def frames(first: int, number: int) -> otio.opentime.TimeRange:
        return otio.opentime.TimeRange(otio.opentime.RationalTime(first, fps), otio.opentime.RationalTime(number, fps))

    cut = cut_of(highlight, media.rate, item.scored.duration_s)
    reference = otio.schema.ExternalReference(file_url(media.path), frames(zero, num_frames(item)))
    reference.name = plain_text(printable(media.path.name))
    said = {
        "video": item.scored.video,
        "video_id": item.scored.video_id,
        "index": index,
        "start_s": highlight.start_s,
        "end_s": highlight.end_s,
        "score": highlight.score,
        "category": highlight.category,
        "category_probability": highlight.category_probability,
    }
    edl = {"reel": reel_name(item), "comments": [f"HIGHLIGHT {index}: {plain_text(highlight.label)}"]}
    metadata = {"herdlight": said, "cmx_3600": edl}
    return otio.schema.Clip(
        plain_text(item.scored.video), reference, frames(zero + cut.first, cut.num_frames), metadata
    )


def num_frames(item: Handoff) -> int:
    """Return the length of the whole video in frames of its rate."""
    duration_s = item.scored.duration_s
    return cut_of(Highlight(0.0, duration_s), item.media.rate, duration_s).num_frames


def reel_name(item: Handoff) -> str:
    """Return the name that an EDL knows the video by: eight letters and digits, the last from its identity."""
    letters = "".join(char for char in item.scored.stem.upper() if char.isascii() and char.isalnum())
    return (letters[: _REEL_LENGTH - 3] + item.scored.video_id.upper())[:_REEL_LENGTH]


def write_otio(path: Path, name: str, handoffs: Sequence[Handoff], rate: Fraction) -> None:
    """Write an OpenTimelineIO timeline (https://opentimeline.io)."""
    write_text(path, otio.adapters.write_to_string(build_timeline(name, handoffs, rate), "otio_json") + "\n")


def write_fcp7(path: Path, name: str, handoffs: Sequence[Handoff], rate: Fraction) -> None:
    """Write Final Cut Pro 7 XML (xmeml), which Premiere Pro and DaVinci Resolve read too."""
    timeline = build_timeline(name, handoffs, rate)
    width, height = (str(size) for size in frame_size(handoffs))
    picture = {"samplecharacteristics": {"width": width, "height": height, "pixelaspectratio": "square"}}
    timeline.metadata["fcp_xml"] = {"media": {"video": {"format": picture}}}
    write_text(path, otio.adapters.write_to_string(timeline, "fcp_xml"))


def write_edl(path: Path, name: str, handoffs: Sequence[Handoff], rate: Fraction) -> None:
    """Write an edit decision list (CMX 3600): picture, and with it the sound of the videos that have some.

    Raises ShapeError where a video counts in another rate: an EDL has one.
    """
    for item in handoffs:
        if item.scored.highlights and item.media.rate != rate:
            raise ShapeError(f"{item.scored.video}: counted in {show_rate(item.media.rate)}, the EDL {show_rate(rate)}")
    timeline = build_timeline(name, handoffs, rate)
    picture = timeline.tracks[0]
    mode = "DROP FRAME" if is_drop_frame(rate) else "NON-DROP FRAME"
    nothing = "" if len(picture) else f" ({NO_HIGHLIGHT})"
    lines = [f"TITLE: {plain_text(name)}{nothing}", f"FCM: {mode}"]
    if len(picture):
        for clip in picture:
            clip.markers.clear()  # the adapter writes them at source times, editing programs read record times
        lines += _with_sound(otio.adapters.write_to_string(timeline, "cmx_3600", rate=float(rate)), handoffs)
        lines += [f"* {note}" for note in timeline.metadata["herdlight"]["notes"]]
    write_text(path, "\n".join(lines) + "\n")


def _with_sound(edl: str, handoffs: Sequence[Handoff]) -> list[str]:
    """Return the lines of `edl` after its title, with channel V (picture) as B (both) where a video has sound.

    The adapter writes the picture only.
    """
    sounds = [item.media.info.has_audio for item in handoffs for _ in item.scored.highlights]
    lines = edl.rstrip("\n").splitlines()[1:]
    events = [number for number, line in enumerate(lines) if _EVENT.match(line)]
    for number, has_audio in zip(events, sounds, strict=True):
        if has_audio:
            lines[number] = _EVENT.sub(r"\1B ", lines[number])
    return lines


def write_losslesscut(path: Path, item: Handoff) -> None:
    """Write a LosslessCut project (JSON5, version 2): the video by its way from here, and one segment a highlight.

    Times are seconds from the first displayed frame, which LosslessCut's player calls 0.
    """
    segments = [
        {
            "start": round(highlight.start_s, 6),
            "end": round(highlight.end_s, 6),
            "name": f"{index}: {highlight.label}",
            "tags": _tags(highlight),
        }
        for index, highlight in enumerate(item.scored.highlights, 1)
    ]
    away = os.path.relpath(item.media.path.resolve(), path.parent.resolve())
    media = printable(Path(away).as_posix())
    note = "// herdlight: " + (f"{len(segments)} highlights" if segments else "no highlight in this video")
    content = {"version": 2, "mediaFileName": media, "cutSegments": segments}
    write_text(path, f"{note}\n{json.dumps(content, indent=2, ensure_ascii=False)}\n")


def _tags(highlight: Highlight) -> dict[str, str]:
    tags = {"category": highlight.category, "score": None if highlight.score is None else f"{highlight.score:.4f}"}
    return {key: value for key, value in tags.items() if value is not None}
