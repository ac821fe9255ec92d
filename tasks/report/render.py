"""Turning the report's inputs into HTML and Markdown.

Every value goes through Jinja's escaping: file names and reasons come from other people's disks. The page refers to
nothing outside itself. Knows the shape of the page's tables; reading is `gather`'s, the strips are `strips`'.
"""

import base64
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import yaml
from markupsafe import Markup, escape

from models.energy import add_energy
from models.evaluation import SERVED
from models.files import write_text
from models.manifest import SPLITS, VideoRow
from models.metrics import Counts
from models.spans import total_duration_s
from tasks.pictures import PLAIN_NAMES
from tasks.report.curves import make_curves
from tasks.report.gather import PICTURES, ReportInputs
from tasks.report.images import FramePictures
from tasks.report.ladder import make_forest, make_tables
from tasks.report.misses import Stretch, count_categories, judge_frames, longest_stretches
from tasks.report.rungs import read_ladder
from tasks.report.strips import Cut, Strip, choose_extremes, make_strip, rank_videos

LINE_NAMES: Mapping[str, str] = {
    "metrics_present": "Nothing is missing",
    "min_f1": "Good enough",
    "beats_all_positive": "Better than flagging everything",
    "engine_measured": "Measured, not only built",
    "score_parity": "Same scores as before compiling",
    "f1_parity": "Same F1 as before compiling",
    "served_threshold": "Served as it was judged",
    "champion": "Better than the model in use",
}
# Rows that only tables of rank correlation have.
_REFERENCE_NAMES: Mapping[str, str] = {
    "human": "One person against the others",
    "human_each": "One person against each other",
    "ceiling": "The mean of all against each person",
}
_ENGINE_KEYS = (
    *("name", "status", "reason", "precision", "num_bytes", "latency_ms_p50", "latency_ms_p99", "frames_per_s"),
    *("max_score_diff", "mean_score_diff", "f1", "f1_diff"),
)
_NUM_EXTREMES = 10
_NUM_STRETCHES = 4
_NUM_CHANGES = 8
_DASH = "\N{EN DASH}"


def write_pages(folder: Path, inputs: ReportInputs) -> int:
    """Write report.html and model_card.md into `folder`, and return the bytes of the page."""
    report = render_report(inputs)
    write_text(folder / "report.html", report)
    write_text(folder / "model_card.md", render_model_card(inputs))
    return len(report.encode())


def render_report(inputs: ReportInputs) -> str:
    """Return the page as one HTML document."""
    return _environment(autoescape=True).get_template("report.html.jinja").render(_context(inputs))


def render_model_card(inputs: ReportInputs) -> str:
    """Return the model card as Markdown."""
    return _environment(autoescape=False).get_template("model_card.md.jinja").render(_context(inputs, strips=False))


def _environment(*, autoescape: bool) -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("tasks.report", "."),
        autoescape=autoescape,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        # HTML is live in Markdown too, and a bar would break a table.
        finalize=None if autoescape else _escape_markdown,
    )
    environment.filters |= {
        "figure": _figure,
        "percent": lambda value: _DASH if _is_missing(value) else f"{value:.0%}",
        "signed": _signed,
        "megabytes": lambda value: _DASH if _is_missing(value) else f"{value / 1e6:.1f}",
        "energy": _energy_figure,
        "clock": _duration,
        "x": lambda value: f"{value:.1f}",
    }
    return environment


