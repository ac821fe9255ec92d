"""How near features are to those of the towers' own preprocessing, on real footage, one frame a second.

`python -m benchmarks.feature_parity [--quick]` embeds the same frames prepared in three ways: by torchvision's own
transforms on a picture that PyAV made (what CLIP's and timm's projects do), by `resize=reference` of
`herdlight features`, and by `resize=decoder`. For each it takes the cosine to the first way, frame by frame; beside it
the cosine of frames of unlike videos, without which a cosine says little. MobileNetV2 has trained weights. No weights
of CLIP ViT-B/32 are beside this repository: its tower is there with fresh weights, which turn small differences of
pixels into differences of features much as they come, and its pixels are compared too.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import torch

from benchmarks.results_file import RESULTS, benchmark_parser, code_commit, print_figures, write_results
from models.encoder import EncoderParams, OnnxParams, untrained_encoder
from models.errors import DataError, VideoError
from models.feature_tower import FeatureTower, TowerChoice, load_tower, resize_of
from models.reference_resize import ReferenceResize
from models.shown import iterate_shown
from models.tower import Tower
from tasks.footage import list_footage
from tasks.shell import one_line_errors, progress_bar

NAME = "feature_parity"
MAX_FRAMES = 8
QUICK_VIDEOS = 4
Pixels = npt.NDArray[np.uint8]
Features = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Prepared:
    """The same N frames of one video, prepared in three ways: uint8 [N, S, S, 3]; and seconds for two of them."""

    theirs: Pixels
    reference: Pixels
    decoder: Pixels
    reference_s: float
    decoder_s: float


def towers(shared: Path) -> dict[str, FeatureTower]:
    """Return the towers by their name in the figures."""
    model, spec = untrained_encoder(EncoderParams(name="ViT-B-32"), seed=0)
    visual = Tower(spec, 0, model.eval().visual).eval()  # type: ignore[arg-type]
    file = shared / "data" / "models" / "mobilenet_v2_int8.onnx"
    if not file.is_file():
        raise DataError(
            f"{NAME} skipped: {shared.name}/data/models/{file.name} is missing; name the folder with --shared"
        )
    section = OnnxParams(
        image_size=224, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), input="image", output="view"
    )
    return {
        "vit_b_32_fresh": FeatureTower(visual, spec, resize_of(spec), "cpu", None),
        "mobilenet_v2": load_tower(TowerChoice("onnx", file.stem, weights=file, onnx=section), "cpu"),
    }


def prepare(path: Path, resize: ReferenceResize) -> Prepared:
    """Return frames of a video prepared in three ways. Raises VideoError where they are not the same frames."""

    def taken(exact: bool) -> tuple[Pixels, float]:
        started_s = time.perf_counter()
        frames = []
        for _, pixels in iterate_shown(path, 1.0, resize, exact=exact):
            frames.append(pixels)
            if len(frames) == MAX_FRAMES:
                break
        return np.stack(frames), time.perf_counter() - started_s

    (reference, reference_s), (decoder, decoder_s) = taken(True), taken(False)
    theirs = np.stack(list(_their_way(path, resize.side, len(reference))))
    return Prepared(theirs, reference, decoder, reference_s, decoder_s)


def has_square_pixels(path: Path) -> bool:
    """Return whether a video's stored proportions are those in which it is displayed."""
    with av.open(str(path)) as container:
        stream: Any = container.streams.best("video")
        return stream is None or (stream.sample_aspect_ratio or 1) == 1


def _their_way(path: Path, side: int, num_frames: int) -> Iterator[Pixels]:
    """Yield the frames on screen at 0, 1, 2, … s as torchvision's transforms prepare them."""
    import torchvision.transforms as transforms

    bicubic = transforms.InterpolationMode.BICUBIC
    transform = transforms.Compose([transforms.Resize(side, interpolation=bicubic), transforms.CenterCrop(side)])
    with av.open(str(path)) as container:
        start_s: float | None = None
        shown: Any = None
        frame: Any
        k = 0
        stream: Any = container.streams.best("video")
        for frame in container.decode(stream):  # as herdlight chooses of several
            start_s = frame.time if start_s is None else start_s
            while k < num_frames and shown is not None and frame.time - start_s > k + 0.001:
                yield np.asarray(transform(shown.to_image()))
                k += 1
            shown = frame
            if k == num_frames:
                return
        for _ in range(k, num_frames):
            yield np.asarray(transform(shown.to_image()))


