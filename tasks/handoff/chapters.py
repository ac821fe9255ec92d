"""Highlights as WebVTT chapters, which players and web pages show along the time bar.

Knows WebVTT (https://www.w3.org/TR/webvtt1/) by webvtt-py; needs no footage. A file without a highlight holds a NOTE
that says so.
"""

import html
from collections.abc import Sequence
from pathlib import Path

from webvtt import Caption, WebVTT

from models.files import write_text
from tasks.handoff.tables import clock
from tasks.handoff.values import Scored

_MIN_CUE_S = 0.001  # times are written to 1 ms, and a cue may not end where it starts


def write_chapters(path: Path, video: Scored) -> None:
    """Write one cue for each highlight of `video`."""
    cues = [(item.start_s, item.end_s, f"Highlight {i}: {item.label}") for i, item in enumerate(video.highlights, 1)]
    note = f"{video.video}: " + (f"{len(cues)} highlights" if cues else "no highlight")
    write_cues(path, note, cues)


def write_cues(path: Path, note: str, cues: Sequence[tuple[float, float, str]]) -> None:
    """Write WebVTT with `note` on top and one cue for each (start, end, text), seconds."""
    content = WebVTT()
    content.header_comments.append(_safe(note))
    for number, (start_s, end_s, text) in enumerate(cues, 1):
        end_s = max(end_s, start_s + _MIN_CUE_S)
        content.captions.append(Caption(clock(start_s), clock(end_s), _safe(text), identifier=str(number)))
    write_text(path, content.content.rstrip("\n") + "\n")


def _safe(text: str) -> str:
    """Return `text` on one line, with what WebVTT takes for markup or an arrow escaped."""
    return html.escape(" ".join(text.split()), quote=False)
