"""Stage `embed`: the frozen part of the image tower run once per frame and view, and the zero-shot scores.

An epoch of training then costs only the tail and the head. One shard a video: `tokens` float16 [V, T, L, D] (V views,
the first one untouched; val and test have only that one) and `times_s` float64 [T]. A frozen tower's tokens are its
features, L = 1. An encoder without a text tower has no zero-shot scores: `zero_shot.parquet` has no rows then.
"""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from pydantic import Field
from torch import Tensor, nn

import models.torchvision_operators  # noqa: F401  # isort: skip  (before open_clip)
import open_clip

from models.encoder import EncoderParams, EncoderSpec, hash_encoder, load_encoder
from models.errors import ModelError
from models.manifest import VideoRow, read_manifest
from models.params import Section
from models.predictions import no_predictions, predictions_of, write_predictions
from models.shards import fingerprint, keep_only, read_frames_shard, read_metadata, read_tensors, write_shard
from models.tower import Tower
from models.video import SampledVideo
from models.views import apply_view, draw_view
from tasks.shell import progress_bar, stage_shell

_log = logging.getLogger(__name__)
_VERSION = 1  # raise it when the same params give other tokens


class EmbedParams(Section):
    """What is computed once per frame."""

    views: int = Field(default=2, ge=0, le=64)
    """Augmented views of each train video, beside the untouched one."""
    min_crop: float = Field(default=0.75, gt=0, le=1)
    """Smallest side of a view's crop, share of the picture's side."""
    colour: float = Field(default=0.3, ge=0, lt=1)
    """Largest change of brightness, contrast and saturation in a view, share."""
    max_blur: float = Field(default=0.8, ge=0)
    """Largest sigma of a view's blur, px."""
    batch_size: int = Field(default=128, ge=1)
    """Frames at once through the tower."""
    seed: int = Field(default=0, ge=0)
    """Of the views."""
    highlight_prompts: tuple[str, ...] = Field(min_length=1, default=("an elephant doing something remarkable",))
    """Words that describe what is worth sharing, for zero-shot scores."""
    other_prompts: tuple[str, ...] = Field(min_length=1, default=("nothing is happening",))
    """Words that describe everything else."""


def view_seed(seed: int, video_id: str, view: int) -> int:
    """Return the seed of one view of one video."""
    return int(fingerprint(seed, video_id, view), 16) % (1 << 62)


@torch.inference_mode()
def embed_views(
    tower: Tower, video: SampledVideo, video_id: str, num_views: int, params: EmbedParams
) -> npt.NDArray[np.float16]:
    """Return tokens float16 [1 + num_views, T, L, D] of a video: untouched first, then the drawn views."""
    frames_TCHW = torch.from_numpy(video.frames_THWC).permute(0, 3, 1, 2).contiguous()
    seen = [frames_TCHW]
    for view in range(num_views):
        drawn = draw_view(
            view_seed(params.seed, video_id, view),
            min_crop=params.min_crop, colour=params.colour, max_blur=params.max_blur,
        )  # fmt: skip
        seen.append(apply_view(frames_TCHW, drawn))
    tokens = np.stack(
        [
            torch.cat([tower.front(part.float()).half() for part in torch.split(x, params.batch_size)]).numpy()
            for x in seen
        ]
    )
    if not np.isfinite(tokens).all():
        raise ModelError(
            f"{video_id}: tokens are not finite in float16, which they are stored in; check encoder's mean, std and "
            "output, or choose another tower"
        )
    return tokens


