"""The cross-validation on TVSum: what is held out, what the stages are given, and which figures come out."""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import tvsum
from benchmarks.tvsum import Graded, figures_of, lay_out, read_videos, split_folds
from models.errors import StageFailed
from models.graded import evaluate_graded
from models.importance import Importance
from models.params import parse_section, read_params
from tasks.annotations import read_annotations
from tasks.profiles import SECTION_MODULES, section_class

ROOT = Path(__file__).resolve().parents[1]


def video(name: str, folder: Path, num_shots: int = 8) -> Graded:
    path = folder / f"{name}.mp4"
    path.write_text(name)
    scores = np.random.default_rng(len(name)).integers(1, 6, (4, num_shots)).astype(np.float64)
    return Graded(name, path, 2.0 * num_shots, Importance(2.0, scores))


@given(st.integers(6, 60), st.integers(2, 5))
def test_every_video_is_held_out_once_and_val_is_never_the_test(num_videos: int, num_folds: int) -> None:
    names = [f"v{index:02d}" for index in range(num_videos)]
    folds = split_folds(names, num_folds)
    assert sorted(name for splits in folds for name in names if splits[name] == "test") == names
    for splits in folds:
        assert set(splits) == set(names)
        assert 1 <= sum(split == "val" for split in splits.values()) <= tvsum.NUM_VAL
        assert sum(split == "train" for split in splits.values()) >= num_videos // 2 - tvsum.NUM_VAL
    assert folds == split_folds(names, num_folds)


def test_the_data_of_a_fold_is_in_the_convention_and_the_next_fold_replaces_it(tmp_path: Path) -> None:
    videos = [video(name, tmp_path) for name in ("-dash", "b", "c")]
    lay_out(videos, {"-dash": "train", "b": "val", "c": "test"}, tmp_path / "data")
    lay_out(videos, {"-dash": "test", "b": "train", "c": "val"}, tmp_path / "data")
    found = sorted(path.relative_to(tmp_path / "data" / "videos").as_posix() for path in tmp_path.rglob("videos/*/*"))
    assert found == ["test/-dash.mp4", "train/b.mp4", "val/c.mp4"]
    assert (tmp_path / "data" / "videos" / "test" / "-dash.mp4").read_text() == "-dash"
    annotations = read_annotations(tmp_path / "data" / "annotations.json")
    assert not annotations.problems
    entry = annotations.entries["train/b.mp4"]
    assert entry.importance is not None
    assert entry.importance.shot_s == 2.0
    np.testing.assert_array_equal(np.array(entry.importance.scores), videos[1].importance.scores_AS)


def test_figures_are_of_the_chosen_loss_beside_the_others_and_the_rows_without_a_model(tmp_path: Path) -> None:
    videos = [video(name, tmp_path, 12) for name in ("aa", "bbb", "cccc")]
    truth = {v.name: v.importance for v in videos}
    right = {v.name: v.importance.mean_S for v in videos}
    wrong = {name: -scores for name, scores in right.items()}
    evaluation = evaluate_graded(truth, {"bce": wrong, "regression": right}, num_bootstrap=100, confidence=0.95, seed=0)
    figures = figures_of(evaluation, "regression")
    assert figures["spearman_rho"] == figures["ceiling_rho"] == figures["loss_regression_rho"]
    assert figures["loss_bce_rho"] == pytest.approx(-figures["spearman_rho"])  # type: ignore[operator]
    assert {"kendall_tau", "top5_map", "random_rho", "uniform_rho", "human_rho", "human_each_rho"} <= set(figures)
    assert all(value is not None and math.isfinite(value) for value in figures.values())


def test_a_stage_that_fails_says_its_last_line(tmp_path: Path) -> None:
    with pytest.raises(StageFailed, match=r"^stage ingest: .*params.yaml"):
        tvsum.run_stage(tmp_path, "ingest")


def test_the_profile_is_accepted_by_every_section() -> None:
    profile = read_params(ROOT / "params" / f"{tvsum.PROFILE}.yaml")
    for name, values in profile.items():
        assert name in SECTION_MODULES
        parse_section({**read_params(ROOT / "params.yaml").get(name, {}), **values}, name, section_class(name))


def test_the_33_videos_and_their_20_annotators_are_read(shared: Path) -> None:
    videos = read_videos(shared)
    assert len(videos) == 33
    assert {v.importance.num_annotators for v in videos} == {20}
    shortest = read_videos(shared, 3)
    assert max(v.duration_s for v in shortest) <= sorted(v.duration_s for v in videos)[3]
