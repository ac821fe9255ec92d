"""The timeline picture of one scored video, for people who cut films.

From top to bottom: title, the score over time with its threshold and the highlights shaded and labelled, and a strip
of frames under their times. Knows nothing of files but the PNG that it writes, and nothing of models. Uses
matplotlib's objects only, no pyplot: no global state, no display, the same bytes for the same input.
"""

import functools
import itertools
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, fontManager, get_font
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MultipleLocator

from models.spans import ScoreTrack, Span, total_duration_s
from tasks.thumbnails import Thumbnail, peak_time_s

# The picture, in inches at _DPI: 1600 x 560 px.
_DPI = 100
_WIDTH_IN, _HEIGHT_IN = 16.0, 5.6
_LEFT_IN, _RIGHT_IN = 0.75, 0.35
_CURVE_BOTTOM_IN, _CURVE_HEIGHT_IN = 2.1, 2.45
_STRIP_BOTTOM_IN, _STRIP_HEIGHT_IN = 0.42, 1.2
_STRIP_GAP_IN = 0.06
_MAX_THUMBNAILS = 12
_PLOT_WIDTH_IN = _WIDTH_IN - _LEFT_IN - _RIGHT_IN
# More points than pixels only blur; each column of pixels keeps its lowest and highest score.
_MAX_COLUMNS = int(_PLOT_WIDTH_IN * _DPI)
_MAX_TICKS = 13
_TICK_STEPS_S = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200)
_FONT = "DejaVu Sans"  # ships with matplotlib
# Where one of these is installed, names in Chinese, Japanese or Korean, or with emoji, are drawn in it.
_MORE_FONTS = (
    *("Noto Sans CJK JP", "Noto Sans CJK SC", "Noto Sans CJK KR", "Noto Sans JP", "Noto Sans SC", "Source Han Sans JP"),
    *("WenQuanYi Zen Hei", "WenQuanYi Micro Hei", "Hiragino Sans", "PingFang SC", "Microsoft YaHei", "Yu Gothic"),
    *("Malgun Gothic", "Arial Unicode MS", "Unifont", "Noto Emoji", "Symbola", "Segoe UI Symbol"),
)
_INK, _FAINT, _PAPER = "#24312c", "#7b8781", "#fbfaf6"
_CURVE, _LIMIT, _SPAN, _SPAN_TEXT = "#2f5d50", "#b0482f", "#e0a030", "#8a5a00"


def format_time(seconds: float, *, tenths: bool = False) -> str:
    """Return `seconds` as m:ss, or h:mm:ss from an hour on; with `tenths`, one decimal."""
    units = round(seconds * 10) if tenths else round(seconds) * 10
    minutes, rest = divmod(units, 600)
    hours, minutes = divmod(minutes, 60)
    text = f"{rest / 10:04.1f}" if tenths else f"{rest // 10:02d}"
    return f"{hours}:{minutes:02d}:{text}" if hours else f"{minutes:02d}:{text}"


def num_thumbnails(aspect: float) -> int:
    """Return how many thumbnails of `aspect` (width over height) are shown side by side, at least 3."""
    width_in = _STRIP_HEIGHT_IN * min(max(aspect, 0.3), 4.0)
    return min(_MAX_THUMBNAILS, int((_PLOT_WIDTH_IN + _STRIP_GAP_IN) / (width_in + _STRIP_GAP_IN)))


def draw_timeline(
    path: Path,
    name: str,
    track: ScoreTrack,
    spans: Sequence[Span],
    threshold: float,
    thumbnails: Sequence[Thumbnail],
) -> None:
    """Write the timeline of one video to `path` as PNG.

    name:       of the video, for the title
    threshold:  score from which a frame is a highlight, 0 to 1
    thumbnails: frames to show, in order of time
    """
    figure = Figure((_WIDTH_IN, _HEIGHT_IN), dpi=_DPI, facecolor=_PAPER)
    FigureCanvasAgg(figure)
    curve = figure.add_axes(_place(_LEFT_IN, _CURVE_BOTTOM_IN, _PLOT_WIDTH_IN, _CURVE_HEIGHT_IN))
    _draw_title(figure, name, track, spans)
    _draw_curve(curve, track, spans, threshold)
    _draw_labels(curve, track, spans)
    _draw_strip(figure, track, spans, thumbnails)
    figure.savefig(path, format="png", metadata={"Software": None})


def _place(left_in: float, bottom_in: float, width_in: float, height_in: float) -> tuple[float, float, float, float]:
    """Return a rectangle in inches as matplotlib's fractions of the figure."""
    return left_in / _WIDTH_IN, bottom_in / _HEIGHT_IN, width_in / _WIDTH_IN, height_in / _HEIGHT_IN


@functools.cache
def _title_fonts() -> list[str]:
    """Return the families that a name may be drawn in: matplotlib's own, then what else is installed."""
    installed = {entry.name for entry in fontManager.ttflist}
    return [_FONT, *(name for name in _MORE_FONTS if name in installed)]


@functools.cache
def _has_glyph(character: str, weight: str) -> bool:
    fonts = (get_font(findfont(FontProperties(family=name, weight=weight))) for name in _title_fonts())
    return any(font.get_char_index(ord(character)) for font in fonts)


