"""The evaluate stage: what it may look at, what it reports, and what it refuses."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.image import imread
from sklearn import metrics as sk

from models.errors import ModelError
from models.evaluation import METRIC_NAMES, MODEL_NAMES, TRIVIAL_NAMES, Evaluation, read_video_counts
from models.files import read_json
from models.manifest import VideoRow, write_manifest
from models.metrics import Counts
from models.predictions import write_predictions
from models.spans import Span
from tasks.evaluate import EvaluateParams, evaluate, main
from tasks.evaluate_segments import SegmentTruth

PARAMS = EvaluateParams(num_bootstrap=100)
Tables = dict[str, pd.DataFrame]


def make_tables(seed: int = 0, num_val: int = 5, num_test: int = 8, frames: int = 24) -> Tables:
    """Return tables of four models that get better by rung; each video's first third is the highlight, or nothing."""
    rng = np.random.default_rng(seed)
    base = []
    for index in range(num_val + num_test):
        labels = (np.arange(frames) < frames // 3).astype(np.int8) * (index % 4 != 3)
        base.append(
            pd.DataFrame(
                {
                    "video_id": f"{index:016x}",
                    "group": f"g{index}",
                    "split": "val" if index < num_val else "test",
                    "time_s": np.arange(frames) / 4,
                    "label": labels,
                }
            )
        )
    table = pd.concat(base, ignore_index=True)
    noise = rng.normal(size=len(table))
    tables = {}
    for name, strength in zip(MODEL_NAMES, (0.3, 1.5, 1.6, 1.6), strict=True):
        logits = (table["label"] - 0.5) * 2 * strength + noise + rng.normal(scale=0.1, size=len(table))
        tables[name] = table.assign(score=(1 / (1 + np.exp(-logits))).astype(np.float32))
    return tables


def change(tables: Tables, split: str, edit: Callable[[pd.DataFrame], pd.DataFrame]) -> Tables:
    """Return tables whose rows of `split` went through `edit`."""
    return {
        name: pd.concat([table[table["split"] != split], edit(table[table["split"] == split].copy())])
        for name, table in tables.items()
    }


def make_truth(num_videos: int = 13, frames: int = 24) -> SegmentTruth:
    """Return the highlights that `make_tables` labels, in seconds."""
    spans = {f"{index:016x}": (Span(0.0, frames / 12),) * (index % 4 != 3) for index in range(num_videos)}
    return SegmentTruth(spans, dict.fromkeys(spans, frames / 4), min_duration_s=0.5, merge_gap_s=0.75)


TRUTH = make_truth()


@pytest.fixture(scope="module")
def evaluation() -> Evaluation:
    return evaluate(make_tables(), TRUTH, PARAMS)


def test_rows_are_the_ladder_then_what_is_trivial(evaluation: Evaluation) -> None:
    assert [row.name for row in evaluation.rows] == [*MODEL_NAMES, *TRIVIAL_NAMES]
    for row in evaluation.rows:
        assert tuple(row.metrics) == METRIC_NAMES
        for name, estimate in row.metrics.items():
            assert estimate.is_complete, (row.name, name)
            assert estimate.low - 1e-9 <= estimate.value <= estimate.high + 1e-9, (row.name, name)


def test_figures_agree_with_sklearn_on_test_frames_only(evaluation: Evaluation) -> None:
    for name, table in make_tables().items():
        row = evaluation.row(name)
        assert row is not None
        test = table[table["split"] == "test"]
        flagged = test["score"].to_numpy(float) >= row.threshold
        expected = {
            "precision": sk.precision_score(test["label"], flagged),
            "recall": sk.recall_score(test["label"], flagged),
            "f1": sk.f1_score(test["label"], flagged),
            "accuracy": sk.accuracy_score(test["label"], flagged),
            "average_precision": sk.average_precision_score(test["label"], test["score"]),
            "roc_auc": sk.roc_auc_score(test["label"], test["score"]),
        }
        for metric, value in expected.items():
            assert row.metrics[metric].value == pytest.approx(value, abs=1e-9), (name, metric)
        assert row.counts.num_frames == len(test) == evaluation.num_frames


def test_better_models_cut_better_highlights_and_all_beat_chance(evaluation: Evaluation) -> None:
    found = {row.name: row.metrics["segment_map"].value for row in evaluation.rows}
    assert found["random"] < found["zero_shot"] < found["fine_tuned"] <= found["compiled"] <= 1
    # One highlight a video from start to end, of which a third is right: never half of both together.
    assert found["all_positive"] == 0
    assert evaluation.to_metrics()["compiled_segment_map"] == found["compiled"]
    for row in evaluation.rows:
        assert list(row.segment_ap) == [f"{step / 100:g}" for step in range(50, 100, 5)]
        assert np.mean(list(row.segment_ap.values())) == pytest.approx(found[row.name])


def test_test_videos_without_truth_are_refused() -> None:
    with pytest.raises(ModelError, match=r"not in the manifest, e\.g\. 000000000000000c"):
        evaluate(make_tables(), make_truth(num_videos=12), PARAMS)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31))
