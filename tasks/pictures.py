"""Drawing the evaluation: three pictures for people and three tables for `dvc plots`.

Colours are Okabe and Ito's ("Color Universal Design", 2008), which people with any colour vision can tell apart; line
styles differ too, so that grey prints still read. Knows frame tables and the evaluation; computes no figure of its
own. Uses matplotlib's object interface only, so nothing global is touched.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from models.evaluation import MODEL_NAMES, SERVED, Estimate, Evaluation, Row
from models.files import replacing, write_text
from models.metrics import PrecisionRecall, precision_recall_curve, score_histogram

PLAIN_NAMES: Mapping[str, str] = {
    "zero_shot": "Zero-shot prompts",
    "fine_tuned": "Fine-tuned",
    "pruned": "Pruned",
    "compiled": "Compiled (served)",
    "all_positive": "Flag every frame",
    "random": "Flag at random",
    "uniform": "Flag every k-th frame",
}
BLUE, GREEN, ORANGE, VERMILION, GREY = "#0072B2", "#009E73", "#E69F00", "#D55E00", "#6B7280"
INK, FAINT = "#1F2933", "#D5DAE0"
# Curves of the last three rungs often coincide: the wide one lies below, the broken ones on top of it.
_LINES: Mapping[str, tuple[str, float, str, int]] = {
    "zero_shot": (GREY, 1.6, "-", 2),
    "compiled": (VERMILION, 4.5, "-", 3),
    "pruned": (GREEN, 2.0, "--", 4),
    "fine_tuned": (BLUE, 1.8, ":", 5),
}
_NUM_RECALLS = 101
_NUM_BINS = 20


def write_plots(folder: Path, evaluation: Evaluation, tables: Mapping[str, pd.DataFrame]) -> None:
    """Write pr_curve.csv, confusion.csv and scores.csv, the sources of `dvc plots`.

    pr_curve.csv:  recall on a grid, and the precision of each model there
    confusion.csv: actual and predicted, one line a test frame of the compiled engine
    scores.csv:    middle of each score bin, frames that are highlights and others, of the compiled engine
    """
    recalls = np.linspace(0, 1, _NUM_RECALLS)
    curves = {
        name: _precision_at(_curve(tables[name]), recalls) if name in tables else np.full(_NUM_RECALLS, np.nan)
        for name in MODEL_NAMES
    }
    write_text(folder / "pr_curve.csv", _csv(pd.DataFrame({"recall": recalls, **curves})))
    test = _test(tables[SERVED])
    flagged = test["score"] >= _threshold(evaluation)
    words = {True: "highlight", False: "other"}
    confusion = pd.DataFrame({"actual": test["label"].astype(bool).map(words), "predicted": flagged.map(words)})
    write_text(folder / "confusion.csv", _csv(confusion))
    other, highlight = score_histogram(test["label"].to_numpy(), test["score"].to_numpy(), _NUM_BINS)
    middles = (np.arange(_NUM_BINS) + 0.5) / _NUM_BINS
    write_text(folder / "scores.csv", _csv(pd.DataFrame({"score": middles, "highlight": highlight, "other": other})))


def write_pictures(folder: Path, evaluation: Evaluation, tables: Mapping[str, pd.DataFrame]) -> None:
    """Write pr_curve.png, confusion.png and scores.png."""
    for name, figure in (
        ("pr_curve", draw_precision_recall(evaluation, tables)),
        ("confusion", draw_confusion(evaluation)),
        ("scores", draw_scores(evaluation, tables[SERVED])),
    ):
        with replacing(folder / f"{name}.png") as temporary:
            figure.savefig(temporary, dpi=150, facecolor="white", metadata={"Software": None})


def draw_precision_recall(evaluation: Evaluation, tables: Mapping[str, pd.DataFrame]) -> Figure:
    """Return the precision-recall curves of the ladder with the point each model works at."""
    figure, axes = _figure(9.6, 5.4, right=0.66)
    _titles(figure, "How much of what it flags is right?", "Each point of a curve is one threshold; test frames only.")
    for name, (colour, width, style, order) in _LINES.items():
        if name not in tables:
            continue
        curve = _curve(tables[name])
        axes.step(curve.recall, curve.precision, where="pre", color=colour, lw=width, ls=style, zorder=order)
        row = evaluation.row(name)
        if row is not None:
            axes.plot(
                row.metrics["recall"].value,
                row.metrics["precision"].value,
                marker="o",
                ms=9 if name == SERVED else 7,
                mfc="white",
                mec=colour,
                mew=2.2,
                zorder=order + 5,
                clip_on=False,
            )
    axes.axhline(evaluation.prevalence, color=INK, lw=1, ls=(0, (1, 3)), zorder=1)
    axes.text(
        0.012,
        evaluation.prevalence - 0.012,
        "flagging every frame",
        color=INK,
        fontsize=9,
        va="top",
        ha="left",
        zorder=9,
    )
    axes.set(xlim=(0, 1.0), ylim=(0, 1.03))
    axes.set_xlabel("Recall: share of the true highlight frames that are flagged")
    axes.set_ylabel("Precision: share of the flagged frames\nthat are highlights")
    _percent(axes, "xy")
    _key(figure, evaluation)
    return figure


def _key(figure: Figure, evaluation: Evaluation) -> None:
    """Draw the names beside the curves, best average precision first, each in its curve's colour and style."""
    rows = [row for name in MODEL_NAMES if (row := evaluation.row(name)) is not None]
    rows.sort(key=lambda row: -np.nan_to_num(row.metrics["average_precision"].value, nan=-1.0))
    keys = figure.add_axes((0.69, 0.15, 0.3, 0.66))
    keys.set_axis_off()
    keys.set(xlim=(0, 1), ylim=(0, 1))
    for place, row in enumerate(rows):
        colour, width, style, _ = _LINES[row.name]
        y = 0.93 - 0.19 * place
        keys.plot([0, 0.13], [y, y], color=colour, lw=width, ls=style)
        weight = "bold" if row.name == SERVED else "normal"
        keys.text(0.17, y, PLAIN_NAMES[row.name], color=colour, fontsize=11, weight=weight, va="center")
        average = _with_interval(row.metrics["average_precision"])
        keys.text(0.17, y - 0.07, f"average precision {average}", color=INK, fontsize=9, va="center")
    keys.plot(0.065, 0.11, marker="o", ms=8, mfc="white", mec=INK, mew=2)
    keys.text(0.17, 0.11, "where the model works:\nthreshold chosen on val", color=INK, fontsize=9, va="center")


