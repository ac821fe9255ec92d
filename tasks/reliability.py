"""Drawing how far scores are probabilities: one picture for people and one table for `dvc plots`.

Knows the reliability of a model and the look of the other pictures of the evaluation; computes no figure of its own.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from models.files import replacing, write_text
from models.reliability import Reliability, ReliabilityPair, shares
from tasks.pictures import BLUE, FAINT, GREY, INK, VERMILION

# A bin of fewer frames says little; its dot is drawn small, never left out.
_SMALLEST_DOT, _LARGEST_DOT = 12.0, 260.0


def write_reliability(plots: Path, pictures: Path, pair: ReliabilityPair) -> None:
    """Write plots/reliability.csv, the source of `dvc plots`, and pictures/reliability.png."""
    write_text(plots / "reliability.csv", reliability_table(pair).to_csv(index=False, float_format="%.6g"))
    with replacing(pictures / "reliability.png") as temporary:
        draw_reliability(pair).savefig(temporary, dpi=150, facecolor="white", metadata={"Software": None})


def reliability_table(pair: ReliabilityPair) -> pd.DataFrame:
    """Return a row for each bin: score (its middle), ideal, share and frames after and, where known, before."""
    middles = np.array([(one.low + one.high) / 2 for one in pair.after.bins])
    columns: dict[str, object] = {"score": middles, "ideal": middles}
    for word, reliability in (("before", pair.before), ("after", pair.after)):
        if reliability is not None:
            columns[word] = shares(reliability.bins)
            columns[f"frames_{word}"] = [one.num_frames for one in reliability.bins]
    return pd.DataFrame(columns)


def draw_reliability(pair: ReliabilityPair) -> Figure:
    """Return the reliability plot: share of highlights against score, and below it how many frames say so."""
    figure = Figure(figsize=(7.2, 5.4))
    figure.text(0.02, 0.968, "Does a score of 70 % mean 70 %?", fontsize=16, weight="bold", color=INK, va="top")
    figure.text(
        0.02, 0.895, "On the diagonal a score is what it says. A larger dot stands for more test frames.",
        fontsize=10.5, color=GREY, va="top",
    )  # fmt: skip
    curve = figure.add_axes((0.13, 0.33, 0.84, 0.5))
    counts = figure.add_axes((0.13, 0.115, 0.84, 0.15), sharex=curve)
    curve.plot([0, 1], [0, 1], color=INK, lw=1, ls=(0, (1, 3)), zorder=1)
    curve.text(0.03, 0.74, "above the diagonal: more\nhighlights than it says", color=GREY, fontsize=9, va="top")
    curve.text(0.985, 0.03, "below the diagonal: fewer\nhighlights than it says", color=GREY, fontsize=9, ha="right")
    drawn = [("after calibration, as served", pair.after, VERMILION, 4)]
    if pair.before is not None:
        drawn.insert(0, ("before calibration", pair.before, BLUE, 3))
    width = (pair.after.bins[0].high - pair.after.bins[0].low) / (len(drawn) + 0.4)
    for place, (words, reliability, colour, order) in enumerate(drawn):
        _draw_one(curve, reliability, colour, order, is_last=place == len(drawn) - 1)
        left = np.array([one.low for one in reliability.bins]) + (0.2 + place) * width
        counts.bar(left, [one.num_frames for one in reliability.bins], width, align="edge", color=colour, zorder=3)
        ece = "undefined" if np.isnan(reliability.ece) else f"{reliability.ece:.3f}"
        figure.text(
            0.15, 0.815 - 0.042 * place, f"\N{BLACK CIRCLE} {words}: calibration error {ece}", color=colour,
            fontsize=10, weight="bold" if place == len(drawn) - 1 else "normal", va="top",
        )  # fmt: skip
    curve.set(xlim=(0, 1), ylim=(-0.02, 1.02))
    curve.set_ylabel("Share that really is a highlight", color=INK)
    counts.set_ylabel("Frames", color=INK)
    counts.set_xlabel("Score of the frame: what the model says", color=INK)
    for axes in (curve, counts):
        axes.grid(color=FAINT, lw=0.6, zorder=0)
        axes.tick_params(labelsize=9, color=FAINT, labelcolor=INK)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        for side in ("left", "bottom"):
            axes.spines[side].set_color(FAINT)
    curve.tick_params(labelbottom=False)
    curve.yaxis.set_major_formatter(lambda value, _position: f"{value:.0%}")
    counts.xaxis.set_major_formatter(lambda value, _position: f"{value:.0%}")
    return figure


def _draw_one(axes: Axes, reliability: Reliability, colour: str, order: int, *, is_last: bool) -> None:
    full = [one for one in reliability.bins if one.num_frames]
    x = [one.mean_score or 0.0 for one in full]
    y = [one.num_highlights / one.num_frames for one in full]
    most = max((one.num_frames for one in full), default=1)
    sizes = [_SMALLEST_DOT + (_LARGEST_DOT - _SMALLEST_DOT) * one.num_frames / most for one in full]
    axes.plot(x, y, color=colour, lw=1.8 if is_last else 1.2, ls="-" if is_last else "--", zorder=order)
    face = colour if is_last else "white"
    axes.scatter(x, y, s=sizes, facecolor=face, edgecolor=colour, lw=1.4, alpha=0.85, zorder=order + 2, clip_on=False)
