"""Drawing the ladder: how good each rung is against how fast it is and against the energy it needs.

Both panels are turned so that up and right is better. A rung that another beats in both ways is pale; the ones in
front (the Pareto front) are joined by a line; the chosen one is ringed. The bar through a point is the interval of its
paired F1 difference: what reaches below the floor is not allowed. Knows rows and a decision and computes no
figure of its own. Colours as in `tasks.pictures`.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from models.files import replacing
from models.ladder import REFERENCE, Decision, Figures, RungResult, pareto_front
from tasks.pictures import BLUE, FAINT, GREY, INK, VERMILION, style_axes

_PALE = "#B4BDC8"
_LOSS = "#FBEDE6"
_POINT = 1 / 72  # inch
_HALO = withStroke(linewidth=2.5, foreground="white")
# How far above its point a label may stand, 1/72 inch; the first place that is free is taken.
_OFFSETS = tuple(up * sign for up in (13, 26, 39, 52, 65) for sign in (1, -1))
Box = tuple[float, float, float, float]
_Placed = tuple[RungResult, float, float]


def write_ladder_picture(path: Path, rows: Sequence[RungResult], decision: Decision) -> None:
    """Write the picture as PNG."""
    with replacing(path) as temporary:
        draw_ladder(rows, decision).savefig(
            temporary, format="png", dpi=150, facecolor="white", metadata={"Software": None}
        )


def draw_ladder(rows: Sequence[RungResult], decision: Decision) -> Figure:
    """Return both panels; a rung without a figure is in neither, and how many there are is said below."""
    figure = Figure(figsize=(12.6, 6.0))
    figure.text(
        0.02, 0.965, "Which version of the model should serve?", fontsize=17, weight="bold", color=INK, va="top"
    )
    figure.text(0.02, 0.898, _subtitle(rows, decision), fontsize=11, color=GREY, va="top")
    left = figure.add_axes((0.065, 0.2, 0.425, 0.6))
    right = figure.add_axes((0.56, 0.2, 0.425, 0.6))
    _panel(left, rows, decision, lambda found: found.best.frames_per_s, larger_is_better=True)
    _panel(right, rows, decision, _watt_hours, larger_is_better=False)
    for axes in (left, right):
        axes.set_ylabel("Quality: F1 on the test videos", fontsize=11)
    left.set_xlabel("Speed: frames a second (faster to the right)", fontsize=11)
    right.set_xlabel("Energy: watt-hours for 1,000 frames (less to the right)", fontsize=11)
    _key(figure)
    missing = [row for row in rows if row.figures is None]
    if missing:
        told = ", ".join(f"{row.rung.name} ({row.status.replace('_', ' ')})" for row in missing)
        figure.text(0.02, 0.02, f"Not in the picture: {told}", fontsize=9, color=GREY, va="bottom")
    return figure


def _subtitle(rows: Sequence[RungResult], decision: Decision) -> str:
    by_name = {row.rung.name: row.figures for row in rows}
    chosen, reference = by_name[decision.chosen], by_name[REFERENCE.name]
    if chosen is None or reference is None or decision.chosen == REFERENCE.name:
        return f"Chosen: {decision.chosen}, the model as it was trained. Nothing else is surely as good and faster."
    faster = chosen.best.frames_per_s / reference.best.frames_per_s
    change = chosen.f1_difference.value
    quality = "the same" if abs(change) < 5e-4 else f"{abs(change):.3f} {'higher' if change > 0 else 'lower'}"
    return f"Chosen: {decision.chosen}. It is {faster:.1f} times as fast as the original, and its F1 is {quality}."


def _watt_hours(found: Figures) -> float:
    return math.nan if found.kwh_per_1000 is None else found.kwh_per_1000 * 1e3


def _panel(
    axes: Axes,
    rows: Sequence[RungResult],
    decision: Decision,
    figure_of: Callable[[Figures], float],
    *,
    larger_is_better: bool,
) -> None:
    points = [
        (row, figure_of(row.figures), row.figures.f1.value)
        for row in rows
        if row.figures is not None and figure_of(row.figures) > 0 and math.isfinite(row.figures.f1.value)
    ]
    _style(axes)
    if not points:
        axes.text(0.5, 0.5, "not measured here", transform=axes.transAxes, ha="center", color=GREY, fontsize=12)
        axes.set(xticks=[], yticks=[])
        return
    _limits(axes, points, decision, larger_is_better)
    sign = 1 if larger_is_better else -1
    front = [points[place] for place in pareto_front([(sign * x, y) for _, x, y in points])]
    axes.plot(*_line(front), color=BLUE, lw=2, alpha=0.6, zorder=2)
    taken: list[Box] = []
    # The chosen one gets its label first, then the front, so that they stand next to their points.
    for point in sorted(points, key=lambda point: (point[0].rung.name != decision.chosen, point not in front)):
        row, x, y = point
        is_chosen = row.rung.name == decision.chosen
        is_reference = row.rung == REFERENCE
        colour = VERMILION if is_chosen else INK if is_reference else BLUE if point in front else _PALE
        marker = "D" if is_reference else "o"
        if not is_reference:
            axes.plot([x, x], _interval(points, row), color=colour, lw=1.6, alpha=0.55, zorder=3, solid_capstyle="butt")
        axes.plot(x, y, marker=marker, ms=9, mfc=colour, mec="white", mew=1, zorder=7 if is_chosen else 5, ls="none")
        if is_chosen:
            axes.plot(x, y, marker="o", ms=19, mfc="none", mec=VERMILION, mew=2, zorder=6, ls="none")
        ink = VERMILION if is_chosen else INK if is_reference or point in front else "#8792A0"
        _label(axes, points, point, taken, ink, is_chosen)


def _style(axes: Axes) -> None:
    style_axes(axes)
    axes.grid(color=FAINT, lw=0.6, zorder=0)
    axes.set_axisbelow(True)


def _limits(axes: Axes, points: Sequence[_Placed], decision: Decision, larger_is_better: bool) -> None:
    """Set the scales, and shade what lies further below the reference than is allowed."""
    xs, ys = [x for _, x, _ in points], [y for *_, y in points]
    ys += [end for row, *_ in points for end in _interval(points, row)]
    reference = next((y for row, _, y in points if row.rung == REFERENCE), max(ys))
    floor = reference - decision.max_f1_drop
    low, high = min(*ys, floor), max(*ys, reference)
    room = max(0.35 * (high - low), 0.01)
    axes.set_ylim(low - room, min(high + room, 1 + room / 2))
    axes.set_xscale("log")
    left, right = min(xs) / 1.6, max(xs) * 1.6
    axes.set_xlim((left, right) if larger_is_better else (right, left))
    axes.xaxis.set_major_locator(LogLocator(10, subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _place: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.axhspan(low - room, floor, color=_LOSS, zorder=0, lw=0)
    axes.text(
        0.985, 0.02, "a bar that reaches down here may lose more than is allowed", transform=axes.transAxes,
        ha="right", va="bottom", fontsize=9, color="#A4532B", zorder=1,
    )  # fmt: skip


def _interval(points: Sequence[_Placed], row: RungResult) -> tuple[float, float]:
    """Return the interval of the F1 difference, placed at the reference's F1; the F1 itself where there is none."""
    assert row.figures is not None
    reference = next((y for other, _, y in points if other.rung == REFERENCE), math.nan)
    low, high = reference + row.figures.f1_difference.low, reference + row.figures.f1_difference.high
    return (low, high) if math.isfinite(low) and math.isfinite(high) else (row.figures.f1.value,) * 2


