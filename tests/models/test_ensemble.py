"""Ensembles: the mean of the members, one run of a shared engine, and folders that are none."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from models.engines import build_engine
from models.ensemble import Ensemble, load_ensemble, load_scorer
from models.errors import ModelError
from models.files import write_json
from models.highlighter import HighlighterSpec, build_head
from models.members import ENSEMBLE_FILE, is_scorer_folder, member_folders, write_members
from models.served import ServedModel, load_served, save_served
from models.tower import Tower
from models.video import SampledVideo, Sampling
from tests.tiny_model import SIDE, TINY

VIDEO = SampledVideo(
    np.random.default_rng(0).integers(0, 256, (9, SIDE, SIDE, 3), dtype=np.uint8), np.arange(9) / 4, 2.25
)


def save(folder: Path, spec: HighlighterSpec, *, tower: int, head: int) -> Path:
    """Write a served model whose tower and head are drawn with these seeds."""
    torch.manual_seed(tower)
    build_engine("eager", Tower(spec.encoder, spec.unfreeze_blocks), folder.parent / "engine", SIDE, "float32")
    torch.manual_seed(head)
    save_served(folder, folder.parent / "engine", build_head(spec), spec)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an ensemble of three members, the first two over the same tower."""
    root = tmp_path_factory.mktemp("ensemble")
    for index, (tower, threshold) in enumerate(((0, 0.2), (0, 0.4), (7, 0.6))):
        save(root / f"fold-{index}", replace(TINY, threshold=threshold), tower=tower, head=10 + index)
    write_members(root, ["fold-0", "fold-1", "fold-2"])
    return root


def test_its_score_is_the_mean_of_the_members(folder: Path) -> None:
    ensemble = load_scorer(folder)
    assert isinstance(ensemble, Ensemble)
    tracks = [load_served(folder / f"fold-{index}").score_video(VIDEO) for index in range(3)]
    found = ensemble.score_video(VIDEO)
    assert np.ptp([track.scores for track in tracks], axis=0).max() > 1e-3  # three different models
    np.testing.assert_allclose(found.scores, np.mean([track.scores for track in tracks], axis=0), atol=1e-6)
    np.testing.assert_array_equal(found.times_s, VIDEO.times_s)
    assert found.duration_s == 2.25
    assert ensemble.spec.threshold == pytest.approx(0.4)


def test_a_shared_engine_runs_once(folder: Path) -> None:
    ensemble = load_scorer(folder)
    assert isinstance(ensemble, Ensemble)
    assert ensemble.engines == (0, 0, 2)
    dim = TINY.encoder.embed_dim
    assert ensemble.embed(VIDEO.frames_THWC).shape == (9, 2 * dim)
    with pytest.raises(ModelError, match=rf"must be \[T, {2 * dim}\]"):
        ensemble.score_track(np.zeros((9, dim), np.float32), VIDEO.times_s, 2.25)


def test_ensembles_of_ensembles_are_flat_and_a_model_is_itself(folder: Path) -> None:
    ensemble = load_ensemble([folder, folder / "fold-1"])
    assert ensemble.engines == (0, 0, 2, 0)
    assert isinstance(load_scorer(folder / "fold-0"), ServedModel)
    alone = load_ensemble([folder / "fold-0"]).score_video(VIDEO).scores
    np.testing.assert_allclose(alone, load_served(folder / "fold-0").score_video(VIDEO).scores, atol=1e-7)


def test_members_that_sample_otherwise_are_refused(folder: Path, tmp_path: Path) -> None:
    other = save(tmp_path / "other", replace(TINY, sampling=Sampling(2.0, SIDE, "squash")), tower=0, head=1)
    with pytest.raises(ModelError, match=r"member 1 takes .*fps=2.0.* member 0 .*fps=4.0.*one by one"):
        load_ensemble([folder / "fold-0", other])
    with pytest.raises(ModelError, match="needs one of each"):
        Ensemble((), ())


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"members": []}, r"members = \[\]"),
        ({"members": "fold-0"}, "members = 'fold-0'"),
        ({"members": [1]}, r"members = \[1\]"),
        ({"members": ["fold-9"]}, "no fold-9/model.json"),
        ({"members": ["../x"]}, "must lie below"),
        ({"members": ["/x"]}, "must lie below"),
        ({"folds": ["a"]}, "KeyError"),
        ([], "TypeError"),
    ],
)
def test_a_bad_list_of_members_is_told(tmp_path: Path, content: object, reason: str) -> None:
    write_json(tmp_path / ENSEMBLE_FILE, content)
    with pytest.raises(ModelError, match=reason) as caught:
        member_folders(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_folder_that_is_none_is_told(tmp_path: Path) -> None:
    assert not is_scorer_folder(tmp_path)
    with pytest.raises(ModelError):
        load_scorer(tmp_path)
    with pytest.raises(ModelError, match=r"no a/model\.json"):
        write_members(tmp_path, ["a"])
    (tmp_path / ENSEMBLE_FILE).write_bytes(b"\xff{")
    assert is_scorer_folder(tmp_path)
    with pytest.raises(ModelError, match="UnicodeDecodeError"):
        member_folders(tmp_path)