def store_tokens(
    rows: Sequence[VideoRow],
    frames: Path,
    tower: Tower,
    weights_hash: str,
    params: EmbedParams,
    folder: Path,
    on_progress: Callable[[int], None] = lambda done: None,
) -> dict[str, float]:
    """Write the token shards of `rows` from the frame shards in `frames`; what is there already is kept."""
    num_views = {row.video_id: params.views if row.split == "train" else 0 for row in rows}
    drawing = params.model_dump(include={"min_crop", "colour", "max_blur", "seed"})
    wanted = {
        video_id: fingerprint(
            _VERSION, weights_hash, tower.num_front, (read_metadata(frames, video_id) or {}).get("fingerprint"),
            count, drawing if count else None,
        )
        for video_id, count in num_views.items()
    }  # fmt: skip
    current = keep_only(folder, wanted)
    num_tokens = 0
    for done, row in enumerate(rows, start=1):
        if row.video_id not in current:
            video = read_frames_shard(frames, row.video_id)
            tokens = embed_views(tower, video, row.video_id, num_views[row.video_id], params)
            metadata = {"fingerprint": wanted[row.video_id], "num_views": str(len(tokens))}
            write_shard(folder, row.video_id, {"tokens": tokens, "times_s": video.times_s}, metadata)
        num_tokens += int((read_metadata(folder, row.video_id) or {})["num_views"])
        on_progress(done)
    return {"num_videos": len(rows), "num_views": num_tokens}


@torch.inference_mode()
def prompt_classifier(clip: nn.Module, spec: EncoderSpec, params: EmbedParams) -> Tensor:
    """Return unit text embeddings [P, E] of all prompts, those of highlights first."""
    tokenizer = open_clip.get_tokenizer(spec.name)
    texts = tokenizer([*params.highlight_prompts, *params.other_prompts])
    return clip.encode_text(texts, normalize=True)  # type: ignore[no-any-return, operator]


@torch.inference_mode()
def zero_shot_scores(
    features_TE: Tensor, prompts_PE: Tensor, num_highlight: int, logit_scale: float
) -> npt.NDArray[np.float32]:
    """Return float32 [T]: the share of the softmax over all prompts that goes to those of highlights.

    As CLIP classifies (Radford et al. 2021, arXiv:2103.00020, section 3.1).
    """
    logits_TP = logit_scale * nn.functional.normalize(features_TE, dim=-1) @ prompts_PE.T
    scores: npt.NDArray[np.float32] = logits_TP.softmax(dim=-1)[:, :num_highlight].sum(dim=-1).clamp(0, 1).numpy()
    return scores


def score_prompts(
    clip: nn.Module, spec: EncoderSpec, tower: Tower, rows: Sequence[VideoRow], folder: Path, params: EmbedParams
) -> pd.DataFrame:
    """Return the frame table of zero-shot scores of val and test, from the stored tokens in `folder`."""
    prompts_PE = prompt_classifier(clip, spec, params)
    scale = float(clip.logit_scale.detach().exp())  # type: ignore[operator]
    scored = []
    for row in rows:
        if row.split != "train":
            tensors, _ = read_tensors(folder, row.video_id, ("tokens", "times_s"))
            with torch.inference_mode():
                features_TE = tower.tail(torch.from_numpy(tensors["tokens"][0]).float())
            scores = zero_shot_scores(features_TE, prompts_PE, len(params.highlight_prompts), scale)
            scored.append((row, tensors["times_s"], scores))
    return predictions_of(scored)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the stage."""
    with stage_shell("embed", ["manifest", "frames", "encoder"], argv) as shell:
        params, encoder_params = shell.section("embed", EmbedParams), shell.section("encoder", EncoderParams)
        clip, spec = load_encoder(shell["encoder"])
        tower = Tower(spec, encoder_params.unfreeze_blocks, clip.visual).eval()  # type: ignore[arg-type]
        rows = read_manifest(shell["manifest"])
        weights_hash = hash_encoder(shell["encoder"])
        with progress_bar("videos", len(rows)) as on_progress:
            folder = shell.out / "shards"
            metrics = store_tokens(rows, shell["frames"], tower, weights_hash, params, folder, on_progress)
        scores = score_prompts(clip, spec, tower, rows, folder, params) if spec.has_text_tower else no_predictions()
        write_predictions(shell.out / "zero_shot.parquet", scores)
        shell.write_metrics(metrics)


if __name__ == "__main__":
    main()