def _line(front: Sequence[_Placed]) -> tuple[list[float], list[float]]:
    ordered = sorted(front, key=lambda point: (point[1], point[2]))
    return [x for _, x, _ in ordered], [y for *_, y in ordered]


def _label(axes: Axes, points: Sequence[_Placed], point: _Placed, taken: list[Box], colour: str, is_bold: bool) -> None:
    """Write the name beside its point where no other name or point is, and remember the place in `taken`."""
    row, x, y = point
    at = _in_points(axes, x, y)
    width, height = 6.4 * len(row.rung.name) * (1.18 if is_bold else 1), 12.0
    aside = _inwards(axes, at[0], width)
    others = [_in_points(axes, *other[1:]) for other in points]
    dots = [(px - 7, py - 7, px + 7, py + 7) for px, py in others]
    for other in points:
        ends = [_in_points(axes, other[1], end) for end in _interval(points, other[0])]
        dots.append((ends[0][0] - 1, ends[0][1], ends[1][0] + 1, ends[1][1]))
    for up in _OFFSETS:
        middle = at[0] + aside, at[1] + up
        box = (middle[0] - width / 2, middle[1] - height / 2, middle[0] + width / 2, middle[1] + height / 2)
        if not any(_overlap(box, other) for other in [*taken, *dots]):
            break
    taken.append(box)
    far = abs(up) > 13
    axes.annotate(
        row.rung.name, (x, y), (aside, up + (6 if is_bold and up > 0 else -6 if is_bold else 0)),
        textcoords="offset points", ha="center", va="center", fontsize=10.5 if is_bold else 10,
        weight="bold" if is_bold else "normal", color=colour, zorder=8, path_effects=[_HALO],
        arrowprops={"arrowstyle": "-", "color": _PALE, "lw": 0.7, "shrinkA": 0, "shrinkB": 5} if far else None,
    )  # fmt: skip


def _in_points(axes: Axes, x: float, y: float) -> tuple[float, float]:
    """Return where a point lies in units of 1/72 inch."""
    pixels = axes.transData.transform((x, y))
    scale = axes.get_figure(root=True).dpi * _POINT  # type: ignore[union-attr]
    return float(pixels[0] / scale), float(pixels[1] / scale)


def _inwards(axes: Axes, at: float, width: float) -> float:
    """Return how far a label of `width` must move from the middle `at` to stay inside the panel, 1/72 inch."""
    left, right = sorted(_in_points(axes, x, 1)[0] for x in axes.get_xlim())
    return max(left - (at - width / 2), 0.0) - max(at + width / 2 - right, 0.0)


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _key(figure: Figure) -> None:
    keys = figure.add_axes((0.02, 0.055, 0.96, 0.05))
    keys.set_axis_off()
    keys.set(xlim=(0, 1), ylim=(0, 1))
    entries = (
        (0.01, VERMILION, "o", "chosen"),
        (0.13, INK, "D", "the model as trained"),
        (0.32, BLUE, "o", "in front: nothing is better in both ways"),
        (0.67, _PALE, "o", "something else is better in both ways"),
    )
    for x, colour, marker, text in entries:
        keys.plot(x, 0.5, marker=marker, ms=8, color=colour, ls="none")
        if text == "chosen":
            keys.plot(x, 0.5, marker="o", ms=15, mfc="none", mec=colour, mew=1.6)
        keys.text(x + 0.016, 0.5, text, fontsize=10, color=INK, va="center")