def draw_confusion(evaluation: Evaluation) -> Figure:
    """Return the four kinds of test frames of the compiled engine in words and numbers."""
    figure, axes = _figure(7.2, 5.2, left=0.2, right=0.97, top=0.72, bottom=0.04)
    row = evaluation.row(SERVED)
    counts = row.counts if row is not None else None
    threshold = _threshold(evaluation)
    _titles(
        figure,
        "What it finds, misses and flags wrongly",
        f"{evaluation.num_frames} test frames of {evaluation.num_videos} videos, flagged at a score of {threshold:.2f}"
        " or more.",
    )
    cells = (
        ()
        if counts is None
        else (
            (0, 1, counts.tp, counts.tp + counts.fn, "found", "of the highlight frames", True),
            (1, 1, counts.fn, counts.tp + counts.fn, "missed", "of the highlight frames", False),
            (0, 0, counts.fp, counts.fp + counts.tn, "false alarms", "of the other frames", False),
            (1, 0, counts.tn, counts.fp + counts.tn, "rightly left out", "of the other frames", True),
        )
    )
    for x, y, frames, total, word, of_what, is_right in cells:
        share = frames / total if total else 0.0
        axes.add_patch(Rectangle((x + 0.02, y + 0.02), 0.96, 0.96, color=_tint(BLUE if is_right else VERMILION, share)))
        ink = "white" if share > 0.55 else INK
        axes.text(x + 0.5, y + 0.63, f"{frames:g}", ha="center", va="center", fontsize=27, weight="bold", color=ink)
        axes.text(x + 0.5, y + 0.38, word, ha="center", va="center", fontsize=13, color=ink)
        shown = f"{share:.0%} {of_what}" if total else f"there are none {of_what}"
        axes.text(x + 0.5, y + 0.21, shown, ha="center", va="center", fontsize=10, color=ink)
    axes.set(xlim=(0, 2), ylim=(0, 2))
    axes.set_xticks([0.5, 1.5], ["flagged", "not flagged"], fontsize=12)
    axes.set_yticks([0.5, 1.5], ["other", "highlight"], fontsize=12)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.set_ylabel("What the frame is", fontsize=11)
    axes.set_xlabel("What the model said", fontsize=11, labelpad=8)
    axes.xaxis.set_label_position("top")
    for side in axes.spines.values():
        side.set_visible(False)
    return figure


