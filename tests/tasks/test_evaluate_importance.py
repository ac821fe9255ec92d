"""Rank figures in stage evaluate: of graded test videos only, and absent where there is none."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from models.errors import ModelError
from models.evaluation import MODEL_NAMES, Evaluation
from models.files import read_json
from models.graded import REFERENCE_NAMES, GradedEvaluation
from models.importance import Importance
from models.manifest import VideoRow, write_manifest
from models.predictions import predictions_of, write_predictions
from tasks.evaluate import main
from tasks.evaluate_importance import evaluate_importance

MakeRow = Callable[..., VideoRow]
PARAMS: dict[str, Any] = {"num_bootstrap": 100, "confidence": 0.95, "seed": 0}
NUM_SHOTS, SHOT_S, FPS = 12, 2.0, 4.0


@pytest.fixture
def rows(make_row: MakeRow) -> list[VideoRow]:
    """Return a val video, two graded test videos and one that nobody graded."""
    rng = np.random.default_rng(0)
    found = []
    for name, split, is_graded in (("v", "val", True), ("a", "test", True), ("b", "test", True), ("c", "test", False)):
        importance = Importance(SHOT_S, rng.integers(1, 6, (4, NUM_SHOTS)).astype(np.float64))
        found.append(
            make_row(name, split=split, duration_s=NUM_SHOTS * SHOT_S, importance=importance if is_graded else None)
        )
    return found


def table(rows: list[VideoRow], seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    times_s = np.arange(int(NUM_SHOTS * SHOT_S * FPS)) / FPS
    return predictions_of((row, times_s, rng.random(len(times_s)).astype(np.float32)) for row in rows)


def test_figures_are_of_graded_test_videos(rows: list[VideoRow]) -> None:
    tables = {name: table(rows, seed) for seed, name in enumerate(MODEL_NAMES)}
    evaluation = evaluate_importance(tables, rows, **PARAMS)
    assert evaluation is not None
    assert [row.name for row in evaluation.rows] == [*MODEL_NAMES, *REFERENCE_NAMES]
    assert evaluation.num_videos == 2
    for name in MODEL_NAMES:
        taus = []
        for video in rows[1:3]:
            assert video.importance is not None
            frames = tables[name][tables[name]["video_id"] == video.video_id]
            shots = frames.groupby((frames["time_s"] // SHOT_S).astype(int))["score"].mean().to_numpy(np.float64)
            taus.append(np.mean([stats.kendalltau(own, shots).statistic for own in video.importance.scores_AS]))
        row = evaluation.row(name)
        assert row is not None
        assert row.figures["kendall_tau"].value == pytest.approx(np.mean(taus), abs=1e-9)


def test_without_graded_test_videos_there_is_nothing(rows: list[VideoRow]) -> None:
    tables = {"compiled": table(rows, 0)}
    assert evaluate_importance(tables, [rows[0], rows[3]], **PARAMS) is None
    assert evaluate_importance(tables, [], **PARAMS) is None


def test_a_graded_video_without_frames_is_told(rows: list[VideoRow]) -> None:
    with pytest.raises(ModelError, match=r"compiled: no test frames of graded video .*/b.mp4 \(b\)"):
        evaluate_importance({"compiled": table(rows[:2], 0)}, rows, **PARAMS)


def test_frames_after_the_announced_end_are_no_error(rows: list[VideoRow], make_row: MakeRow) -> None:
    short = [make_row("a", split="test", duration_s=10.0, importance=rows[1].importance)]
    assert evaluate_importance({"compiled": table(rows, 0)}, short, **PARAMS) is not None


def test_the_stage_writes_them_under_their_own_key(rows: list[VideoRow], tmp_path: Path) -> None:
    write_manifest(tmp_path / "manifest.parquet", rows)
    arguments = ["--manifest", str(tmp_path / "manifest.parquet")]
    for seed, name in enumerate(MODEL_NAMES):
        write_predictions(tmp_path / f"{name}.parquet", table(rows, seed))
        arguments += [f"--{name.replace('_', '-')}", str(tmp_path / f"{name}.parquet")]
    params = tmp_path / "params.yaml"
    params.write_text("evaluate: {num_bootstrap: 100}\nspans: {min_duration_s: 0.5}\n", encoding="utf-8")
    main([*arguments, "--params", str(params), "--out", str(tmp_path / "out")])
    content = read_json(tmp_path / "out" / "evaluation.json")
    assert Evaluation.from_json(content).num_videos == 3
    assert GradedEvaluation.from_json(content["importance"]).num_videos == 2
    metrics = read_json(tmp_path / "out" / "metrics.json")
    assert metrics["compiled_kendall_tau"] == content["importance"]["rows"][3]["kendall_tau"]["value"]
    assert {"human_spearman_rho", "random_kendall_tau", "compiled_top5_map_low", "num_graded_videos"} <= set(metrics)