def test_test_rows_never_change_a_threshold(seed: int) -> None:
    tables = make_tables()
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, 8 * 24).astype(np.int8)
    other = change(tables, "test", lambda t: t.assign(score=rng.random(len(t)).astype(np.float32), label=labels))
    for before, after in zip(evaluate(tables, TRUTH, PARAMS).rows, evaluate(other, TRUTH, PARAMS).rows, strict=True):
        assert before.threshold == after.threshold


def test_val_rows_decide_the_threshold() -> None:
    tables = make_tables()
    shifted = change(tables, "val", lambda t: t.assign(score=t["score"] * np.float32(0.5)))
    for before, after in zip(evaluate(tables, TRUTH, PARAMS).rows, evaluate(shifted, TRUTH, PARAMS).rows, strict=True):
        if before.name in MODEL_NAMES:
            assert after.threshold == pytest.approx(before.threshold / 2)
            assert after.metrics["roc_auc"] == before.metrics["roc_auc"]


def test_trivial_rows(evaluation: Evaluation) -> None:
    rate, share = evaluation.val_prevalence, evaluation.prevalence
    everything, by_chance, every_kth = (evaluation.row(name) for name in TRIVIAL_NAMES)
    assert everything is not None
    assert by_chance is not None
    assert every_kth is not None
    assert (everything.counts.fn, everything.counts.tn) == (0, 0)
    assert everything.f1.value == pytest.approx(2 * share / (1 + share))
    assert by_chance.metrics["recall"].value == pytest.approx(rate)
    assert by_chance.metrics["precision"].value == pytest.approx(share)
    for row in (everything, by_chance):
        assert row.metrics["average_precision"].value == pytest.approx(share)
        assert row.metrics["roc_auc"].value == pytest.approx(0.5)
    flagged = every_kth.counts.tp + every_kth.counts.fp
    assert flagged == pytest.approx(rate * evaluation.num_frames, abs=evaluation.num_videos)
    assert [row.threshold for row in (everything, by_chance, every_kth)] == [None] * 3


def test_random_row_is_what_many_draws_average_to(evaluation: Evaluation) -> None:
    row = evaluation.row("random")
    assert row is not None
    test = make_tables()["zero_shot"].query("split == 'test'")
    rng = np.random.default_rng(0)
    draws = rng.random((4000, len(test))) < evaluation.val_prevalence
    assert row.counts.tp == pytest.approx((draws & test["label"].to_numpy(bool)).sum(axis=1).mean(), rel=0.02)


