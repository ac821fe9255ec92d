"""The scoring benchmarks: their footage, their loops and how they time; the measurements are runs of their own."""

import re
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from benchmarks import scoring, scoring_loops
from benchmarks.decoding import CHOICES, reference_squares, squares
from benchmarks.scoring_bench import STRIDE, rates, ratio_of, time_in_turns
from benchmarks.scoring_footage import FPS, make_clip, repeat_clip
from benchmarks.scoring_loops import seek_loop, sequential_loop, square_of
from models.errors import MissingExtra
from models.video import Sampling, iterate_frames, probe

SAMPLING = Sampling(FPS / STRIDE, 32, "crop")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clip(tmp_path_factory.mktemp("footage") / "clip.mp4", 96, 64, 2.0)


def embed(pictures: list[Image.Image]) -> npt.NDArray[np.float32]:
    return np.stack([square_of(picture, 8).astype(np.float32).ravel() for picture in pictures])


def test_a_repeated_clip_is_as_long_as_it_says_and_the_same_over_and_over(clip: Path, tmp_path: Path) -> None:
    long = repeat_clip(clip, tmp_path / "long.mp4", 3)
    info = probe(long)
    assert (info.num_frames, info.is_vfr, info.codec) == (180, False, "h264")
    assert info.duration_s == pytest.approx(6.0)
    frames = list(iterate_frames(long, SAMPLING))
    assert [time_s for time_s, _ in frames] == pytest.approx([k / 6 for k in range(36)], abs=1e-3)
    assert np.array_equal(frames[3][1], frames[15][1])
    assert np.array_equal(frames[3][1], frames[27][1])


def test_all_loops_take_the_samples_that_scoring_takes(clip: Path) -> None:
    found = sequential_loop(clip, STRIDE, embed, batch_size=5)
    assert len(found) == len(list(iterate_frames(clip, SAMPLING))) == 12
    scored = np.stack([square_of(Image.fromarray(pixels), 8).ravel() for _, pixels in iterate_frames(clip, SAMPLING)])
    assert np.abs(found - scored).mean() < 6
    assert np.abs(found[1:] - scored[:-1]).mean() > np.abs(found - scored).mean()
    pytest.importorskip("cv2", reason="OpenCV (extra `bench`) is not installed")
    assert np.abs(seek_loop(clip, STRIDE, embed) - found).mean() < 3


def test_without_opencv_the_extra_is_named(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(MissingExtra, match=r"herdlight\[bench\]"):
        seek_loop(clip, STRIDE, embed)


def test_choices_that_keep_pixels_keep_them(clip: Path) -> None:
    plain = squares(clip, SAMPLING, CHOICES["all_frames"])
    for name in ("default", "one_thread", "frame_2", "slice_2"):
        assert np.array_equal(squares(clip, SAMPLING, CHOICES[name]), plain), name
    assert not np.array_equal(squares(clip, SAMPLING, CHOICES["loop_filter_all"]), plain)
    assert np.abs(plain.astype(int) - reference_squares(clip, SAMPLING)).mean() < 12


def test_works_are_timed_in_turns() -> None:
    order: list[str] = []
    seconds = time_in_turns({name: (lambda name=name: order.append(name)) for name in "ab"}, 3)  # type: ignore[misc]
    assert order == list("ababab")
    assert {name: len(values) for name, values in seconds.items()} == {"a": 3, "b": 3}
    assert ratio_of({"slow": [2.0, 9.0, 4.0], "fast": [1.0, 1.0, 1.0]}, "slow", "fast") == 4.0
    assert rates("x", {"y": [1.0, 2.0, 4.0]}, 8)["x_y_samples_per_s"] == 4.0


def test_every_part_is_there_and_every_figure_is_explained() -> None:
    for name, module in scoring.PARTS.items():
        assert f"{name} " in (scoring.__doc__ or "")
        __import__(module)
        assert callable(sys.modules[module].measure)
    explained = " ".join(sys.modules[module].__doc__ or "" for module in scoring.PARTS.values())
    for figure in ("exact_vs_seek", "exact_vs_sequential", "pipeline_efficiency", "memory_ratio", "peak_gib"):
        assert re.search(rf"\b{figure}", explained)
    assert "CAP_PROP_POS_FRAMES" in Path(scoring_loops.__file__).read_text()
