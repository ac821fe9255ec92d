"""The ladder's steps that change the network: structured pruning of nano, and token merging of a small ViT.

Structured pruning goes through the model that stage `train` left of the sample, `nano`, and is held against it in the
same runtime. nano is a ResNet and has no patch tokens. So tokens are merged in a small vision transformer that learns
from scratch here, on the train frames of the sample, from nano and from the labels (Touvron et al., "Training
data-efficient image transformers & distillation through attention", ICML 2021, arXiv:2012.12877).
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.ladder_sample import Sample, figures_of, named, rung_figures, speedup
from models.highlighter import Highlighter
from models.ladder import REFERENCE, RungResult
from models.recovery import RecoveryPlan, recover
from tasks.ladder import LadderParams, LadderResult, measure_ladder
from tasks.rungs import Model
from tasks.shrinks import Shrinking, TokenSchedule, make_shrinks, settle, train_videos

STRUCTURED = "structured-70"
PRUNINGS = {
    STRUCTURED: Shrinking(amount=0.7, recovery_epochs=10),
    "sparse-2:4": Shrinking(method="two_four", recovery_epochs=2),
}
RUNTIME = "openvino"
PRUNED_RUNGS = (STRUCTURED, RUNTIME, f"{STRUCTURED}+{RUNTIME}", "sparse-2:4", f"sparse-2:4+{RUNTIME}")
TOKENS = {
    "merged-4": TokenSchedule(num_merged=4),
    "merged-8": TokenSchedule(num_merged=8),
    "merged-8-decreasing": TokenSchedule(num_merged=8, schedule="decreasing"),
    "merged-12-recovered": TokenSchedule(num_merged=12, recovery_epochs=2, recovery_rate=0.5),
}
MAX_F1_DROP = 0.005
# 65 tokens of width 128 on nano's 64 px frames.
VISION = {"layers": 4, "width": 128, "head_width": 32, "patch_size": 8}
SEED = 0


def measure_structured(
    sample: Sample, parent: Model, params: LadderParams, scratch: Path, *, quick: bool
) -> tuple[dict[str, float | None], dict[str, Any]]:
    """Return figures and details of structured pruning against its parent, in eager float32 and in OpenVINO."""
    prunings = PRUNINGS
    if quick:
        prunings = {name: step.model_copy(update={"recovery_epochs": 1}) for name, step in PRUNINGS.items()}
    shrinks = make_shrinks(prunings, {}, sample.training())
    params = params.model_copy(update={"rungs": PRUNED_RUNGS})
    result = measure_ladder(parent, sample.footage(params.num_calibration_frames), params, shrinks, scratch)
    served, before = figures_of(result, f"{STRUCTURED}+{RUNTIME}"), figures_of(result, RUNTIME)
    difference = served.f1_difference
    values = {
        "f1_drop": -difference.value,
        "f1_drop_low": -difference.high,
        "f1_drop_high": -difference.low,
        "p_worse": served.p_worse,
        "disk_ratio": served.disk_mb / before.disk_mb,
    }
    found = named("structured_speedup", speedup(served, before)) | named("structured_", values)
    eager = speedup(figures_of(result, STRUCTURED), figures_of(result, REFERENCE.name))
    found |= named("structured_eager_speedup", eager) | rung_figures("structured", result.rows)
    told = {"parent": "build/train/model", "runtime": RUNTIME, "rungs": [row.to_json() for row in result.rows]}
    return found, {"structured": told}


def train_vit(sample: Sample, teacher: Model, epochs: int) -> Model:
    """Return a small ViT highlighter that learnt from `teacher` and the labels; its head starts as the teacher's."""
    highlighter, spec = teacher
    config = {"embed_dim": spec.encoder.embed_dim, "vision_cfg": {**VISION, "image_size": spec.encoder.image_size}}
    spec = replace(spec, encoder=replace(spec.encoder, name="vit-small", model_config=config), unfreeze_blocks=0)
    torch.manual_seed(SEED)
    student = Highlighter(spec)
    student.head.load_state_dict(highlighter.head.state_dict())
    recover(student, highlighter, train_videos(sample.training()), spec.window, RecoveryPlan(epochs, 1e-3, seed=SEED))
    return settle(student, spec, sample.training())


def best_schedule(result: LadderResult) -> RungResult:
    """Return the fastest schedule that is at most MAX_F1_DROP down; the one that is least down where none is."""
    rows = [row for row in result.rows if row.figures is not None and row.rung != REFERENCE]
    kept = [row for row in rows if row.figures and row.figures.f1_difference.value >= -MAX_F1_DROP]
    if kept:
        return max(kept, key=lambda row: row.figures.best.frames_per_s if row.figures else 0.0)
    return max(rows, key=lambda row: row.figures.f1_difference.value if row.figures else -1.0)


def measure_tokens(
    sample: Sample, teacher: Model, params: LadderParams, scratch: Path, epochs: int
) -> tuple[dict[str, float | None], dict[str, Any]]:
    """Return figures and details of token merging against the ViT that merges nothing, in eager float32."""
    model = train_vit(sample, teacher, epochs)
    shrinks = make_shrinks({}, TOKENS, sample.training())
    params = params.model_copy(update={"rungs": tuple(TOKENS)})
    result = measure_ladder(model, sample.footage(params.num_calibration_frames), params, shrinks, scratch)
    best, reference = best_schedule(result), figures_of(result, REFERENCE.name)
    figures = figures_of(result, best.rung.name)
    drop, gain = figures.f1_difference, speedup(figures, reference)
    values = {"f1_drop": -drop.value, "f1_drop_low": -drop.high, "f1_drop_high": -drop.low, "p_worse": figures.p_worse}
    found = named("tokens_speedup", gain) | named("tokens_", values) | rung_figures("tokens", result.rows)
    pays = gain["_low"] > 1 and -drop.value <= MAX_F1_DROP
    verdict = "kept" if pays else f"rejected: {gain['']:.2f} times as fast with F1 {drop.value:+.4f}"
    rows = [row.to_json() for row in result.rows]
    return found, {"tokens": {"tower": VISION, "schedule": best.rung.name, "verdict": verdict, "rungs": rows}}
