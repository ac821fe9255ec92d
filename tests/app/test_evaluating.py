"""`herdlight evaluate` as people meet it: real videos, real labels, what is left over, and what it writes."""

import csv
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from typer.testing import CliRunner, Result

from app.cli import app as command_line
from models.importance import importance_of, pool_to_shots, top_spans
from models.metrics import average_precision
from models.served import load_served
from models.spans import label_times
from models.video import probe
from tasks.score import score_track_of_file

RUNNER = CliRunner()
SHOT_S = 0.5


def evaluate(folder: Path, *arguments: Any) -> Result:
    fixed = ["evaluate", "--videos", folder / "v", "--out", folder / "out", "--num-bootstrap", "100"]
    return RUNNER.invoke(command_line, [str(argument) for argument in (*fixed, *arguments)])


def graded(rng: np.random.Generator, num_shots: int = 8, num_annotators: int = 3) -> dict[str, Any]:
    return {"shot_s": SHOT_S, "scores": rng.integers(1, 6, (num_annotators, num_shots)).tolist()}


@pytest.fixture
def folder(tmp_path: Path, make_video: Callable[..., Path]) -> Path:
    """Return a folder with three videos of 4 s, a damaged one and one that nobody labelled."""
    for index, name in enumerate(("-a.mp4", "x/b.mp4", "x/ü c.mp4", "alone.mp4")):
        make_video(tmp_path / "v" / name, seconds=4.0, seed=index)
    (tmp_path / "v" / "broken.mp4").write_bytes(b"no video")
    return tmp_path


def write_labels(folder: Path, **more: Any) -> Path:
    rng = np.random.default_rng(0)
    entries: dict[str, Any] = {
        "-a.mp4": {"importance": graded(rng)},
        "x/b.mp4": {"importance": graded(rng), "segments": [[1, 2]]},
        "x/ü c.mp4": {"segments": [[0, 3]]},
        "broken.mp4": {"segments": [[0, 1]]},
        "gone.mp4": {"segments": [[0, 1]]},
        **more,
    }
    path = folder / "v" / "annotations.json"
    path.write_text(json.dumps({"videos": entries}), encoding="utf-8")
    return path


def test_every_video_and_label_is_accounted_for(folder: Path, served_folder: Path) -> None:
    labels = write_labels(folder, **{"-a.mp4": {"importance": graded(np.random.default_rng(1), 30)}})
    result = evaluate(folder, "--model", served_folder, "--labels", labels)
    assert result.exit_code == 0, result.output
    assert "2 evaluated, 2 rejected, 1 without a label, 1 label without a video" in result.stdout
    found = json.loads((folder / "out" / "evaluation.json").read_text())
    assert found["videos"] == {"x/b.mp4": "x/b.mp4", "x/ü c.mp4": "x/ü c.mp4"}
    reasons = {row["video"]: row["reason"] for row in found["rejected"]}
    assert set(reasons) == {"-a.mp4", "broken.mp4"}
    assert "30 shots of 0.5 s covers 15.00 s, longer than the video of 4.00 s" in reasons["-a.mp4"]
    assert found["unlabelled"] == {"alone.mp4": "no label for it"}
    assert found["labels_without_video"] == ["gone.mp4"]
    with (folder / "out" / "videos.csv").open(encoding="utf-8", newline="") as file:
        status = {row["video"]: row["status"] for row in csv.DictReader(file)}
    assert status == {
        "x/b.mp4": "evaluated", "x/ü c.mp4": "evaluated", "-a.mp4": "rejected", "broken.mp4": "rejected",
        "alone.mp4": "unlabelled",
    }  # fmt: skip


def test_figures_are_those_of_the_tracks(folder: Path, served_folder: Path) -> None:
    labels = write_labels(folder)
    result = evaluate(folder, "--model", served_folder, "--labels", labels)
    assert result.exit_code == 0, result.output
    found = json.loads((folder / "out" / "evaluation.json").read_text())
    figures = found["figures"]
    model, entries = load_served(served_folder), json.loads(labels.read_text())["videos"]
    truth, scores, taus, rhos = [], [], [], []
    for name in ("-a.mp4", "x/b.mp4", "x/ü c.mp4"):
        path = folder / "v" / name
        duration_s = probe(path).duration_s
        track = score_track_of_file(model, path, duration_s=duration_s)
        scores.append(track.scores.astype(np.float64))
        segments = [(1.0, 2.0)] if name == "x/b.mp4" else [(0.0, 3.0)]
        inside = np.any([(track.times_s >= start) & (track.times_s < end) for start, end in segments], axis=0)
        if importance := entries[name].get("importance"):
            whole = importance_of(SHOT_S, importance["scores"])
            pooled = pool_to_shots(track.times_s, track.scores, SHOT_S, 8)
            taus.append(np.nanmean([stats.kendalltau(own, pooled).statistic for own in importance["scores"]]))
            rhos.append(np.nanmean([stats.spearmanr(own, pooled).statistic for own in importance["scores"]]))
            if name == "-a.mp4":
                inside = label_times(track.times_s, top_spans(whole, 0.2, duration_s)) == 1
        truth.append(inside)
    assert figures["kendall_tau"] == pytest.approx(np.mean(taus), abs=1e-9)
    assert figures["spearman_rho"] == pytest.approx(np.mean(rhos), abs=1e-9)
    all_truth, all_scores = np.concatenate(truth), np.concatenate(scores)
    assert figures["average_precision"] == pytest.approx(average_precision(all_truth, all_scores))
    flagged = all_scores >= 0.5
    f1 = 2 * np.sum(flagged & all_truth) / (np.sum(flagged) + np.sum(all_truth))
    assert figures["f1"] == pytest.approx(f1)
    assert figures["all_positive_f1"] == pytest.approx(2 * all_truth.mean() / (1 + all_truth.mean()))
    assert {"top5_map", "random_tau", "random_rho", "uniform_rho", "human_rho", "ceiling_top5_map"} <= set(figures)
    assert (figures["num_videos"], figures["num_graded_videos"], figures["num_frames"]) == (3, 2, len(all_truth))
    with (folder / "out" / "videos.csv").open(encoding="utf-8", newline="") as file:
        rows = {row["video"]: row for row in csv.DictReader(file)}
    assert float(rows["-a.mp4"]["kendall_tau"]) == pytest.approx(taus[0], abs=1e-9)
    assert rows["x/ü c.mp4"]["kendall_tau"] == ""
    assert rows["x/b.mp4"]["num_annotators"] == "3"