def _context(inputs: ReportInputs, *, strips: bool = True) -> dict[str, Any]:
    evaluation = inputs.evaluation
    served = evaluation.row(SERVED)
    threshold = 0.5 if served is None or served.threshold is None else served.threshold
    ranked = rank_videos(inputs.predictions, threshold)
    by_id = {video.video_id: video for video in inputs.manifest}
    is_squashed = inputs.spec.get("sampling", inputs.params.get("frames") or {}).get("fit") == "squash"
    pictures = FramePictures(inputs.frames if strips else None, is_squashed)
    return {
        "evaluation": evaluation,
        "served": served,
        "threshold": threshold,
        "tables": make_tables(inputs.figures),
        "forest": make_forest(inputs.figures),
        "names": {**PLAIN_NAMES, **_REFERENCE_NAMES},
        "verdict": inputs.verdict,
        "line_names": LINE_NAMES,
        "required_f1": _required_f1(inputs),
        "pictures": {name: _png_uri(content) for name, content in inputs.pictures.items() if name in PICTURES},
        **_ladder(inputs),
        "reliability": inputs.reliability,
        "strips": _strips(inputs, ranked, _cut(inputs.spec, threshold), pictures) if strips else {},
        "videos": _videos(by_id, ranked),
        "champion": inputs.champion,
        "changes": _changes(inputs, by_id),
        **_misses(inputs, by_id, threshold, pictures),
        "splits": _splits(inputs.manifest),
        "contents": _contents(inputs.manifest),
        "rejected": inputs.rejected,
        "validation": inputs.validation,
        "chosen": inputs.engines.get("chosen"),
        "engines": [dict.fromkeys(_ENGINE_KEYS) | engine for engine in inputs.engines.get("engines") or ()],
        "curves": make_curves(inputs.histories),
        "energy": inputs.energy,
        "total": add_energy(inputs.energy.values()),
        "model": _model(inputs.spec),
        "params": yaml.safe_dump(dict(inputs.params), sort_keys=False, allow_unicode=True) if inputs.params else "",
    }


def _ladder(inputs: ReportInputs) -> dict[str, Any]:
    """Return the compression ladder, its picture, and whether what it chose is what is served."""
    picture = inputs.pictures.get("ladder")
    return {
        "ladder": None if inputs.ladder is None else read_ladder(inputs.ladder),
        "ladder_picture": picture and _png_uri(picture),
        "ladder_served": inputs.ladder is not None and inputs.engines.get("chosen") == inputs.ladder["chosen"],
    }


def _cut(spec: Mapping[str, Any], threshold: float) -> Cut:
    return Cut(threshold, spec.get("min_duration_s") or 0.0, spec.get("merge_gap_s") or 0.0)


def _required_f1(inputs: ReportInputs) -> float | None:
    lines = inputs.verdict.lines if inputs.verdict else ()
    return next((line.bound for line in lines if line.name == "min_f1"), None)


