"""The ladder of runtimes on ViT-B/32: every way to run it on a processor against float32 eager.

No weights of a CLIP are to be had without a network, and neither speed nor the share of rounding in a score hangs on
which ones they are: the tower is open_clip's ViT-B-32 as it starts out, by a stated seed. Its last block and the head
are trained on the sample's train frames through the pipeline's own stages, so that scores tell highlights from the
rest and a rounded score can be wrong; how well they do is among the figures (`best_cpu/float32/f1`).
"""

from pathlib import Path
from typing import Any

from benchmarks.ladder_sample import Sample, figures_of, named, rung_figures, speedup
from models.encoder import EncoderParams, untrained_encoder
from models.ladder import REFERENCE, RungResult
from tasks.embed import EmbedParams, store_tokens
from tasks.frames import FramesParams, store_frames
from tasks.ladder import LadderParams, LadderResult, measure_ladder
from tasks.rungs import Model
from tasks.train import SpansParams, TrainParams, new_highlighter, open_videos, train

NAME = "ViT-B-32"
RUNGS = ("bfloat16", "torchscript-bfloat16", "openvino-bfloat16", "openvino-int8")
MAX_MEAN_SCORE_DIFF = 0.005
SEED = 0


def train_vit(sample: Sample, fps: float, epochs: int, scratch: Path) -> tuple[Model, Sample]:
    """Return ViT-B/32 with a trained last block and head, and the sample at its size.

    fps: frames a second that are taken of each video
    """
    encoder = EncoderParams(name=NAME, unfreeze_blocks=1)
    clip, encoder_spec = untrained_encoder(encoder, SEED)
    frames = FramesParams(fps=fps)
    fitting = TrainParams(epochs=epochs, patience=epochs, seed=SEED, learning_rate=5e-4, tower_rate=0.2)
    sections = (encoder, frames, SpansParams(), fitting)
    model, spec = new_highlighter(clip.visual, encoder_spec, sections)  # type: ignore[arg-type]
    model.eval()
    stored = store_frames(sample.rows, sample.videos, spec.sampling, scratch / "frames")
    at_size = Sample(stored.rows, scratch / "frames", sample.videos, fitting)
    store_tokens(stored.rows, at_size.frames, model.tower, "", EmbedParams(views=0, batch_size=32), scratch / "tokens")
    videos = open_videos(stored.rows, scratch / "tokens", fitting.target)
    result = train(model, spec, stored.rows, videos, fitting, scratch / "checkpoints")
    return (model, result.spec), at_size


def best_rung(result: LadderResult) -> RungResult:
    """Return the fastest rung whose scores differ by at most MAX_MEAN_SCORE_DIFF on average; the reference at worst."""
    able = [row for row in result.rows if row.figures and row.figures.mean_score_diff <= MAX_MEAN_SCORE_DIFF]
    return max(able, key=lambda row: row.figures.best.frames_per_s if row.figures else 0.0)


def measure_runtimes(
    sample: Sample, params: LadderParams, scratch: Path, fps: float, epochs: int
) -> tuple[dict[str, float | None], dict[str, Any]]:
    """Return figures and details."""
    model, at_size = train_vit(sample, fps, epochs, scratch)
    params = params.model_copy(update={"rungs": RUNGS})
    footage = at_size.footage(params.num_calibration_frames)
    result = measure_ladder(model, footage, params, {}, scratch / "rungs")
    best, reference = best_rung(result), figures_of(result, REFERENCE.name)
    figures = figures_of(result, best.rung.name)
    found: dict[str, float | None] = named("best_cpu_speedup", speedup(figures, reference))
    found["best_cpu_mean_score_diff"] = figures.mean_score_diff
    found["best_cpu_max_score_diff"] = figures.max_score_diff
    rows = [row.to_json() for row in result.rows]
    told = {"tower": f"open_clip {NAME}, as it starts out, seed {SEED}", "best": best.rung.name, "rungs": rows}
    return found | rung_figures("best_cpu", result.rows), {"best_cpu": told}
