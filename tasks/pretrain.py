"""Stage `pretrain`: an encoder folder that every later stage reads.

For `nano`: a small CLIP trained from scratch on the captioned frames of the train split, by open_clip's own trainer
(`open_clip_train`), so that prompts mean something offline. For every other name: the named weights, brought into
the house as safetensors or as an ONNX graph, so that the DAG needs the network once at most.

The trainer has no callback interface. It calls `train_one_epoch` and `evaluate` of its own module once an epoch, and
hands them the model and a TensorBoard writer: standing in for these two is how figures and weights are taken here,
since the only other way out is a pickle.
"""

import functools
import io
import logging
import random
import tempfile
import unittest.mock
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import webdataset
from PIL import Image
from pydantic import Field
from torch import nn

import models.torchvision_operators  # noqa: F401  # isort: skip  (before open_clip)
import open_clip_train.main as trainer

from models.encoder import (
    NANO,
    EncoderParams,
    EncoderSpec,
    named_encoder,
    register_nano,
    save_encoder,
    untrained_encoder,
)
from models.errors import DataError
from models.manifest import VideoRow, read_manifest
from models.params import Section
from models.shards import read_frames_shard
from models.video import SampledVideo
from tasks.shell import stage_shell

_log = logging.getLogger(__name__)
CaptionedFrames = Iterator[tuple[Image.Image, str]]


class PretrainParams(Section):
    """How `nano` is trained; other encoders come trained."""

    epochs: int = Field(default=12, ge=1)
    """Passes over the captioned train frames."""
    batch_size: int = Field(default=64, ge=2)
    """Image-text pairs a step; each is contrasted with all others of its batch."""
    learning_rate: float = Field(default=1e-3, gt=0)
    """Peak of the cosine schedule of AdamW."""
    weight_decay: float = Field(default=0.1, ge=0)
    """Of AdamW, on matrices only."""
    warmup_steps: int = Field(default=30, ge=0)
    """Steps of linear warm-up."""
    min_crop: float = Field(default=0.7, gt=0, le=1)
    """Smallest share of a picture that a random crop keeps."""
    colour: float = Field(default=0.4, ge=0, lt=1)
    """Largest change of brightness, contrast and saturation, share; a quarter of it for the hue."""
    grey: float = Field(default=0.2, ge=0, le=1)
    """Share of pictures that are shown without colour."""
    max_frames: int = Field(default=4000, ge=1)
    """Train frames used at most, evenly taken from every video."""
    seed: int = Field(default=0, ge=0)
    """Of initial weights, order and crops."""


@dataclass
class Recorder:
    """Stands where the trainer expects a TensorBoard writer and keeps what it is given.

    history: rows of step and figures
    model:   the CLIP in training, known after its first epoch
    """

    history: list[dict[str, Any]] = field(default_factory=list)
    model: nn.Module | None = None

    def add_scalar(self, name: str, value: float, step: int) -> None:
        """Keep one figure; rates of the machine's clock are left out, since they differ from run to run."""
        section, _, figure = name.partition("/")
        if figure in ("data_time", "batch_time", "samples_per_second", "samples_per_second_per_gpu"):
            return
        figure, name = (text.replace("R@", "recall_at_") for text in (figure, name))  # MLflow takes no @
        key = "step" if section == "train" else "epoch"
        if not self.history or self.history[-1].get(key) != step:
            self.history.append({key: step})
        self.history[-1][figure if section == "train" else name.replace("/", "_")] = float(value)


def caption_at(row: VideoRow, time_s: float) -> str:
    """Return the words for a frame: of its stretch, else of the clip, else its category, else that it is wildlife."""
    for caption in row.captions:
        if caption.start_s <= time_s < caption.end_s:
            return caption.text
    return row.caption or row.content or "wildlife"