def draw_scores(evaluation: Evaluation, table: pd.DataFrame) -> Figure:
    """Return the scores of highlights above the line and of other frames below it."""
    figure, axes = _figure(9.6, 5.2, left=0.1, right=0.97)
    test = _test(table)
    other, highlight = score_histogram(test["label"].to_numpy(), test["score"].to_numpy(), _NUM_BINS)
    _titles(
        figure,
        "How well do the scores separate highlights from the rest?",
        "Blue right of the line is found, orange right of it is a false alarm; blue left of it is missed.",
    )
    threshold = _threshold(evaluation)
    edges = np.arange(_NUM_BINS) / _NUM_BINS
    style: dict[str, Any] = {
        "width": 1 / _NUM_BINS,
        "align": "edge",
        "edgecolor": "white",
        "linewidth": 0.8,
        "zorder": 3,
    }
    axes.bar(edges, highlight, color=BLUE, **style)
    axes.bar(edges, -other, color=ORANGE, **style)
    top = max(int(highlight.max()), int(other.max()), 1) * 1.22
    axes.axvspan(threshold, 1, color="#EEF2F6", zorder=0)
    axes.axvline(threshold, color=INK, lw=1.4, ls="--", zorder=4)
    axes.axhline(0, color=INK, lw=1, zorder=5)
    on_right = threshold < 0.7
    axes.text(
        threshold + (0.012 if on_right else -0.012),
        top * 0.97,
        f"flagged from {threshold:.2f} on",
        ha="left" if on_right else "right",
        va="top",
        fontsize=10,
        color=INK,
    )
    note: dict[str, Any] = {"ha": "left", "fontsize": 11, "weight": "bold", "zorder": 6}
    axes.text(0.012, top * 0.97, f"{int(highlight.sum())} highlight frames", color=BLUE, va="top", **note)
    axes.text(0.012, -top * 0.97, f"{int(other.sum())} other frames", color="#9A6A00", va="bottom", **note)
    axes.set(xlim=(0, 1), ylim=(-top, top))
    axes.set_xlabel("Score of the frame: probability of a highlight, as the model sees it")
    axes.set_ylabel("Number of test frames")
    axes.yaxis.set_major_formatter(lambda value, _position: f"{abs(value):g}")
    return figure


def style_axes(axes: Axes) -> None:
    """Draw axes as every picture of the house has them: two thin lines, quiet labels."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(FAINT)
    axes.tick_params(colors=INK, labelsize=10, color=FAINT)
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)


def _figure(
    width: float, height: float, *, left: float = 0.1, right: float = 0.97, top: float = 0.81, bottom: float = 0.13
) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((left, bottom, right - left, top - bottom))
    style_axes(axes)
    return figure, axes


def _titles(figure: Figure, title: str, subtitle: str) -> None:
    figure.text(0.02, 0.965, title, fontsize=16, weight="bold", color=INK, va="top")
    figure.text(0.02, 0.885, subtitle, fontsize=10.5, color=GREY, va="top")


def _percent(axes: Axes, which: str) -> None:
    for letter, axis in (("x", axes.xaxis), ("y", axes.yaxis)):
        if letter in which:
            axis.set_major_formatter(lambda value, _position: f"{value:.0%}")
    axes.grid(color=FAINT, lw=0.6, zorder=0)


def _tint(colour: str, share: float) -> tuple[float, float, float]:
    """Return `colour` mixed with white, fuller the larger `share`."""
    full = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    amount = 0.12 + 0.88 * share
    red, green, blue = (1 - amount + amount * part for part in full)
    return red, green, blue


def _with_interval(estimate: Estimate) -> str:
    if np.isnan(estimate.value):
        return "undefined"
    return f"{estimate.value:.2f}" + (f" [{estimate.low:.2f}, {estimate.high:.2f}]" if estimate.is_complete else "")


def _test(table: pd.DataFrame) -> pd.DataFrame:
    return table[table["split"] == "test"]


def _curve(table: pd.DataFrame) -> PrecisionRecall:
    test = _test(table)
    return precision_recall_curve(test["label"].to_numpy(), test["score"].to_numpy())


def _precision_at(curve: PrecisionRecall, recalls: np.ndarray) -> np.ndarray:
    """Return the precision at the highest threshold that reaches each recall; NaN when recall is undefined."""
    if np.isnan(curve.recall).any():
        return np.full(len(recalls), np.nan)
    # recall ends at exactly 1 (a whole by itself), so every grid point is reached
    return curve.precision[np.searchsorted(curve.recall, recalls - 1e-12)]


def _threshold(evaluation: Evaluation) -> float:
    row: Row | None = evaluation.row(SERVED)
    return row.threshold if row is not None and row.threshold is not None else 0.5


def _csv(table: pd.DataFrame) -> str:
    return table.to_csv(index=False, float_format="%.6g", lineterminator="\n")