def test_counts_of_videos_pool_to_each_row(evaluation: Evaluation) -> None:
    for name in MODEL_NAMES:
        row = evaluation.row(name)
        assert row is not None
        assert sum(evaluation.video_counts[name].values(), Counts(0, 0, 0, 0)) == row.counts
        assert len(evaluation.video_counts[name]) == evaluation.num_videos == 8


def test_differences_are_against_flagging_everything_and_the_rung_before(evaluation: Evaluation) -> None:
    pairs = [(difference.name, difference.against) for difference in evaluation.differences]
    assert pairs == [(name, "all_positive") for name in MODEL_NAMES] + [
        ("fine_tuned", "zero_shot"),
        ("pruned", "fine_tuned"),
        ("compiled", "pruned"),
    ]
    for difference in evaluation.differences:
        first, second = evaluation.row(difference.name), evaluation.row(difference.against)
        assert first is not None
        assert second is not None
        assert difference.f1.value == pytest.approx(first.f1.value - second.f1.value)


def test_the_order_of_rows_does_not_matter(evaluation: Evaluation) -> None:
    shuffled = {
        name: table.sample(frac=1, random_state=index) for index, (name, table) in enumerate(make_tables().items())
    }
    assert evaluate(shuffled, TRUTH, PARAMS) == evaluation


def test_json_keeps_everything(evaluation: Evaluation) -> None:
    text = json.dumps(evaluation.to_json(), allow_nan=False)
    assert Evaluation.from_json(json.loads(text)) == evaluation
    assert read_video_counts(json.loads(text)) == evaluation.video_counts["compiled"]
    flat = evaluation.to_metrics()
    assert flat["compiled_f1_low"] <= flat["compiled_f1"] <= flat["compiled_f1_high"]


def test_json_of_something_else_is_refused() -> None:
    with pytest.raises(ModelError, match="confidence"):
        Evaluation.from_json({"rows": []})
    with pytest.raises(ModelError, match="compiled"):
        read_video_counts({})


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_on_test_is_undefined_and_noted(label: int) -> None:
    one_class = evaluate(change(make_tables(), "test", lambda t: t.assign(label=np.int8(label))), TRUTH, PARAMS)
    assert any("test split has" in note and "only" in note for note in one_class.notes)
    for row in one_class.rows:
        assert math.isnan(row.metrics["roc_auc"].value)
        assert math.isnan(row.metrics["roc_auc"].low)
        assert math.isnan(row.metrics["recall"].value) == (label == 0)
    value = json.loads(json.dumps(one_class.to_json(), allow_nan=False))
    assert value["rows"][0]["roc_auc"] == {"value": None, "low": None, "high": None}
    assert math.isnan(Evaluation.from_json(value).rows[0].metrics["roc_auc"].high)
    assert "roc_auc of compiled" in one_class.notes[-1]


def test_one_test_video_has_no_intervals() -> None:
    single = evaluate(make_tables(num_test=1), TRUTH, PARAMS)
    assert any("one video" in note for note in single.notes)
    row = single.row("compiled")
    assert row is not None
    assert not math.isnan(row.f1.value)
    assert math.isnan(row.f1.low)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda t: t.iloc[1:], "e.g. video 0000000000000005 at 0.0 s with label 1"),
        (lambda t: t.assign(label=1 - t["label"]), "384 differ"),
        (lambda t: t.assign(time_s=t["time_s"] + 0.01), "differ"),
        (lambda t: t.iloc[:0], "no test frames"),
    ],
)
def test_tables_of_other_frames_are_refused(edit: Callable[[pd.DataFrame], pd.DataFrame], words: str) -> None:
    tables = make_tables()
    tables["pruned"] = change({"pruned": tables["pruned"]}, "test", edit)["pruned"]
    with pytest.raises(ModelError, match="pruned.*" + words):
        evaluate(tables, TRUTH, PARAMS)


def test_a_missing_table_is_refused() -> None:
    tables = make_tables()
    del tables["compiled"]
    with pytest.raises(ModelError, match="compiled"):
        evaluate(tables, TRUTH, PARAMS)