def _model(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the page says of the model, None where model.json does not have it."""
    encoder, sampling = spec.get("encoder") or {}, spec.get("sampling") or {}
    return {
        "encoder": encoder.get("name"),
        "pretrained": encoder.get("pretrained"),
        "unfreeze_blocks": spec.get("unfreeze_blocks"),
        "temporal": spec.get("temporal"),
        "fps": sampling.get("fps"),
        "image_size": sampling.get("image_size"),
        "calibration": _calibration(spec.get("calibration") or {}),
    }


def _calibration(value: Mapping[str, Any]) -> str:
    """Return in words how scores became probabilities."""
    method = value.get("method", "none")
    if method in ("temperature", "platt"):
        bias = f", bias {value.get('bias', 0):+.2f}" if method == "platt" else ""
        return f"{method}, fitted on val: temperature {value.get('temperature', 1):.2f}{bias}"
    return "isotonic, fitted on val" if method == "isotonic" else "none"


def _strips(
    inputs: ReportInputs, ranked: list[tuple[str, Counts]], cut: Cut, pictures: FramePictures
) -> dict[str, list[Strip]]:
    """Return the worst and the best test videos with thumbnails; few videos are all shown, none twice."""
    by_id = {video.video_id: video for video in inputs.manifest}
    test = inputs.predictions[inputs.predictions["split"] == "test"]
    rows_of = {str(video_id): rows for video_id, rows in test.groupby("video_id")}
    worst, best = choose_extremes([video_id for video_id, _ in ranked if video_id in by_id], _NUM_EXTREMES)
    return {
        which: [make_strip(rows_of[video_id], by_id[video_id], cut, pictures) for video_id in chosen]
        for which, chosen in (("worst", worst), ("best", best))
    }


def _misses(
    inputs: ReportInputs, by_id: Mapping[str, VideoRow], threshold: float, pictures: FramePictures
) -> dict[str, Any]:
    """Return the kinds of scene with what is missed and falsely flagged, and the longest stretches of either."""
    judged = judge_frames(inputs.predictions, by_id, threshold)
    categories = count_categories(judged)

    def shown(stretch: Stretch) -> dict[str, Any]:
        video = by_id.get(stretch.video_id)
        middle_s = (stretch.start_s + stretch.end_s) / 2
        picture = None if video is None else pictures.at(video, middle_s)
        return {"stretch": stretch, "path": video.path if video else stretch.video_id, "picture": picture}

    return {
        "categories": categories,
        "longest_s": max((max(one.highlight_s, one.false_s) for one in categories), default=0.0),
        "missed": [shown(one) for one in longest_stretches(judged, by_id, label=1, num=_NUM_STRETCHES)],
        "false_alarms": [shown(one) for one in longest_stretches(judged, by_id, label=0, num=_NUM_STRETCHES)],
    }


def _changes(inputs: ReportInputs, by_id: Mapping[str, VideoRow]) -> dict[str, Any] | None:
    """Return how many videos are better, worse and the same as with the champion, and those that moved most."""
    if inputs.champion is None:
        return None
    better, worse = inputs.champion.better, inputs.champion.worse
    moved = {which: changes[:_NUM_CHANGES] for which, changes in (("better", better), ("worse", worse))}
    return {
        "num_better": len(better),
        "num_worse": len(worse),
        "num_same": len(inputs.champion.videos) - len(better) - len(worse),
        "most": max((abs(change.gained) for change in (*better, *worse)), default=1.0),
        **{
            which: [
                {"path": by_id[one.video_id].path if one.video_id in by_id else one.video_id, "change": one}
                for one in changes
            ]
            for which, changes in moved.items()
        },
    }


def _videos(by_id: Mapping[str, VideoRow], ranked: list[tuple[str, Counts]]) -> list[dict[str, Any]]:
    return [
        {"path": by_id[video_id].path if video_id in by_id else video_id, "counts": counts}
        for video_id, counts in ranked
    ]


def _splits(manifest: Sequence[VideoRow]) -> list[dict[str, Any]]:
    """Return videos, groups, seconds and seconds of highlight of each split."""
    return [
        {
            "name": split,
            "num_videos": len(rows),
            "num_groups": len({row.group for row in rows}),
            "with_highlight": sum(bool(row.segments) for row in rows),
            "duration_s": sum(row.duration_s for row in rows),
            "highlight_s": sum(total_duration_s(row.segments) for row in rows),
        }
        for split in SPLITS
        if (rows := [row for row in manifest if row.split == split])
    ]


def _contents(manifest: Sequence[VideoRow]) -> list[tuple[str, int]]:
    """Return how many clips show what, the most frequent first."""
    counted = Counter(row.content or "not said" for row in manifest)
    return sorted(counted.items(), key=lambda item: (-item[1], item[0]))


def _png_uri(content: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(content).decode()


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and not math.isfinite(value))


def _figure(value: Any, digits: int = 2) -> str:
    """Return a number with `digits` decimals; what would round to 0 is "<0.01", missing is a dash."""
    if _is_missing(value):
        return _DASH
    if 0 < abs(value) < 0.5 * 10**-digits:
        return f"<{10**-digits:.{digits}f}"
    return f"{value:,.{digits}f}"


def _signed(value: Any, digits: int = 2) -> str:
    """Return a difference with its sign, a real minus, and no sign for what rounds to 0."""
    if _is_missing(value):
        return _DASH
    rounded = round(value, digits)
    return (f"{rounded:+.{digits}f}" if rounded else f"{0:.{digits}f}").replace("-", "\N{MINUS SIGN}")


def _energy_figure(value: float) -> str:
    """Return kWh or kg with three significant digits and no exponent."""
    if not value:
        return "0"
    return f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h"


def _escape_markdown(value: Any) -> Any:
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    return str(escape(value)).replace("|", "&#124;").replace("`", "&#96;").replace("\n", " ")