def captioned_frames(rows: Sequence[VideoRow], read: Callable[[str], SampledVideo], max_frames: int) -> CaptionedFrames:
    """Yield pictures and their words, at most about `max_frames`, evenly over the videos and within each."""
    each = max(max_frames // max(len(rows), 1), 1)
    for row in rows:
        video = read(row.video_id)
        step = max(-(-len(video.times_s) // each), 1)
        for frame_HWC, time_s in zip(video.frames_THWC[::step], video.times_s[::step], strict=True):
            yield Image.fromarray(frame_HWC), caption_at(row, float(time_s))


def shuffled(pairs: CaptionedFrames, seed: int) -> CaptionedFrames:
    """Yield the same pairs in an order that mixes the videos."""
    mixed = list(pairs)
    random.Random(seed).shuffle(mixed)
    return iter(mixed)


def write_pairs(path: Path, pairs: CaptionedFrames) -> tuple[int, int]:
    """Write a WebDataset tar of PNG and text; return how many pairs and how many different captions."""
    count, captions = 0, set()
    with webdataset.TarWriter(str(path), mtime=0) as tar:
        for image, text in pairs:
            buffer = io.BytesIO()
            image.save(buffer, "PNG", compress_level=1)
            tar.write({"__key__": f"{count:08d}", "png": buffer.getvalue(), "txt": text.encode()})
            count += 1
            captions.add(text)
    return count, len(captions)


def pretrain_nano(
    train: CaptionedFrames, val: CaptionedFrames, params: PretrainParams
) -> tuple[nn.Module, EncoderSpec, list[dict[str, Any]]]:
    """Train `nano` and return it with its spec and the history of the trainer's own figures.

    Raises DataError when the captions cannot teach anything: fewer than two different ones.
    """
    _, spec = untrained_encoder(EncoderParams(), params.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        num_train, num_captions = write_pairs(folder / "train.tar", train)
        # The trainer averages the val loss over batches, and a batch of one video's frames cannot be told apart.
        num_val, _ = write_pairs(folder / "val.tar", shuffled(val, params.seed))
        if num_captions < 2 or num_train < params.batch_size:
            raise DataError(
                f"pretrain: {num_train} frames with {num_captions} different captions cannot teach nano; "
                "add captions to data/annotations.json or name pretrained weights in params.yaml"
            )
        recorder = Recorder()
        arguments = _trainer_arguments(params, folder, num_train, num_val)
        _run_trainer(arguments, recorder, params.seed)
    assert recorder.model is not None
    return recorder.model, spec, recorder.history


def _trainer_arguments(params: PretrainParams, folder: Path, num_train: int, num_val: int) -> list[str]:
    options: Mapping[str, Any] = {
        "model": NANO, "dataset-type": "webdataset", "device": "cpu", "precision": "fp32", "workers": 1,
        "train-data": folder / "train.tar", "train-num-samples": num_train,
        "val-data": folder / "val.tar", "val-num-samples": num_val,
        "batch-size": params.batch_size, "epochs": params.epochs, "lr": params.learning_rate,
        "wd": params.weight_decay, "warmup": params.warmup_steps, "seed": params.seed,
        "logs": folder, "name": "nano", "save-frequency": 0, "log-every-n-steps": 10,
    }  # fmt: skip
    words = [part for key, value in options.items() for part in (f"--{key}", str(value))]
    shade = params.colour
    jitter = f"color_jitter=({shade},{shade},{shade},{shade / 4})"
    return [
        *words, "--aug-cfg", f"scale=({params.min_crop},1.0)", jitter, "color_jitter_prob=0.8",
        f"gray_scale_prob={params.grey}",
    ]  # fmt: skip


def _do_nothing(*_: object) -> None:
    pass


def _run_trainer(arguments: list[str], recorder: Recorder, seed: int) -> None:
    """Run open_clip's trainer in this process, its figures going to `recorder` and its chatter nowhere."""
    register_nano()
    # Left alone, webdataset shuffles by the clock, and no two runs give the same weights.
    shuffle = functools.partial(webdataset.shuffle, rng=random.Random(seed))
    run_epoch, run_evaluation = trainer.train_one_epoch, trainer.evaluate

    def train_one_epoch(model: nn.Module, *rest: Any, **named: Any) -> None:
        recorder.model = model
        run_epoch(model, *rest, **{**named, "tb_writer": recorder})

    def evaluate(*rest: Any, **named: Any) -> Any:
        return run_evaluation(*rest, **{**named, "tb_writer": recorder})

    with (
        warnings.catch_warnings(),
        unittest.mock.patch.multiple(trainer, train_one_epoch=train_one_epoch, evaluate=evaluate),
        unittest.mock.patch.object(trainer, "setup_logging", _do_nothing),
        unittest.mock.patch.object(trainer.torch, "save", _do_nothing),  # a pickle nobody reads
        unittest.mock.patch.object(webdataset, "shuffle", shuffle),
    ):
        # open_clip 3.3 says so of the colour jitter and grey that it has just put to use.
        warnings.filterwarnings("ignore", message="Unused augmentation cfg items")
        level = logging.getLogger().level
        logging.getLogger().setLevel(logging.ERROR)
        try:
            trainer.main(arguments)
        finally:
            logging.getLogger().setLevel(level)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the stage."""
    with stage_shell("pretrain", ["manifest", "frames"], argv) as shell:
        encoder, params = shell.section("encoder", EncoderParams), shell.section("pretrain", PretrainParams)
        history: list[dict[str, Any]] = []
        if encoder.name == NANO and encoder.pretrained is None:
            rows = read_manifest(shell["manifest"])
            train, val = (
                captioned_frames(
                    [row for row in rows if row.split == split],
                    lambda video_id: read_frames_shard(shell["frames"], video_id),
                    limit,
                )
                for split, limit in (("train", params.max_frames), ("val", 512))
            )
            model, spec, history = pretrain_nano(train, val, params)
        else:
            model, spec = named_encoder(encoder)
        save_encoder(shell.out / "encoder", model, spec)
        shell.write_history(history)
        last = {key: value for row in history for key, value in row.items() if key not in ("step", "epoch")}
        num_weights = sum(parameter.numel() for parameter in model.parameters()) or float("nan")  # of a graph: unknown
        shell.write_metrics({"num_weights": num_weights, **last})


if __name__ == "__main__":
    main()