def test_several_models_are_averaged_like_an_ensemble_folder(folder: Path, served_folder: Path) -> None:
    labels = write_labels(folder)
    assert evaluate(folder, "--model", served_folder, "--labels", labels).exit_code == 0
    alone = json.loads((folder / "out" / "evaluation.json").read_text())
    both = evaluate(folder, "--model", served_folder, "--model", served_folder, "--labels", labels)
    assert both.exit_code == 0, both.output
    twice = json.loads((folder / "out" / "evaluation.json").read_text())
    assert twice["figures"] == pytest.approx(alone["figures"], nan_ok=True)
    assert [model["name"] for model in twice["models"]] == [str(served_folder)] * 2
    shutil.copytree(served_folder, folder / "e" / "one")
    (folder / "e" / "ensemble.json").write_text('{"members": ["one", "one"]}')
    assert evaluate(folder, "--model", folder / "e", "--labels", labels).exit_code == 0
    assert json.loads((folder / "out" / "evaluation.json").read_text())["figures"] == pytest.approx(alone["figures"])


def test_spans_alone_give_no_rank_figures(folder: Path, served_folder: Path) -> None:
    labels = folder / "labels.json"
    labels.write_text(json.dumps({"-a": {"highlights": [[0, 1]]}, "b": {"highlights": []}}))
    result = evaluate(folder, "--model", served_folder, "--labels", labels)
    assert result.exit_code == 0, result.output
    assert "no rank figures" in result.stdout
    found = json.loads((folder / "out" / "evaluation.json").read_text())
    assert found["importance"] is None
    assert "kendall_tau" not in found["figures"]
    assert found["figures"]["num_videos"] == 2


def test_one_video_with_one_annotator_says_what_is_undefined(folder: Path, served_folder: Path) -> None:
    labels = folder / "labels.json"
    labels.write_text(json.dumps({"-a": {"shot_s": SHOT_S, "mean_scores": [3] * 8}}))
    result = evaluate(folder, "--model", served_folder, "--labels", labels)
    assert result.exit_code == 0, result.output
    assert "undefined" in result.stdout
    assert "one list of scores" in result.stdout
    figures = json.loads((folder / "out" / "evaluation.json").read_text())["figures"]
    assert figures["kendall_tau"] is None
    assert figures["human_rho"] is None
    assert figures["f1_low"] is None


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        ({"nobody": {"mean_scores": [1, 2]}}, "nothing was evaluated: 0 labelled videos rejected, 5 videos without"),
        ({"-a": {"mean_scores": [1] * 99}}, "nothing was evaluated: 1 labelled videos rejected"),
        ([1], "neither"),
    ],
)
def test_nothing_evaluated_is_an_error(folder: Path, served_folder: Path, labels: Any, reason: str) -> None:
    (folder / "labels.json").write_text(json.dumps(labels))
    result = evaluate(folder, "--model", served_folder, "--labels", folder / "labels.json")
    assert result.exit_code == 1
    assert reason in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert not (folder / "out" / "evaluation.json").exists()


def test_paths_that_are_not_there_are_named(folder: Path, served_folder: Path) -> None:
    labels = write_labels(folder)
    for arguments, words in (
        (["--model", folder / "none", "--labels", labels], "no served model there"),
        (["--model", served_folder, "--labels", folder / "none.json"], "No such file"),
        (["--model", served_folder, "--labels", labels, "--videos", folder / "none"], "no such folder"),
        (["--model", served_folder, "--labels", labels, "--out", labels], "not a folder"),
    ):
        result = evaluate(folder, *arguments)
        assert result.exit_code == 1
        assert words in result.stderr


def test_tvsum_as_it_is(shared: Path, tmp_path: Path, served_folder: Path) -> None:
    source = shared / "data" / "tvsum"
    (tmp_path / "v").mkdir()
    for name in ("37rzWOQsNIw", "91IHQYk1IQM"):
        shutil.copyfile(source / "video_3fps" / f"{name}.mp4", tmp_path / "v" / f"{name}.mp4")
    result = evaluate(tmp_path, "--model", served_folder, "--labels", source / "tvsum_2s.h5")
    assert result.exit_code == 0, result.output
    figures = json.loads((tmp_path / "out" / "evaluation.json").read_text())["figures"]
    assert (figures["num_videos"], figures["num_labels_without_video"]) == (2, 31)
    assert 0.2 < figures["human_rho"] < 0.6
    assert figures["human_each_rho"] < figures["human_rho"]
    assert abs(figures["random_rho"]) < 0.1
    assert not math.isnan(figures["kendall_tau"])