def _spell(character: str) -> str:
    """Return a character that no font has in readable words: the name of a symbol, the code of any other."""
    name = unicodedata.name(character, "").lower()
    return f"[{name}]" if unicodedata.category(character) == "So" and name else f"[U+{ord(character):04X}]"


def showable(text: str, *, weight: str = "normal", max_length: int = 90) -> str:
    """Return `text` in glyphs that a font has, others spelt out in brackets, and cut in its middle where too long."""
    shown = "".join(char if char.isprintable() and _has_glyph(char, weight) else _spell(char) for char in text)
    if len(shown) <= max_length:
        return shown
    head = (max_length - 1) // 2
    return f"{shown[:head]}\u2026{shown[head + 1 - max_length :]}"


def summarise(duration_s: float, spans: Sequence[Span]) -> str:
    """Return 'N highlights, X of Y s', from a minute on with the same as times."""
    inside_s = total_duration_s(spans)
    decimals = 2 if duration_s < 1 else 1 if duration_s < 60 else 0
    noun = "highlight" if len(spans) == 1 else "highlights"
    text = f"{len(spans) or 'no'} {noun}, {inside_s:.{decimals}f} of {duration_s:.{decimals}f} s"
    return text if duration_s < 60 else f"{text} ({format_time(inside_s)} of {format_time(duration_s)})"


