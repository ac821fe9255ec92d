"""The report of the flow: written again with the final verdict and the champion, where the report stage ran at all."""

from pathlib import Path
from types import SimpleNamespace

import pytest

import flows.judged_report
from flows.judged_report import compare_by_video, judged_page, write_judged
from flows.settings import Settings
from models.bootstrap import PairedDifference
from models.comparison import Comparison
from models.evaluation import Evaluation
from models.files import read_json
from models.metrics import Counts
from models.verdict import Verdict, VerdictLine

VERDICT = Verdict.of((VerdictLine("champion", True, 0.1, 0.0, ">=", "it is"),))
COMPARISON = Comparison.of(
    "herdlight version 1",
    PairedDifference(0.1, 0.0, 0.2, 0.95, 1),
    {"a": Counts(2, 0, 0, 0)},
    {"a": Counts(1, 0, 1, 0)},
)


def test_without_a_report_only_the_comparison_is_left(tmp_path: Path) -> None:
    settings = Settings.of(str(tmp_path), None)
    write_judged(settings, VERDICT, COMPARISON)
    assert Comparison.from_json(read_json(settings.build / "judged" / "comparison.json")) == COMPARISON
    assert judged_page(settings, "report.html") == settings.build / "report" / "report.html"
    write_judged(settings, VERDICT, None)
    assert not (settings.build / "judged" / "comparison.json").exists()


def test_a_report_is_made_again_with_verdict_and_champion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings.of(str(tmp_path), None)
    (settings.build / "report").mkdir(parents=True)
    (settings.build / "report" / "report.html").write_text("of the stage")
    asked = []

    def write_pages(folder: Path, inputs: SimpleNamespace) -> int:
        asked.append(inputs)
        return (folder / "report.html").write_text("judged")

    monkeypatch.setattr(flows.judged_report, "read_inputs", lambda _build, _params, champion: (champion,))
    monkeypatch.setattr(flows.judged_report, "replace", lambda inputs, verdict: (*inputs, verdict))
    monkeypatch.setattr(flows.judged_report, "write_pages", write_pages)
    write_judged(settings, VERDICT, COMPARISON)
    assert asked == [(COMPARISON, VERDICT)]
    assert judged_page(settings, "report.html").read_text() == "judged"
    (settings.build / "report" / "report.html").unlink()
    write_judged(settings, VERDICT, None)
    assert judged_page(settings, "report.html") == settings.build / "report" / "report.html"


def test_the_candidate_is_compared_video_by_video() -> None:
    now = {"a": Counts(4, 0, 0, 4), "b": Counts(2, 2, 0, 4), "c": Counts(0, 1, 1, 6)}
    before = {"a": Counts(2, 2, 2, 2), "b": Counts(2, 2, 0, 4), "c": Counts(1, 0, 0, 7)}
    evaluation = Evaluation((), (), {"compiled": now}, 3, 24, 0.3, 0.3, 0.95, 200, 0)
    comparison = compare_by_video("herdlight version 4", evaluation, before)
    assert comparison.champion == "herdlight version 4"
    assert comparison.f1.value == pytest.approx(Counts(6, 3, 1, 14).f1 - Counts(5, 4, 2, 13).f1)
    assert [one.video_id for one in comparison.better] == ["a"]
    assert [one.video_id for one in comparison.worse] == ["c"]