def run_stage(folder: Path, make_row: Callable[..., VideoRow]) -> Path:
    """Run the shell on tables written below `folder` and return its output folder."""
    rows = [
        make_row(video, split="test", segments=spans, duration_s=TRUTH.durations_s[video])
        for video, spans in TRUTH.spans.items()
    ]
    write_manifest(folder / "manifest.parquet", rows)
    arguments = ["--manifest", str(folder / "manifest.parquet")]
    for name, table in make_tables().items():
        path = folder / f"{name}.parquet"
        write_predictions(path, table)
        arguments += [f"--{name.replace('_', '-')}", str(path)]
    params = folder / "params.yaml"
    params.write_text("evaluate: {num_bootstrap: 100}\n", encoding="utf-8")
    main([*arguments, "--params", str(params), "--out", str(folder / "out")])
    return folder / "out"


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory, make_row: Callable[..., VideoRow]) -> Path:
    return run_stage(tmp_path_factory.mktemp("evaluate"), make_row)


def test_shell_writes_what_dvc_expects(stage: Path, evaluation: Evaluation) -> None:
    assert Evaluation.from_json(read_json(stage / "evaluation.json")) == evaluation
    metrics: dict[str, Any] = read_json(stage / "metrics.json")
    row = evaluation.row("compiled")
    assert row is not None
    assert metrics["compiled_f1"] == row.f1.value
    assert all(isinstance(value, (int, float)) for value in metrics.values())
    assert "importance" not in read_json(stage / "evaluation.json")
    assert not any("kendall" in name for name in metrics)


def test_plots_say_what_was_measured(stage: Path, evaluation: Evaluation) -> None:
    row = evaluation.row("compiled")
    assert row is not None
    confusion = pd.read_csv(stage / "plots" / "confusion.csv")
    assert ((confusion["actual"] == "highlight") & (confusion["predicted"] == "highlight")).sum() == row.counts.tp
    assert ((confusion["actual"] == "other") & (confusion["predicted"] == "highlight")).sum() == row.counts.fp
    scores = pd.read_csv(stage / "plots" / "scores.csv")
    assert scores["highlight"].sum() == row.counts.tp + row.counts.fn
    curve = pd.read_csv(stage / "plots" / "pr_curve.csv")
    assert curve["recall"].iloc[-1] == 1
    assert curve["compiled"].diff().iloc[-1] <= 0
    assert curve["compiled"].iloc[-1] >= evaluation.prevalence - 1e-6
    # The mean height of the curve is the average precision, up to the grid.
    assert curve["compiled"].mean() == pytest.approx(row.metrics["average_precision"].value, abs=0.03)


def test_pictures_are_pictures_and_the_same_each_time(
    stage: Path, tmp_path: Path, make_row: Callable[..., VideoRow]
) -> None:
    again = run_stage(tmp_path, make_row)
    for name in ("pr_curve", "confusion", "scores"):
        pixels = imread(stage / "pictures" / f"{name}.png")
        assert min(pixels.shape[:2]) > 600
        assert pixels.std() > 0.02
        assert (again / "pictures" / f"{name}.png").read_bytes() == (stage / "pictures" / f"{name}.png").read_bytes()
    assert (again / "evaluation.json").read_bytes() == (stage / "evaluation.json").read_bytes()


def test_pictures_are_drawn_of_one_class_too(tmp_path: Path) -> None:
    from tasks.pictures import write_pictures, write_plots

    for label in (0, 1):
        tables = change(make_tables(), "test", lambda t, label=label: t.assign(label=np.int8(label)))
        write_plots(tmp_path / str(label), evaluate(tables, TRUTH, PARAMS), tables)
        write_pictures(tmp_path / str(label), evaluate(tables, TRUTH, PARAMS), tables)
        assert len(list((tmp_path / str(label)).iterdir())) == 6