def _draw_title(figure: Figure, name: str, track: ScoreTrack, spans: Sequence[Span]) -> None:
    top = (_HEIGHT_IN - 0.4) / _HEIGHT_IN
    left, right = _LEFT_IN / _WIDTH_IN, 1 - _RIGHT_IN / _WIDTH_IN
    style: dict[str, Any] = {"family": _title_fonts(), "parse_math": False, "va": "baseline", "color": _INK}
    summary = figure.text(right, top, summarise(track.duration_s, spans), size=13, ha="right", **style)
    title = figure.text(left, top, showable(name, weight="bold"), size=15, weight="bold", ha="left", **style)
    room_px = summary.get_window_extent().x0 - 20
    while title.get_window_extent().x1 > room_px and len(title.get_text()) > 8:
        title.set_text(showable(name, weight="bold", max_length=len(title.get_text()) * 4 // 5))


def curve_points(
    track: ScoreTrack, max_columns: int = _MAX_COLUMNS
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return x (seconds) and y (score) of the curve, each frame's score held until the next frame.

    With more frames than `max_columns`, each of that many equal stretches gives its lowest and highest score in the
    order in which they come, so that no peak is lost.
    """
    times_s, scores = track.times_s, track.scores.astype(np.float64)
    if len(times_s) > max_columns:
        column = np.minimum((times_s / track.duration_s * max_columns).astype(int), max_columns - 1)
        starts = np.flatnonzero(np.diff(column, prepend=-1))
        keep: set[int] = set()
        for start, end in itertools.pairwise([*starts.tolist(), len(scores)]):
            keep |= {start + int(np.argmin(scores[start:end])), start + int(np.argmax(scores[start:end]))}
        kept = np.array(sorted(keep))
        times_s, scores = times_s[kept], scores[kept]
    return np.append(times_s, track.duration_s), np.append(scores, scores[-1])


def _draw_curve(axes: Axes, track: ScoreTrack, spans: Sequence[Span], threshold: float) -> None:
    x, y = curve_points(track)
    axes.set_facecolor("white")
    least_s = 2 * track.duration_s / _MAX_COLUMNS  # 2 px: also the shortest span of a long night is seen
    for span in spans:
        end_s = max(span.end_s, span.start_s + least_s)
        axes.axvspan(span.start_s, end_s, color=_SPAN, alpha=0.28, linewidth=0, zorder=1)
    axes.fill_between(x, y, step="post", color=_CURVE, alpha=0.16, linewidth=0, zorder=2)
    thickness = 1.6 if len(track.times_s) < _MAX_COLUMNS / 2 else 0.7
    axes.step(x, y, where="post", color=_CURVE, linewidth=thickness, solid_joinstyle="round", zorder=3)
    axes.axhline(threshold, color=_LIMIT, linewidth=1.1, linestyle=(0, (6, 3)), zorder=4)
    axes.annotate(
        f"threshold {threshold:.2f}",
        (1, threshold),
        (-6, 4 if threshold < 0.9 else -12),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 1},
        **_text(_LIMIT, ha="right", zorder=5),
    )
    _draw_axes(axes, track.duration_s)


def _text(color: str, **more: Any) -> dict[str, Any]:
    """Return the style of small text."""
    return {"size": 9, "family": _FONT, "color": color, **more}


def _draw_axes(axes: Axes, duration_s: float) -> None:
    axes.set_xlim(0, duration_s)
    axes.set_ylim(0, 1.02)
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0", "", "0.5", "", "1"])
    axes.set_ylabel("highlight score", size=10, color=_FAINT, family=_FONT)
    step_s = next((s for s in _TICK_STEPS_S if duration_s / s < _MAX_TICKS), _TICK_STEPS_S[-1])
    if duration_s >= 4 * _TICK_STEPS_S[0]:
        axes.xaxis.set_major_locator(MultipleLocator(step_s))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda s, _: format_time(s, tenths=step_s < 1)))
    else:
        axes.set_xticks([0], [format_time(0)])
    axes.grid(axis="y", color=_FAINT, alpha=0.2, linewidth=0.7, zorder=0)
    axes.tick_params(colors=_FAINT, labelsize=9, length=3, labelfontfamily=_FONT)
    for label in axes.get_xticklabels():  # the lines to the thumbnails pass behind
        label.set_bbox({"facecolor": _PAPER, "edgecolor": "none", "pad": 1.5})
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(_FAINT)


def _draw_labels(axes: Axes, track: ScoreTrack, spans: Sequence[Span]) -> None:
    """Write start and end above each span, the best first; one without room goes up a row or is left out."""
    per_in = track.duration_s / _PLOT_WIDTH_IN
    rows: tuple[list[tuple[float, float]], ...] = ([], [])
    tenths = track.duration_s < 60
    for span in sorted(spans, key=lambda span: (-(span.score or 0.0), span.start_s)):
        label = f"{format_time(span.start_s, tenths=tenths)}\u2013{format_time(span.end_s, tenths=tenths)}"
        half_s = 0.041 * len(label) * per_in
        centre_s = min(max((span.start_s + span.end_s) / 2, half_s), track.duration_s - half_s)
        for row, placed in enumerate(rows):
            if all(abs(centre_s - other_s) >= half_s + other_half_s for other_s, other_half_s in placed):
                placed.append((centre_s, half_s))
                axes.annotate(
                    label,
                    (centre_s, 1),
                    (0, 5 + 13 * row),
                    xycoords=("data", "axes fraction"),
                    textcoords="offset points",
                    **_text(_SPAN_TEXT, ha="center", weight="bold"),
                )
                break


def spread(centres: Sequence[float], width: float, low: float, high: float) -> list[float]:
    """Return `centres` (ascending) moved as little as needed for boxes of `width` to lie apart within [low, high]."""
    placed = [min(max(centre, low + width / 2), high - width / 2) for centre in centres]
    for i in range(1, len(placed)):
        placed[i] = max(placed[i], placed[i - 1] + width)
    if placed and placed[-1] > high - width / 2:
        placed[-1] = high - width / 2
        for i in range(len(placed) - 2, -1, -1):
            placed[i] = min(placed[i], placed[i + 1] - width)
    return placed


def _draw_strip(figure: Figure, track: ScoreTrack, spans: Sequence[Span], thumbnails: Sequence[Thumbnail]) -> None:
    """Place the thumbnails under their times, side by side where those are close, each with a line to its time."""
    if not thumbnails:
        return
    height, width = thumbnails[0].pixels.shape[:2]
    most = num_thumbnails(width / height)
    if len(thumbnails) > most:
        thumbnails = [thumbnails[i] for i in np.linspace(0, len(thumbnails) - 1, most).round().astype(int)]
    width_in = _STRIP_HEIGHT_IN * min(max(width / height, 0.3), 4.0)
    peaks = {peak_time_s(track, span) for span in spans}
    wanted_in = [_LEFT_IN + shot.time_s / track.duration_s * _PLOT_WIDTH_IN for shot in thumbnails]
    centres_in = spread(wanted_in, width_in + _STRIP_GAP_IN, _LEFT_IN, _LEFT_IN + _PLOT_WIDTH_IN)
    for shot, centre_in, wanted in zip(thumbnails, centres_in, wanted_in, strict=True):
        inside = any(span.start_s <= shot.time_s < span.end_s for span in spans)
        color = _SPAN if inside else _FAINT
        axes = figure.add_axes(_place(centre_in - width_in / 2, _STRIP_BOTTOM_IN, width_in, _STRIP_HEIGHT_IN))
        axes.imshow(shot.pixels, interpolation="lanczos", aspect="equal")
        axes.set_anchor("N")
        axes.set_xticks([])
        axes.set_yticks([])
        for spine in axes.spines.values():
            spine.set_color(color)
            spine.set_linewidth(2.2 if inside else 0.8)
        label = format_time(shot.time_s, tenths=track.duration_s < 60)
        weight = "bold" if shot.time_s in peaks else "normal"
        axes.set_xlabel(label, labelpad=4, **_text(_SPAN_TEXT if inside else _FAINT, weight=weight))
        figure.add_artist(_leader(wanted, centre_in, color))


def _leader(wanted_in: float, centre_in: float, color: str) -> Line2D:
    """Return the line from a time on the axis of the curve to the thumbnail that shows it."""
    strip_top_in = _STRIP_BOTTOM_IN + _STRIP_HEIGHT_IN
    x = [wanted_in, wanted_in, centre_in, centre_in]
    y = [_CURVE_BOTTOM_IN, _CURVE_BOTTOM_IN - 0.26, strip_top_in + 0.08, strip_top_in]
    return Line2D([v / _WIDTH_IN for v in x], [v / _HEIGHT_IN for v in y], color=color, linewidth=1.0, zorder=0)
