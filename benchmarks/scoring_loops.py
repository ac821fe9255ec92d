"""The loops that herdlight is held against, written out: frame extraction as the notebook and as plain scripts do it.

Each takes a video and gives the scores of every `stride`-th frame by the same network: CLIP's preprocessing of a PIL
picture (the shorter side to 224 px, bicubic; the centre; normalisation), the image tower in float32 in plain PyTorch,
then the head. `seek_loop` is the notebook's extraction: OpenCV is told to go to every sampled frame by its number.
`sequential_loop` decodes once, in order, with PyAV. Either takes an embedding function, so that the same loop can also
be measured with the engine that herdlight has; preprocessing is then the engine's own scaling of a PIL square.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor, nn

from models.encoder import EncoderSpec
from models.errors import DataError, MissingExtra

SEEK_BATCH, SEQUENTIAL_BATCH = 32, 128
Embed = Callable[[list[Image.Image]], npt.NDArray[np.float32]]


def eager_embed(visual: nn.Module, spec: EncoderSpec) -> Embed:
    """Return float32 PyTorch behind CLIP's own preprocessing.

    visual: normalised pixels [N, 3, S, S] -> features [N, D]
    """
    from open_clip.transform import PreprocessCfg, image_transform_v2

    config = PreprocessCfg(size=spec.image_size, mean=spec.mean, std=spec.std, interpolation="bicubic")
    transform = image_transform_v2(config, is_train=False)

    @torch.inference_mode()
    def embed(pictures: list[Image.Image]) -> npt.NDArray[np.float32]:
        pixels_NCHW: Tensor = torch.stack([transform(picture) for picture in pictures])
        features: npt.NDArray[np.float32] = visual(pixels_NCHW).float().numpy()
        return features

    return embed


def engine_embed(engine: Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.float32]], side: int) -> Embed:
    """Return an engine of herdlight's behind PIL's scaling to a centred square of `side` px."""
    return lambda pictures: engine(np.stack([square_of(picture, side) for picture in pictures]))


def square_of(picture: Image.Image, side: int) -> npt.NDArray[np.uint8]:
    """Return uint8 [side, side, 3]: the reference preprocessing before normalisation, by PIL, bicubic."""
    scale = side / min(picture.size)
    width, height = (max(side, round(length * scale)) for length in picture.size)
    left, top = (width - side) // 2, (height - side) // 2
    resized = picture.resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(resized.crop((left, top, left + side, top + side)), np.uint8)


def seek_loop(path: Path, stride: int, embed: Embed, batch_size: int = SEEK_BATCH) -> npt.NDArray[np.float32]:
    """Return features [N, D] of every `stride`-th frame, each reached by a seek. Raises MissingExtra without OpenCV."""
    cv2 = _opencv()
    capture = cv2.VideoCapture(str(path))
    if not capture.isOpened():
        raise DataError(f"{path.name}: OpenCV cannot read it")

    def pictures() -> Iterator[Image.Image]:
        for index in range(0, int(capture.get(cv2.CAP_PROP_FRAME_COUNT)), stride):
            capture.set(cv2.CAP_PROP_POS_FRAMES, index)
            is_read, frame = capture.read()
            if is_read:
                yield Image.fromarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB))

    try:
        return _in_batches(pictures(), embed, batch_size)
    finally:
        capture.release()


def sequential_loop(
    path: Path, stride: int, embed: Embed, batch_size: int = SEQUENTIAL_BATCH
) -> npt.NDArray[np.float32]:
    """Return features [N, D] of every `stride`-th frame of one pass from start to end."""
    with av.open(str(path)) as container:
        frames: Iterator[Any] = itertools.islice(container.decode(video=0), 0, None, stride)
        return _in_batches((frame.to_image() for frame in frames), embed, batch_size)


def _in_batches(pictures: Iterable[Image.Image], embed: Embed, batch_size: int) -> npt.NDArray[np.float32]:
    iterator, parts = iter(pictures), []
    while batch := list(itertools.islice(iterator, batch_size)):
        parts.append(embed(batch))
    return np.concatenate(parts)


def _opencv() -> Any:
    try:
        import cv2
    except ImportError:
        raise MissingExtra("OpenCV is not installed: pip install -c constraints.txt 'herdlight[bench]'") from None
    return cv2
