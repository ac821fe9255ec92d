"""Stage `categorise`: a classifier that says what kind of moment a highlight is, for the model that will be served.

Its input is what the served model has: the mean unit embedding of a highlight, by the tower as trained and pruned.
People's word is `content` in the annotations: of the true highlights of a video, or of a whole video without one, such
as a view of the plain. Writes `model/categories.safetensors`, which goes beside the served model, and
`categories.json`: how it was made, and what was taken for what on test. Where there is neither a text tower nor
labels, the file gives no category and says so.
"""

import logging
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

import models.torchvision_operators  # noqa: F401  # isort: skip  (before open_clip)
import open_clip

from models.category import (
    CategoriesParams,
    Categoriser,
    LabelledLooks,
    accuracy,
    from_labels,
    from_prompts,
    learnable,
    no_categories,
    save_categories,
)
from models.embedding_track import unit
from models.encoder import EncoderSpec, load_encoder
from models.errors import ParamsError
from models.files import write_json
from models.highlighter import Highlighter, load_highlighter
from models.manifest import VideoRow, read_manifest
from models.shards import read_tensors
from models.spans import label_times
from tasks.shell import stage_shell

_log = logging.getLogger(__name__)
Looks = dict[str, LabelledLooks]


@dataclass(frozen=True, eq=False)
class CategoriseResult:
    """A categoriser and how it was judged.

    chosen:  what is served
    metrics: accuracy of both ways on val and test, and how many highlights that is
    table:   content of categories.json
    """

    chosen: Categoriser
    metrics: dict[str, float]
    table: dict[str, Any]


@torch.inference_mode()
def look_of(
    model: Highlighter, tokens_TLD: npt.NDArray[np.float16], inside_T: npt.NDArray[np.bool_]
) -> npt.NDArray[np.float32]:
    """Return float32 [D]: the mean unit embedding of the frames `inside` of one video, at least one."""
    features_ND = model.tail(torch.from_numpy(tokens_TLD[inside_T]).float()).numpy()
    return unit(unit(features_ND).mean(axis=0)[None]).reshape(-1)


def labelled_looks(rows: Sequence[VideoRow], tokens: Path, model: Highlighter, params: CategoriesParams) -> Looks:
    """Return the highlights of each split whose `content` is a category, from the stored tokens."""
    found: dict[str, tuple[list[npt.NDArray[np.float32]], list[str]]] = {s: ([], []) for s in ("train", "val", "test")}
    for row in rows:
        if (name := params.category_of(row.content)) is None:
            continue
        stored, _ = read_tensors(tokens, row.video_id, ("tokens", "times_s"))
        inside = label_times(stored["times_s"], row.spans).astype(bool)
        if not inside.any():  # a video without a highlight is of its category throughout
            inside[:] = not row.spans
        if inside.any():
            found[row.split][0].append(look_of(model, stored["tokens"][0], inside))
            found[row.split][1].append(name)
    return {
        split: LabelledLooks(np.stack(looks) if looks else np.zeros((0, 0), np.float32), tuple(names))
        for split, (looks, names) in found.items()
    }


@torch.inference_mode()
def prompt_categoriser(clip: nn.Module, spec: EncoderSpec, params: CategoriesParams) -> Categoriser | None:
    """Return the zero-shot classifier of `params`, None where the encoder has no text tower."""
    if not spec.has_text_tower:
        return None
    tokenizer = open_clip.get_tokenizer(spec.name)
    texts = {name: clip.encode_text(tokenizer(words)).numpy() for name, words in params.texts().items()}  # type: ignore[operator]
    return from_prompts(texts, float(clip.logit_scale.detach().exp()))  # type: ignore[operator]


def choose_categoriser(looks: Looks, prompts: Categoriser | None, params: CategoriesParams) -> CategoriseResult:
    """Return the categoriser that `params` ask for, judged beside the other one.

    prompts: the zero-shot classifier, None where there is no text tower
    Raises ParamsError where `prompts` are asked for without a text tower, DataError where `labels` are without labels.
    """
    enough = len(learnable(looks["train"], params)) >= 2
    labels = from_labels(looks["train"], looks["val"], params) if enough or params.method == "labels" else None
    if params.method == "prompts" and prompts is None:
        raise ParamsError("categories.method = 'prompts': the encoder has no text tower; use labels, auto or none")
    if params.method == "none":
        chosen = no_categories("categories.method is none")
    elif params.method == "prompts" or labels is None:
        why = "no category: the encoder has no text tower, and train has too few labels for two categories"
        chosen = prompts or no_categories(why)
    else:
        chosen = labels
    return CategoriseResult(chosen, *_judge(looks, chosen, {"prompts": prompts, "labels": labels}))


def _judge(
    looks: Looks, chosen: Categoriser, ways: dict[str, Categoriser | None]
) -> tuple[dict[str, float], dict[str, Any]]:
    """Return the flat figures and the table."""
    metrics: dict[str, float] = {}
    for split in ("val", "test"):
        names = looks[split].names
        metrics[f"num_{split}"] = len(names)
        metrics[f"{split}_most_frequent"] = max(Counter(names).values()) / len(names) if names else math.nan
        for way, categoriser in ways.items():
            metrics[f"{split}_accuracy_{way}"] = accuracy(categoriser, looks[split]) if categoriser else math.nan
    taken = Counter(zip(looks["test"].names, _names(chosen, looks["test"]), strict=True))
    rows = [{"true": true, "found": found, "count": count} for (true, found), count in sorted(taken.items())]
    table = {"method": chosen.method, "note": chosen.note, "names": list(chosen.names), "test": rows}
    return metrics, table


def _names(categoriser: Categoriser, truth: LabelledLooks) -> list[str]:
    return [found.name if found else "" for found in categoriser.categorise(truth.looks_ND)]


def main(argv: Sequence[str] | None = None) -> None:
    """Run the stage."""
    with stage_shell("categorise", ["manifest", "tokens", "encoder", "model"], argv) as shell:
        params = shell.section("categories", CategoriesParams)
        model, _ = load_highlighter(shell["model"])
        prompts = prompt_categoriser(*load_encoder(shell["encoder"]), params)
        looks = labelled_looks(read_manifest(shell["manifest"]), shell["tokens"], model, params)
        result = choose_categoriser(looks, prompts, params)
        _log.info(result.chosen.note)
        save_categories(shell.out / "model", result.chosen)
        write_json(shell.out / "categories.json", result.table)
        shell.write_metrics(result.metrics)


if __name__ == "__main__":
    main()
