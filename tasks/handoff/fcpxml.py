"""Highlights as FCPXML, the format of Final Cut Pro X, which DaVinci Resolve reads too.

Knows the elements of Apple's FCPXML 1.8 that a cut needs. Written here and not by OpenTimelineIO's adapter, which can
neither count 29.97 frames a second nor write more than one kind of footage (otio-fcpx-xml-adapter 1.0 stops with an
error at its own `frameDuration`); the tests read it back with that adapter. Times are exact fractions of a second.
"""

import xml.etree.ElementTree as ET
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

from models.files import write_text
from tasks.handoff.timecode import cut_of, is_drop_frame, to_frame
from tasks.handoff.timelines import NO_HIGHLIGHT, file_url, frame_size, num_frames, plain_text, rate_notes
from tasks.handoff.values import Handoff, Highlight

_VERSION = "1.8"


def write_fcpxml(path: Path, name: str, handoffs: Sequence[Handoff], rate: Fraction) -> None:
    """Write one event with one project: all highlights one after the other at `rate`, each with its marker."""
    root = ET.Element("fcpxml", version=_VERSION)
    resources = ET.SubElement(root, "resources")
    frame = _seconds(1, rate)
    width, height = frame_size(handoffs)
    sequence_format = {"id": "r1", "frameDuration": frame, "width": str(width), "height": str(height)}
    ET.SubElement(resources, "format", sequence_format)
    event = ET.SubElement(root, "event", name=plain_text(name))
    project = ET.SubElement(event, "project", name=plain_text(name))
    counting = "DF" if is_drop_frame(rate) else "NDF"
    sequence = ET.SubElement(project, "sequence", format="r1", tcStart="0s", tcFormat=counting)
    notes = "; ".join(
        [*rate_notes(handoffs, rate), *([] if any(item.scored.highlights for item in handoffs) else [NO_HIGHLIGHT])]
    )
    ET.SubElement(sequence, "note").text = notes
    spine = ET.SubElement(sequence, "spine")
    at = 0
    for number, item in enumerate(handoffs):
        if item.scored.highlights:
            _add_asset(resources, number, item)
        for highlight in item.scored.highlights:
            at += _add_clip(spine, number, item, highlight, at, rate)
    sequence.set("duration", _seconds(at, rate))
    ET.indent(root)
    text = ET.tostring(root, encoding="unicode")
    write_text(path, f'<?xml version="1.0" encoding="UTF-8"?>\n<!DOCTYPE fcpxml>\n{text}\n')


def _add_asset(resources: ET.Element, number: int, item: Handoff) -> None:
    info, rate = item.media.info, item.media.rate
    size = {"width": str(info.width), "height": str(info.height)}
    ET.SubElement(resources, "format", {"id": f"f{number}", "frameDuration": _seconds(1, rate), **size})
    asset = {
        "id": f"a{number}",
        "name": plain_text(item.scored.video),
        "uid": item.scored.video_id,
        "src": file_url(item.media.path),
        "start": _seconds(item.media.start_frame, rate),
        "duration": _seconds(num_frames(item), rate),
        "hasVideo": "1",
        "format": f"f{number}",
    }
    if info.has_audio:
        asset |= {"hasAudio": "1", "audioSources": "1", "audioChannels": "2"}
    ET.SubElement(resources, "asset", asset)


def _add_clip(spine: ET.Element, number: int, item: Handoff, highlight: Highlight, at: int, rate: Fraction) -> int:
    """Add one clip at frame `at` of the sequence and return its length in frames of `rate`."""
    own = item.media.rate
    cut = cut_of(highlight, own, item.scored.duration_s)
    length = max(1, to_frame(cut.num_frames / own, rate))
    start = _seconds(item.media.start_frame + cut.first, own)
    clip = ET.SubElement(
        spine,
        "asset-clip",
        {
            "name": plain_text(item.scored.video),
            "ref": f"a{number}",
            "offset": _seconds(at, rate),
            "start": start,
            "duration": _seconds(length, rate),
            "format": f"f{number}",
            "tcFormat": "DF" if is_drop_frame(own) else "NDF",
        },
    )
    marker = {"start": start, "duration": _seconds(1, own), "value": plain_text(highlight.label)}
    ET.SubElement(clip, "marker", marker)
    return length


def _seconds(frames: int, rate: Fraction) -> str:
    """Return `frames` of `rate` as FCPXML has times: 1001/30000s. The fraction keeps the rate's own denominator."""
    return f"{frames * rate.denominator}/{rate.numerator}s" if frames else "0s"
