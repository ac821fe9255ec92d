"""What kind of moment a highlight is: both ways to a classifier, what it stores, and what it refuses."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from models.category import (
    CATEGORIES,
    CATEGORIES_FILE,
    CategoriesParams,
    Categoriser,
    LabelledLooks,
    accuracy,
    categories_of,
    copy_categories,
    from_labels,
    from_prompts,
    load_categories,
    no_categories,
    save_categories,
)
from models.embedding_track import EmbeddingTrackBuilder
from models.errors import DataError, ModelError, ShapeError
from models.spans import Span

DIM = 8
EYE = np.eye(DIM, dtype=np.float32)


def looks(names: list[str], noise: float = 0.2, seed: int = 0) -> LabelledLooks:
    """Return highlights that point along the axis of their category, with noise."""
    rng = np.random.default_rng(seed)
    rows = [EYE[CATEGORIES.index(name)] + noise * rng.normal(size=DIM) for name in names]
    return LabelledLooks(np.array(rows, np.float32).reshape(len(names), DIM), tuple(names))


def test_by_prompts_it_is_the_softmax_of_scaled_cosines_with_the_mean_of_each_ensemble() -> None:
    texts = {"funny": np.array([EYE[0] * 9, EYE[1]]), "scenic": EYE[2:3]}
    made = from_prompts(texts, 10.0)
    found = made.probabilities(EYE[:1] * 3)[0]
    logits = 10.0 * np.array([np.sqrt(0.5), 0.0])
    assert np.allclose(found, np.exp(logits) / np.exp(logits).sum(), atol=1e-6)
    assert made.method == "prompts"


def test_labels_are_learnt_and_val_chooses_how_strongly_they_are_held_back() -> None:
    params = CategoriesParams()
    train, val = looks(list(CATEGORIES) * 8), looks(list(CATEGORIES) * 3, seed=1)
    made = from_labels(train, val, params)
    assert made.names == CATEGORIES
    assert accuracy(made, looks(list(CATEGORIES) * 20, seed=2)) > 0.95
    assert "chosen on 15 of val" in made.note
    noisy = from_labels(looks(list(CATEGORIES) * 8, 2.0), looks(list(CATEGORIES) * 8, 2.0, 1), params)
    strengths = [float(m.note.split("regularisation ")[1].split()[0]) for m in (noisy, made)]
    assert strengths[0] < strengths[1]  # what is noise is held back


def test_what_has_too_few_labels_is_not_learnt() -> None:
    params = CategoriesParams(min_labelled=3)
    names = ["funny"] * 6 + ["action"] * 3 + ["scenic"] * 2
    made = from_labels(looks(names), looks([]), params)
    assert made.names == ("funny", "action")
    assert "val has no labels" in made.note
    assert accuracy(made, looks(["funny", "action"] * 5, seed=3)) == 1.0
    with pytest.raises(DataError, match=r"1 of funny.*categories.method to prompts"):
        from_labels(looks(["funny"] * 9 + ["scenic"]), looks([]), params)


@given(st.lists(st.lists(st.floats(-1e3, 1e3), min_size=DIM, max_size=DIM), max_size=6))
def test_probabilities_are_probabilities_and_length_means_nothing(rows: list[list[float]]) -> None:
    made = from_prompts({"funny": EYE[:2], "action": EYE[2:4], "scenic": EYE[4:]}, 100.0)
    given_ND = np.array(rows).reshape(len(rows), DIM)
    found = made.probabilities(given_ND)
    assert found.shape == (len(rows), 3)
    assert np.all((found >= 0) & (found <= 1))
    assert np.allclose(found.sum(axis=1), 1, atol=1e-5)
    big = np.linalg.norm(given_ND, axis=1) > 1e-3
    assert np.allclose(made.probabilities(given_ND * 2)[big], found[big], atol=1e-4)
    for row, category in zip(given_ND, made.categorise(given_ND), strict=True):
        assert (category is None) == (not row.any())
        assert category is None or category.probability >= 1 / 3 - 1e-6


def test_highlights_of_a_video_get_the_category_of_what_they_look_like() -> None:
    builder = EmbeddingTrackBuilder(1.0)
    builder.add(np.arange(6.0), np.concatenate([EYE[:1]] * 3 + [EYE[2:3]] * 3))
    made = from_prompts({"funny": EYE[:1], "action": EYE[2:3]}, 20.0)
    found = categories_of(made, [Span(0, 2.5), Span(3, 6)], builder.build())
    assert [category.name for category in found if category] == ["funny", "action"]
    for nothing in (None, no_categories("why")):
        assert categories_of(nothing, [Span(0, 2)], builder.build()) == [None]


def test_it_is_stored_in_one_file_with_the_same_bytes_and_read_back(tmp_path: Path) -> None:
    made = from_labels(looks(list(CATEGORIES) * 8), looks(list(CATEGORIES)), CategoriesParams())
    save_categories(tmp_path / "a", made)
    save_categories(tmp_path / "b", made)
    assert [path.name for path in (tmp_path / "a").iterdir()] == [CATEGORIES_FILE]
    assert (tmp_path / "a" / CATEGORIES_FILE).read_bytes() == (tmp_path / "b" / CATEGORIES_FILE).read_bytes()
    again = load_categories(tmp_path / "a")
    assert again is not None
    assert (again.names, again.method, again.note, again.scale) == (made.names, made.method, made.note, made.scale)
    probe = looks(list(CATEGORIES)).looks_ND
    assert np.array_equal(again.probabilities(probe), made.probabilities(probe))


def test_a_model_without_categories_says_so(tmp_path: Path) -> None:
    assert load_categories(tmp_path) is None
    save_categories(tmp_path, no_categories("no text tower"))
    again = load_categories(tmp_path)
    assert again is not None
    assert (again.names, again.method, again.note) == ((), "none", "no text tower")
    assert again.categorise(np.ones((2, DIM))) == [None, None]


def test_it_goes_beside_the_served_model_that_it_fits(tmp_path: Path) -> None:
    made = from_prompts({"funny": EYE[:1], "action": EYE[2:3]}, 20.0)
    assert copy_categories(tmp_path / "none", tmp_path / "served", DIM) is None
    assert not (tmp_path / "served").exists()
    save_categories(tmp_path / "a", made)
    copy_categories(tmp_path / "a", tmp_path / "served", DIM)
    assert (tmp_path / "served" / CATEGORIES_FILE).read_bytes() == (tmp_path / "a" / CATEGORIES_FILE).read_bytes()
    with pytest.raises(ModelError, match="of length 8, the served model has 16"):
        copy_categories(tmp_path / "a", tmp_path / "served", 16)


def test_a_damaged_file_is_refused_in_one_line(tmp_path: Path) -> None:
    save_categories(tmp_path, from_prompts({"funny": EYE[:1], "action": EYE[2:3]}, 20.0))
    whole = (tmp_path / CATEGORIES_FILE).read_bytes()
    for damaged in (
        whole[:-4],
        b"",
        b"\x80\x04K\x01.",
        whole.replace(b'format_version\\\\\\": 1', b'format_version\\\\\\": 7'),
    ):
        assert damaged != whole
        (tmp_path / CATEGORIES_FILE).write_bytes(damaged)
        with pytest.raises(ModelError, match=CATEGORIES_FILE) as raised:
            load_categories(tmp_path)
        assert "\n" not in str(raised.value)


def test_embeddings_of_another_model_are_refused() -> None:
    made = from_prompts({"funny": EYE[:1], "action": EYE[2:3]}, 20.0)
    with pytest.raises(ShapeError, match=r"must be \[N, 8\]"):
        made.probabilities(np.ones((2, DIM + 1)))
    with pytest.raises(ShapeError, match="finite"):
        Categoriser(("a",), np.full((1, 2), np.nan, np.float32), np.zeros(1, np.float32), 1.0, "labels", "")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"prompts": {"funny": ["x"]}}, "at least 2"),
        ({"prompts": {"funny": ["x"], "action": []}}, "at least one prompt"),
        ({"prompts": {"funny": ["x"], "action": [" "]}}, "none of them empty"),
        ({"templates": ["by day"]}, "once, where the words go"),
        ({"regularisation": [0.0]}, "above 0"),
        ({"method": "guess"}, "labels"),
    ],
)
def test_params_that_make_no_sense_are_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        CategoriesParams(**values)


def test_the_content_of_a_video_is_a_category_by_name_or_by_the_table() -> None:
    params = CategoriesParams(labels={"playing": "funny", "odd": "nowhere"})
    assert [params.category_of(c) for c in ("playing", "scenic", "odd", "", "walking")] == [
        "funny", "scenic", None, None, None
    ]  # fmt: skip
    assert params.texts()["scenic"][:2] == ["a beautiful landscape", "a video of a beautiful landscape"]
