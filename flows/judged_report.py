"""The report and the model card once more, after the candidate was held against the champion.

The report stage does not know the registry, so its page has neither the champion nor the final verdict. This one has,
beside the comparison itself, in build/judged; no stage reads it.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from flows.dag import PARAMS_FILE
from flows.settings import Settings
from models.bootstrap import paired_f1_difference
from models.comparison import Comparison
from models.evaluation import SERVED, Evaluation
from models.files import write_json
from models.metrics import Counts
from models.verdict import Verdict
from tasks.report.gather import read_inputs
from tasks.report.render import write_pages

_FOLDER = "judged"
COMPARISON_FILE = "comparison.json"


def compare_by_video(champion: str, evaluation: Evaluation, counts: Mapping[str, Counts]) -> Comparison:
    """Return the candidate of `evaluation` beside the champion with these counts by video, for people to read.

    The interval is the percentile one of the other figures; whether the difference is chance is the gate's to say.
    """
    candidate = evaluation.video_counts[SERVED]
    difference = paired_f1_difference(
        candidate,
        counts,
        num_bootstrap=evaluation.num_bootstrap,
        seed=evaluation.seed,
        confidence=evaluation.confidence,
    )
    return Comparison.of(champion, difference, candidate, counts)


def write_judged(settings: Settings, verdict: Verdict, comparison: Comparison | None) -> None:
    """Write comparison.json and, where the report stage made its pages, these again with verdict and comparison.

    Without a champion there is no comparison.json.
    """
    folder = settings.build / _FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    for name in (COMPARISON_FILE, "report.html", "model_card.md"):  # of an earlier candidate
        (folder / name).unlink(missing_ok=True)
    if comparison is not None:
        write_json(folder / COMPARISON_FILE, comparison.to_json())
    if (settings.build / "report" / "report.html").is_file():
        inputs = read_inputs(settings.build, settings.root / PARAMS_FILE, comparison)
        write_pages(folder, replace(inputs, verdict=verdict))


def judged_page(settings: Settings, name: str) -> Path:
    """Return the path of a page of the report, "report.html" or "model_card.md": the judged one where there is one."""
    judged = settings.build / _FOLDER / name
    return judged if judged.is_file() else settings.build / "report" / name
