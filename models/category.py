"""What kind of moment a highlight is: funny, touching, action, educational or scenic, with a probability.

Two ways give one thing, a linear classifier of the mean unit embedding of a highlight:

- by prompts, as CLIP classifies (Radford et al. 2021, arXiv:2103.00020, section 3.1): the weights are the unit text
  embeddings of each category's prompts, averaged (their prompt ensembles, 3.1.4), and the softmax has the model's own
  logit scale. It needs a text tower, and an image tower that still looks where the text tower points: fine-tuning moves
  it a little.
- by labels: multinomial logistic regression on the categories that people gave to highlights of the train split; how
  strongly it is held back is chosen on val by log loss.

The classifier lies beside `model.json` in one file, so that serving needs no text tower and no training code. Knows
vectors and words; how they are made of videos is stage `categorise`.

Shapes: N highlights, C categories, D length of an embedding.
"""

import json
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, field_validator
from safetensors import SafetensorError, safe_open

from models.embedding_track import EmbeddingTrack, unit
from models.errors import DataError, ModelError, ShapeError
from models.params import Section
from models.shards import write_shard
from models.spans import Span

FORMAT_VERSION = 1
NAME = "categories"
CATEGORIES_FILE = f"{NAME}.safetensors"
CATEGORIES = ("funny", "touching", "action", "educational", "scenic")
Method = Literal["labels", "prompts", "none"]

_PROMPTS: dict[str, tuple[str, ...]] = {
    "funny": ("a funny moment with an animal", "a baby animal playing and tumbling", "animals playing with each other"),
    "touching": ("a touching moment", "animals greeting each other tenderly", "a mother animal caring for her young"),
    "action": ("a dramatic action scene", "an animal charging at the camera", "animals fighting or chasing"),
    "educational": ("natural behaviour of an animal", "an animal bathing or drinking", "an animal using a tool"),
    "scenic": ("a beautiful landscape", "a wide view of the savanna", "a sunset over the plain"),
}


