"""The cascade on real files: what it decodes it sees as the exact mode does, and all of it costs what it says."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import pytest

from models.cascade import CascadeParams
from models.errors import VideoError
from models.spans import ScoreTrack
from models.video import Sampling, frames_of, probe
from tasks.score_cascade import Looker, cascade_track, keyframe_track
from tests.brightness import Brightness

RATE, GOP, SECONDS = 10, 20, 40
SAMPLING = Sampling(fps=2.0, image_size=32)
BRIGHT = (13.0, 16.5)


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a dark film with a keyframe every 2 s that is bright in BRIGHT."""
    path = tmp_path_factory.mktemp("film") / "dark film.mp4"
    with av.open(str(path), "w") as output:
        stream: Any = output.add_stream("libx264", rate=RATE)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        stream.options = {"g": str(GOP), "sc_threshold": "0", "x264-params": "open-gop=0"}
        for index in range(RATE * SECONDS):
            level = 230 if BRIGHT[0] <= index / RATE < BRIGHT[1] else 20
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), level, np.uint8), "rgb24")
            frame.pts, frame.time_base = index, Fraction(1, RATE)
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return path


def test_the_highlight_between_keyframes_is_found_to_the_sample_and_little_is_decoded(film: Path) -> None:
    model, duration_s = Brightness(), probe(film).duration_s
    found = cascade_track(Looker(model, film, SAMPLING, duration_s), 0.5, CascadeParams())
    bright = found.track.times_s[found.track.scores >= 0.5]
    assert bright.min() == 13.0
    assert bright.max() == 16.0
    assert found.decoded_s == pytest.approx(6.0)  # [12, 18): both sides of the keyframes at 14 and 16
    assert found.num_keyframes == SECONDS // 2
    assert found.num_samples == model.num_seen < 40
    assert found.fell_back is None


def test_what_is_decoded_has_the_times_and_scores_of_the_exact_mode(film: Path) -> None:
    model, duration_s = Brightness(), probe(film).duration_s
    exact = [(time_s, float(model.embed(pixels[None])[0, 0])) for time_s, pixels in frames_of(film, SAMPLING)]
    everything = CascadeParams(promising=0.0, budget=1.0)
    found = cascade_track(Looker(model, film, SAMPLING, duration_s), 0.5, everything)
    assert found.decoded_share == 1.0
    assert found.track.times_s.tolist() == [time_s for time_s, _ in exact]
    np.testing.assert_allclose(found.track.scores, [score for _, score in exact], atol=1e-6)


def test_with_a_budget_of_nothing_the_nearest_keyframe_stands_for_every_sample(film: Path) -> None:
    model, duration_s = Brightness(), probe(film).duration_s
    found = cascade_track(Looker(model, film, SAMPLING, duration_s), 0.5, CascadeParams(budget=0.0))
    keyframes = keyframe_track(Looker(model, film, SAMPLING, duration_s)).track
    assert found.decoded_s == 0
    assert keyframes.times_s.tolist() == [2.0 * k for k in range(SECONDS // 2)]
    assert found.track.times_s.tolist() == [k / 2 for k in range(2 * SECONDS)]
    nearest = [np.abs(keyframes.times_s - time_s).argmin() for time_s in found.track.times_s]
    np.testing.assert_allclose(found.track.scores, keyframes.scores[nearest], atol=1e-6)


class Windowed(Brightness):
    """Scores a sample by the mean of eleven samples around it, so by more time where they are farther apart."""

    def score_track(
        self, features_TD: npt.NDArray[np.float32], times_s: npt.NDArray[np.float64], duration_s: float
    ) -> ScoreTrack:
        around = np.pad(features_TD[:, 0], 5, mode="edge")
        return ScoreTrack(times_s, np.convolve(around, np.full(11, 1 / 11), "valid").astype(np.float32), duration_s)


def test_a_head_that_looks_at_a_window_sees_the_same_stretch_of_time_as_in_the_exact_mode(film: Path) -> None:
    model, duration_s = Windowed(), probe(film).duration_s
    exact = list(frames_of(film, SAMPLING))
    features = model.embed(np.stack([pixels for _, pixels in exact]))
    truth = model.score_track(features, np.array([time_s for time_s, _ in exact]), duration_s)
    found = cascade_track(Looker(model, film, SAMPLING, duration_s), 0.3, CascadeParams())
    assert found.decoded_share < 0.3
    assert found.track.times_s.tolist() == truth.times_s.tolist()
    np.testing.assert_allclose(found.track.scores, truth.scores, atol=0.01)  # dark keyframes are dark samples


def test_too_few_keyframes_are_no_first_pass_and_all_is_decoded(film: Path) -> None:
    model, duration_s = Brightness(), probe(film).duration_s
    found = cascade_track(Looker(model, film, SAMPLING, duration_s), 0.5, CascadeParams(max_gap_s=1.0))
    assert found.fell_back == "a keyframe every 2.0 s is too few, at most 1 s"
    assert found.decoded_share == 1.0
    assert len(found.track.times_s) == 2 * SECONDS


def test_a_file_that_is_no_video_is_told_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "-not a video.mp4"
    path.write_bytes(b"elephant" * 100)
    with pytest.raises(VideoError, match=r"-not a video\.mp4"):
        cascade_track(Looker(Brightness(), path, SAMPLING, 10.0), 0.5, CascadeParams())
