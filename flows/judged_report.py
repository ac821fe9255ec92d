"""The report and the model card once more, after the candidate was held against the champion.

The report stage does not know the registry, so its page has neither the champion nor the final verdict. This one has,
beside the comparison itself, in build/judged; no stage reads it.
"""

from dataclasses import replace
from pathlib import Path

from flows.dag import PARAMS_FILE
from flows.settings import Settings
from models.comparison import Comparison
from models.files import write_json
from models.verdict import Verdict
from tasks.report.gather import read_inputs
from tasks.report.render import write_pages

_FOLDER = "judged"
COMPARISON_FILE = "comparison.json"


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