class CategoriesParams(Section):
    """How highlights are sorted into categories."""

    method: Literal["auto", "labels", "prompts", "none"] = "auto"
    """`labels` learns from the train split, `prompts` asks the text tower, `auto` takes labels where there are enough
    and prompts where there is a text tower, `none` gives no category."""
    prompts: dict[str, tuple[str, ...]] = Field(default=_PROMPTS, min_length=2, validate_default=True)
    """Words for each category; their text embeddings are averaged."""
    templates: tuple[str, ...] = Field(default=("{}", "a video of {}"), min_length=1)
    """Sentences that each of the words is put into, at {}."""
    labels: dict[str, str] = Field(default_factory=dict)
    """Category of a video's `content` in the annotations, where it is not the category's own name."""
    min_labelled: int = Field(default=5, ge=1)
    """Train videos of a category from which it is learnt; `auto` takes labels from two such categories on."""
    regularisation: tuple[float, ...] = Field(default=(0.3, 1.0, 3.0, 10.0, 30.0, 100.0), min_length=1)
    """Inverse strengths of the L2 penalty among which val chooses; the middle one where val has no labels."""

    @field_validator("prompts")
    @classmethod
    def _with_words(cls, value: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        for name, prompts in value.items():
            if not name or not prompts or not all(prompt.strip() for prompt in prompts):
                raise ValueError(f"category {name!r} needs a name and at least one prompt, none of them empty")
        return value

    @field_validator("templates")
    @classmethod
    def _with_a_place(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not all(template.count("{}") == 1 for template in value):
            raise ValueError("each template needs {} once, where the words go")
        return value

    @field_validator("regularisation")
    @classmethod
    def _positive(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if not all(strength > 0 for strength in value):
            raise ValueError("must be above 0")
        return value

    def category_of(self, content: str) -> str | None:
        """Return the category of a video's `content`, or None where it has none."""
        name = self.labels.get(content, content)
        return name if name in self.prompts else None

    def texts(self) -> dict[str, list[str]]:
        """Return the sentences of each category."""
        return {
            name: [template.replace("{}", words) for words in prompts for template in self.templates]
            for name, prompts in self.prompts.items()
        }


@dataclass(frozen=True)
class Category:
    """What kind of moment a highlight is.

    name:        of the category
    probability: of it, beside the others, 0 to 1
    """

    name: str
    probability: float


@dataclass(frozen=True, eq=False)
class Categoriser:
    """A linear classifier of unit embeddings.

    names:      the C categories; none where there is no category to give
    weights_CD: float32 [C, D]
    bias_C:     float32 [C]
    scale:      multiplies the products of weights and embedding, above 0
    method:     how it was made
    note:       one line: what it was made of, or why it gives no category
    """

    names: tuple[str, ...]
    weights_CD: npt.NDArray[np.float32]
    bias_C: npt.NDArray[np.float32]
    scale: float
    method: Method
    note: str

    def __post_init__(self) -> None:
        count = len(self.names)
        if self.weights_CD.ndim != 2 or len(self.weights_CD) != count or self.bias_C.shape != (count,):
            raise ShapeError(
                f"categories: {count} names, weights {self.weights_CD.shape} and bias {self.bias_C.shape} must be "
                "C, [C, D] and [C]"
            )
        if not (np.isfinite(self.weights_CD).all() and np.isfinite(self.bias_C).all()):
            raise ShapeError("categories: weights and bias must be finite")
        if not (math.isfinite(self.scale) and self.scale > 0) or len(set(self.names)) != count:
            raise ShapeError(f"categories: scale {self.scale} must be above 0, and names {self.names} distinct")

    def probabilities(self, looks_ND: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
        """Return float32 [N, C] that sum to 1 over C; looks [N, D] of any length. Raises ShapeError."""
        if looks_ND.ndim != 2 or (self.names and looks_ND.shape[1] != self.weights_CD.shape[1]):
            raise ShapeError(f"categories: embeddings {looks_ND.shape} must be [N, {self.weights_CD.shape[1]}]")
        if not self.names:
            return np.zeros((len(looks_ND), 0), np.float32)
        logits_NC = self.scale * unit(looks_ND).astype(np.float64) @ self.weights_CD.T + self.bias_C
        return _softmax(logits_NC).astype(np.float32)

    def categorise(self, looks_ND: npt.NDArray[np.floating]) -> list[Category | None]:
        """Return the likeliest category of each of N highlights; None for one that looks like nothing (all 0)."""
        rows = self.probabilities(looks_ND)
        if not self.names:
            return [None] * len(looks_ND)
        return [
            Category(self.names[best], float(row[best])) if np.any(look) else None
            for look, row, best in zip(looks_ND, rows, rows.argmax(axis=1), strict=True)
        ]


def no_categories(why: str) -> Categoriser:
    """Return a categoriser that gives no category and says why."""
    return Categoriser((), np.zeros((0, 0), np.float32), np.zeros(0, np.float32), 1.0, "none", why)


def categories_of(
    categoriser: Categoriser | None, spans: Sequence[Span], embeddings: EmbeddingTrack
) -> list[Category | None]:
    """Return the category of each of the highlights `spans` of one video; None for each where there is nothing."""
    if categoriser is None or not categoriser.names or not spans:
        return [None] * len(spans)
    return categoriser.categorise(np.stack([embeddings.mean_over(span.start_s, span.end_s) for span in spans]))


def from_prompts(texts: Mapping[str, npt.NDArray[np.floating]], logit_scale: float) -> Categoriser:
    """Return the zero-shot classifier of text embeddings.

    texts:       category to the embeddings [P, D] of its P sentences, of any length
    logit_scale: what the model multiplies cosines by, above 0
    """
    weights_CD = unit(np.stack([unit(embeddings).mean(axis=0) for embeddings in texts.values()]))
    bias_C, names = np.zeros(len(weights_CD), np.float32), tuple(texts)
    return Categoriser(names, weights_CD, bias_C, logit_scale, "prompts", "by prompts: " + ", ".join(names))


@dataclass(frozen=True, eq=False)
class LabelledLooks:
    """Highlights that people sorted.

    looks_ND: float32 [N, D], mean unit embedding of each
    names:    the N categories
    """

    looks_ND: npt.NDArray[np.float32]
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.looks_ND.ndim != 2 or len(self.looks_ND) != len(self.names):
            raise ShapeError(f"categories: embeddings {self.looks_ND.shape} and {len(self.names)} names must be N each")

    def only(self, names: Sequence[str]) -> "LabelledLooks":
        """Return those of `names`."""
        held = [i for i, name in enumerate(self.names) if name in names]
        return LabelledLooks(self.looks_ND[held], tuple(self.names[i] for i in held))


def learnable(train: LabelledLooks, params: CategoriesParams) -> list[str]:
    """Return the categories that have enough highlights in train, in the order of `params.prompts`."""
    return [name for name in params.prompts if train.names.count(name) >= params.min_labelled]


def from_labels(train: LabelledLooks, val: LabelledLooks, params: CategoriesParams) -> Categoriser:
    """Return the logistic regression fitted on `train`, held back as strongly as is best for `val` by log loss.

    Raises DataError where fewer than two categories can be learnt.
    """
    names = learnable(train, params)
    if len(names) < 2:
        raise DataError(
            f"categories: {len(names)} of {', '.join(params.prompts)} with {params.min_labelled} labelled highlights "
            "in train; two are needed: label more, lower categories.min_labelled or set categories.method to prompts"
        )
    train, val = train.only(names), val.only(names)
    strengths = params.regularisation
    fits = {strength: _fit(train, names, strength) for strength in sorted(strengths)}
    if val.names:
        chosen = min(fits, key=lambda strength: (_log_loss(fits[strength], val), strength))
        how = f"chosen on {len(val.names)} of val"
    else:
        chosen = sorted(strengths)[len(strengths) // 2]
        how = "not chosen, val has no labels"
    weights_CD, bias_C = fits[chosen].weights_CD, fits[chosen].bias_C
    note = f"by labels: {len(train.names)} highlights of train, regularisation {chosen:g} ({how})"
    return Categoriser(tuple(names), weights_CD, bias_C, 1.0, "labels", note)


def accuracy(categoriser: Categoriser, truth: LabelledLooks) -> float:
    """Return the share of `truth` whose likeliest category is right, NaN without any."""
    if not truth.names or not categoriser.names:
        return math.nan
    found = [found.name if found else None for found in categoriser.categorise(truth.looks_ND)]
    return sum(name == true for name, true in zip(found, truth.names, strict=True)) / len(found)


def save_categories(folder: Path, categoriser: Categoriser) -> None:
    """Write `categoriser` into `folder`, in one file and atomically; equal content is equal bytes."""
    about = {
        "format_version": FORMAT_VERSION,
        "names": list(categoriser.names),
        "method": categoriser.method,
        "note": categoriser.note,
        "scale": categoriser.scale,
    }
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {"weights": categoriser.weights_CD, "bias": categoriser.bias_C}
    write_shard(folder, NAME, tensors, {"categories": json.dumps(about, ensure_ascii=False)})


def load_categories(folder: Path) -> Categoriser | None:
    """Return the categoriser beside the model in `folder`, None where there is none.

    Raises ModelError where the file is damaged or of another version.
    """
    path = folder / CATEGORIES_FILE
    if not path.exists():
        return None
    try:
        with safe_open(path, "numpy") as stored:
            weights, bias = stored.get_tensor("weights"), stored.get_tensor("bias")
            about: dict[str, Any] = json.loads(json.loads((stored.metadata() or {})["herdlight"])["categories"])
        if about.get("format_version") != FORMAT_VERSION:
            raise ModelError(f"{path}: format {about.get('format_version')!r} is not {FORMAT_VERSION}")
        names = tuple(str(name) for name in about["names"])
        return Categoriser(names, weights, bias, float(about["scale"]), about["method"], str(about["note"]))
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{path}: not a file of categories ({error}); run stage categorise again") from None


def copy_categories(source: Path, model: Path, embed_dim: int) -> Categoriser | None:
    """Put the categoriser in the folder `source` beside the served model in `model`, and return it; None without one.

    embed_dim: length of the served model's embeddings. Raises ModelError where the categoriser is for another.
    """
    categoriser = load_categories(source)
    if categoriser is None:
        return None
    if categoriser.names and categoriser.weights_CD.shape[1] != embed_dim:
        raise ModelError(
            f"{source / CATEGORIES_FILE}: for embeddings of length {categoriser.weights_CD.shape[1]}, the served model "
            f"has {embed_dim}; run stage categorise for this model"
        )
    save_categories(model, categoriser)
    return categoriser


def _fit(train: LabelledLooks, names: Sequence[str], strength: float) -> Categoriser:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    place = {name: i for i, name in enumerate(names)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the weights are then a little short of the optimum
        model = LogisticRegression(C=strength, max_iter=2000).fit(
            unit(train.looks_ND).astype(np.float64), [place[name] for name in train.names]
        )
    weights, bias = model.coef_, model.intercept_
    if len(names) == 2:  # the library keeps one row for two classes: the odds of the second
        weights, bias = np.stack([np.zeros_like(weights[0]), weights[0]]), np.array([0.0, bias[0]])
    return Categoriser(tuple(names), weights.astype(np.float32), bias.astype(np.float32), 1.0, "labels", "")


def _log_loss(categoriser: Categoriser, truth: LabelledLooks) -> float:
    rows = categoriser.probabilities(truth.looks_ND).astype(np.float64)
    true = [categoriser.names.index(name) for name in truth.names]
    return float(-np.log(np.maximum(rows[np.arange(len(true)), true], 1e-12)).mean())


def _softmax(logits_NC: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    raised = np.exp(logits_NC - logits_NC.max(axis=1, keepdims=True))
    shares: npt.NDArray[np.float64] = raised / raised.sum(axis=1, keepdims=True)
    return shares