def cosines(ours: Features, theirs: Features) -> npt.NDArray[np.float64]:
    """Return the cosine of each pair of rows, float64 [N]."""
    a, b = (rows.astype(np.float64) / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (ours, theirs))
    found: npt.NDArray[np.float64] = (a * b).sum(axis=1)
    return found


def summarise(name: str, by_way: dict[str, Features], video_N: npt.NDArray[np.int64]) -> dict[str, float | None]:
    """Return the figures of one tower.

    by_way:  features [N, D] of all frames, by way of preparing them
    video_N: number of the video of each frame
    """
    theirs = by_way["theirs"]
    first_of_video = np.unique(video_N, return_index=True)[1]
    shifted = np.roll(first_of_video, 1)
    figures: dict[str, float | None] = {
        f"{name}_unlike_videos_cosine_mean": float(cosines(theirs[first_of_video], theirs[shifted]).mean())
    }
    for way in ("reference", "decoder"):
        found = cosines(by_way[way], theirs)
        figures[f"{name}_{way}_cosine_mean"] = float(found.mean())
        figures[f"{name}_{way}_cosine_min"] = float(found.min())
    return figures


def measure(shared: Path, *, quick: bool, results: Path = RESULTS) -> dict[str, float | None]:
    """Measure, print and write the figures. Raises DataError where the footage is missing."""
    commit = code_commit()
    folders = [shared / "data" / name for name in ("wildlife", "general")]
    paths = [item.path for item in list_footage(folders)]
    paths = paths[:QUICK_VIDEOS] if quick else paths
    known = towers(shared)
    resize = ReferenceResize(224, 224)  # both towers take 224 px
    prepared: list[Prepared] = []
    skipped: list[str] = []
    with progress_bar("videos", len(paths)) as on_progress:
        for done, path in enumerate(paths, start=1):
            try:
                if has_square_pixels(path):
                    prepared.append(prepare(path, resize))
                else:
                    skipped.append(
                        f"{path.name}: its pixels are not square; herdlight shows true proportions on purpose"
                    )
            except (VideoError, av.FFmpegError, ValueError) as error:
                skipped.append(f"{path.name}: {' '.join(str(error).split())[:150]}")
            on_progress(done)
    video_N = np.concatenate([np.full(len(video.theirs), index) for index, video in enumerate(prepared)])
    frames = {
        way: np.concatenate([getattr(video, way) for video in prepared]) for way in ("theirs", "reference", "decoder")
    }
    figures: dict[str, float | None] = {"num_videos": len(prepared), "num_frames": len(video_N)}
    for way in ("reference", "decoder"):
        difference = np.abs(frames[way].astype(np.int16) - frames["theirs"])
        figures[f"{way}_pixel_difference_mean"] = float(difference.mean())
        seconds = sum(getattr(video, f"{way}_s") for video in prepared)
        figures[f"{way}_decode_and_prepare_s"] = round(seconds, 3)
    with torch.inference_mode():
        for name, tower in known.items():
            by_way = {way: _embedded(tower, pixels) for way, pixels in frames.items()}
            figures |= summarise(name, by_way, video_N)
    print_figures(figures)
    params = {"fps": 1.0, "max_frames_of_a_video": MAX_FRAMES, "quick": quick}
    write_results(NAME, figures, params, {"skipped": skipped}, commit=commit, folder=results)
    return figures


def _embedded(tower: FeatureTower, frames_NHWC: Pixels) -> Features:
    return np.concatenate([tower.embed(frames_NHWC[first : first + 32]) for first in range(0, len(frames_NHWC), 32)])


def main(argv: Sequence[str] | None = None) -> None:
    """Shell: exit status 1 with one line where there is no footage."""
    parser = benchmark_parser(NAME, "Features against the towers' own preprocessing.", f"{QUICK_VIDEOS} videos")
    options = parser.parse_args(argv)
    with one_line_errors(NAME):
        measure(options.shared, quick=options.quick)


if __name__ == "__main__":
    main()
