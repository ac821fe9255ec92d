"""A picture of each highlight, and the contact sheet that shows all of them.

Knows how to lay out thumbnails with captions; the pictures are those of the highest score inside each highlight. Uses
matplotlib's objects only, as `tasks.timeline` does: no display, the same bytes for the same input.
"""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from PIL import Image

from models.files import replacing
from models.spans import Span
from tasks.handoff.reading import picture_at
from tasks.handoff.values import Handoff, Highlight, Scored
from tasks.thumbnails import peak_time_s
from tasks.timeline import format_time, showable

PICTURE_WIDTH_PX, PICTURE_HEIGHT_PX = 400, 225
_JPEG_QUALITY = 85
_DPI = 100
_COLUMNS, _ROWS = 4, 10
_MARGIN_PX, _GAP_PX, _HEAD_PX, _CAPTION_PX = 28, 20, 84, 76
_INK, _FAINT, _PAPER, _BOX = "#24312c", "#6a7671", "#fbfaf6", "#1c2421"
_SCORE, _CATEGORY = "#8a5a00", "#2f5d50"
_FONT = "DejaVu Sans"


@dataclass(frozen=True)
class Picture:
    """What one highlight looks like.

    scored, index, highlight: which one; index from 1 in its video
    jpeg:                     its picture, at most PICTURE_WIDTH_PX x PICTURE_HEIGHT_PX; empty where none can be had
    """

    scored: Scored
    index: int
    highlight: Highlight
    jpeg: bytes

    @property
    def data_uri(self) -> str:
        """The picture as a data URI, "" where there is none."""
        return "data:image/jpeg;base64," + base64.b64encode(self.jpeg).decode() if self.jpeg else ""


def take_picture(item: Handoff, index: int, highlight: Highlight) -> Picture:
    """Return `highlight` at its highest score. Raises VideoError where the video cannot be read there."""
    time_s = peak_time_s(item.scored.track, Span(highlight.start_s, highlight.end_s))
    pixels = picture_at(item.media, time_s, PICTURE_WIDTH_PX, PICTURE_HEIGHT_PX)
    jpeg = io.BytesIO()
    Image.fromarray(pixels).save(jpeg, "JPEG", quality=_JPEG_QUALITY)
    return Picture(item.scored, index, highlight, jpeg.getvalue())


def show_span(highlight: Highlight) -> str:
    """Return the times of `highlight` for people: 0:03.5 to 0:05.2 (1.7 s)."""
    start, end = format_time(highlight.start_s, tenths=True), format_time(highlight.end_s, tenths=True)
    return f"{start} \u2013 {end}  ({highlight.duration_s:.1f} s)"


def num_sheets(num_pictures: int) -> int:
    """Return how many contact sheets hold `num_pictures`, at least 1."""
    return max(1, -(-num_pictures // (_COLUMNS * _ROWS)))


def write_contact_sheet(path: Path, pictures: Sequence[Picture], *, sheet: int = 0) -> None:
    """Write sheet number `sheet` (from 0) of `pictures` to `path` as PNG; without a picture it says so."""
    per_sheet = _COLUMNS * _ROWS
    shown = pictures[sheet * per_sheet : (sheet + 1) * per_sheet]
    rows = max(1, -(-len(shown) // _COLUMNS))
    width = 2 * _MARGIN_PX + _COLUMNS * PICTURE_WIDTH_PX + (_COLUMNS - 1) * _GAP_PX
    row_px = PICTURE_HEIGHT_PX + _CAPTION_PX
    height = _HEAD_PX + (rows * (row_px + _GAP_PX) if shown else 60) + _MARGIN_PX
    figure = Figure((width / _DPI, height / _DPI), dpi=_DPI, facecolor=_PAPER)
    FigureCanvasAgg(figure)
    _write(figure, _MARGIN_PX, 50, headline(pictures), size=17, weight="bold", color=_INK)
    if num_sheets(len(pictures)) > 1:
        place = f"sheet {sheet + 1} of {num_sheets(len(pictures))}"
        _write(figure, width - _MARGIN_PX, 50, place, size=12, color=_FAINT, ha="right")
    for number, picture in enumerate(shown):
        row, column = divmod(number, _COLUMNS)
        left = _MARGIN_PX + column * (PICTURE_WIDTH_PX + _GAP_PX)
        _draw(figure, left, _HEAD_PX + row * (row_px + _GAP_PX), picture)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})


def headline(pictures: Sequence[Picture]) -> str:
    """Return how many highlights there are, of how many videos, and how long they are together."""
    if not pictures:
        return "No highlights: nothing in these videos reaches its threshold"
    videos = len({picture.scored.stem for picture in pictures})
    total = format_time(sum(picture.highlight.duration_s for picture in pictures), tenths=True)
    many = "highlight" if len(pictures) == 1 else "highlights"
    return f"{len(pictures)} {many} from {videos} {'video' if videos == 1 else 'videos'}, {total} in all"


def _draw(figure: Figure, left: int, top: int, picture: Picture) -> None:
    """Draw one picture in its box, upper left corner at (left, top) px, with three lines below it."""
    width, height = figure.get_size_inches() * _DPI
    box = Rectangle(
        (left / width, 1 - (top + PICTURE_HEIGHT_PX) / height),
        PICTURE_WIDTH_PX / width,
        PICTURE_HEIGHT_PX / height,
        facecolor=_BOX,
        transform=figure.transFigure,
        zorder=0,
    )
    figure.add_artist(box)
    if picture.jpeg:
        pixels = np.asarray(Image.open(io.BytesIO(picture.jpeg)))
        x = left + (PICTURE_WIDTH_PX - pixels.shape[1]) // 2
        y = top + (PICTURE_HEIGHT_PX - pixels.shape[0]) // 2
        figure.figimage(pixels, x, round(height - y - pixels.shape[0]), origin="upper", zorder=1)
    else:
        middle = (left + PICTURE_WIDTH_PX // 2, top + PICTURE_HEIGHT_PX // 2)
        _write(figure, *middle, "no picture of this moment", size=11, color="#cfd6d2", ha="center")
    below = top + PICTURE_HEIGHT_PX
    name = _write(figure, left, below + 23, "", size=11.5, weight="bold", color=_INK)
    for max_length in range(60, 4, -4):
        name.set_text(f"{showable(picture.scored.video, weight='bold', max_length=max_length)}  #{picture.index}")
        if name.get_window_extent().width <= PICTURE_WIDTH_PX:
            break
    _write(figure, left, below + 45, show_span(picture.highlight), size=11.5, color=_INK)
    highlight = picture.highlight
    if highlight.score is not None:
        _write(figure, left, below + 67, f"score {highlight.score:.2f}", size=11.5, weight="bold", color=_SCORE)
    if highlight.category is not None:
        sure = highlight.category_probability
        text = showable(highlight.category, max_length=24) + ("" if sure is None else f" {sure:.0%}")
        _write(figure, left + 110, below + 67, text, size=11.5, color=_CATEGORY)


def _write(figure: Figure, x: float, y: float, text: str, **style: object) -> Text:
    """Return `text`, written with its baseline at (x, y) px from the upper left corner."""
    width, height = figure.get_size_inches() * _DPI
    return figure.text(x / width, 1 - y / height, text, **{"family": _FONT, "parse_math": False, **style})  # type: ignore[arg-type]
