"""Scoring: true to the model and to seconds, in bounded memory, past bad files, and once for each video."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from models.errors import EngineError, ParamsError, VideoError
from models.files import hash_file
from models.spans import ScoreTrack
from models.video import Sampling, probe, sample_video
from tasks.footage import list_footage
from tasks.score import ModelIdentity, ScoreProgress, identify_model, score_video_file, score_videos

IDENTITY = ModelIdentity("models:/fake@champion", "3", "ab" * 32)
SAMPLING = Sampling(4.0, 32)


@dataclass(frozen=True)
class FakeSpec:
    sampling: Sampling = SAMPLING
    threshold: float = 0.5
    min_duration_s: float = 0.0
    merge_gap_s: float = 0.0


@dataclass
class BrightnessModel:
    """Scores a frame by its mean brightness; the video's whole length must arrive before anything is scored."""

    spec: FakeSpec = field(default_factory=FakeSpec)
    batches: list[int] = field(default_factory=list)
    fails: bool = False

    def embed(self, frames_NHWC):
        assert frames_NHWC.dtype == np.uint8
        assert frames_NHWC.shape[1:] == (32, 32, 3)
        if self.fails:
            raise EngineError("engine fake: broken")
        self.batches.append(len(frames_NHWC))
        return frames_NHWC.reshape(len(frames_NHWC), -1).mean(1, keepdims=True).astype(np.float32)

    def score_track(self, features_TD, times_s, duration_s):
        return ScoreTrack(times_s, (features_TD[:, 0] / 255).clip(0, 1).astype(np.float32), duration_s)


def write_video(path: Path, levels: list[int], fps: int = 10, size: tuple[int, int] = (64, 48)) -> Path:
    """Write one frame of grey for each of `levels` (0 to 255)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"preset": "ultrafast", "crf": "10"})
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        for i, level in enumerate(levels):
            frame = av.VideoFrame.from_ndarray(np.full((size[1], size[0], 3), level, np.uint8), format="rgb24")
            frame.pts, frame.time_base = i, Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def bright_between(start_s: float, end_s: float, duration_s: float, fps: int = 10) -> list[int]:
    return [230 if start_s <= i / fps < end_s else 20 for i in range(round(duration_s * fps))]


def snapshot(folder: Path) -> dict[str, tuple[int, str]]:
    """Return inode and hash of every file: a file that was written again has another inode."""
    return {path.name: (path.stat().st_ino, hash_file(path)) for path in sorted(folder.iterdir())}


def run(paths: list[Path], out: Path, model: BrightnessModel | None = None, **options):
    return score_videos(model or BrightnessModel(), IDENTITY, list_footage(paths, out), out, **options)


def test_a_highlight_is_found_where_it_is(tmp_path):
    video = write_video(tmp_path / "v.mp4", bright_between(2.0, 5.0, 8.0))
    scored = score_video_file(BrightnessModel(), video)
    [span] = scored.spans
    assert (span.start_s, span.end_s) == (pytest.approx(2.0), pytest.approx(5.0))
    assert span.score == pytest.approx(230 / 255, abs=0.02)
    assert scored.track.duration_s == pytest.approx(8.0)
    assert np.allclose(np.diff(scored.track.times_s), 0.25, atol=0.06)


def test_streaming_in_batches_equals_the_whole_video_at_once(tmp_path):
    rng = np.random.default_rng(1)
    video = write_video(tmp_path / "v.mp4", rng.integers(0, 255, 57).tolist())
    model = BrightnessModel()
    scored = score_video_file(model, video, batch_size=4)
    whole = sample_video(video, model.spec.sampling)
    assert model.batches == [4] * (len(whole.times_s) // 4) + [len(whole.times_s) % 4] * (len(whole.times_s) % 4 > 0)
    assert np.array_equal(scored.track.times_s, whole.times_s)
    reference = BrightnessModel()
    expected = reference.score_track(reference.embed(whole.frames_THWC), whole.times_s, whole.duration_s)
    assert np.array_equal(scored.track.scores, expected.scores)


def test_threshold_length_and_gap_of_the_spec_are_applied(tmp_path):
    levels = bright_between(1.0, 2.0, 8.0)
    levels[25:35] = [230] * 10  # 2.5 to 3.5 s
    levels[60:63] = [150] * 3  # 6.0 to 6.3 s
    video = write_video(tmp_path / "v.mp4", levels)
    merged = score_video_file(BrightnessModel(FakeSpec(min_duration_s=0.6, merge_gap_s=0.6)), video)
    assert [(s.start_s, s.end_s) for s in merged.spans] == [(pytest.approx(1.0), pytest.approx(3.5))]
    assert len(score_video_file(BrightnessModel(), video).spans) == 3
    assert len(score_video_file(BrightnessModel(), video, threshold=0.8).spans) == 2


def test_thumbnails_show_the_footage_upright_in_its_proportions(tmp_path):
    video = write_video(tmp_path / "v.mp4", bright_between(2.0, 3.0, 8.0), size=(192, 64))
    scored = score_video_file(BrightnessModel(), video)
    assert all(shot.pixels.shape[1] / shot.pixels.shape[0] == pytest.approx(3.0) for shot in scored.thumbnails)
    bright = [shot.pixels.mean() > 200 for shot in scored.thumbnails]
    assert bright == [2.0 <= shot.time_s < 3.0 for shot in scored.thumbnails]
    assert any(bright)


def test_a_video_of_one_frame_is_scored(tmp_path):
    scored = score_video_file(BrightnessModel(), write_video(tmp_path / "v.mp4", [200]))
    assert len(scored.track.times_s) == 1
    assert scored.spans[0].end_s == pytest.approx(0.1)


def test_progress_rises_to_the_end(tmp_path):
    fractions: list[float] = []
    video = write_video(tmp_path / "v.mp4", [50] * 60)
    score_video_file(BrightnessModel(), video, batch_size=3, on_fraction=fractions.append)
    assert fractions == sorted(fractions)
    assert len(fractions) > 4
    assert 0.8 < fractions[-1] <= 1


def test_outputs_of_one_video_agree_with_each_other(tmp_path):
    video = write_video(tmp_path / "in" / "Éléphant 1.mp4", bright_between(1.0, 3.0, 6.0))
    report = run([video], tmp_path / "out")
    out = tmp_path / "out"
    assert sorted(p.name for p in out.iterdir()) == [
        "rejected.json", "scored.json", "Éléphant 1.scores.parquet", "Éléphant 1.spans.json", "Éléphant 1.timeline.png"
    ]  # fmt: skip
    spans = json.loads((out / "Éléphant 1.spans.json").read_text())
    assert spans["video"] == "Éléphant 1.mp4"
    assert spans["video_id"] == hash_file(video)[:16]
    assert spans["duration_s"] == pytest.approx(6.0)
    assert spans["model"] == {"name": "models:/fake@champion", "version": "3", "sha256": "ab" * 32}
    assert spans["threshold"] == 0.5
    [span] = spans["spans"]
    table = pq.read_table(out / "Éléphant 1.scores.parquet").to_pandas()
    assert [str(kind) for kind in table.dtypes] == ["float64", "float32"]
    inside = (table.time_s >= span["start_s"]) & (table.time_s < span["end_s"])
    assert (table.score[inside] >= 0.5).all()
    assert (table.score[~inside] < 0.5).all()
    with Image.open(out / "Éléphant 1.timeline.png") as picture:
        assert picture.size == (1600, 560)
    [row] = json.loads((out / "scored.json").read_text())
    assert row["num_spans"] == report.scored[0].num_spans == 1
    assert row["highlight_s"] == pytest.approx(2.0)


def bad_files(folder: Path) -> None:
    good = write_video(folder / "b_good.mp4", [100] * 40).read_bytes()
    (folder / "a_empty.mp4").write_bytes(b"")
    (folder / "c_cut.mp4").write_bytes(good[: len(good) // 2])
    (folder / "d_text.mov").write_text("not a video at all")
    (folder / "e_dangling.mp4").symlink_to(folder / "nowhere.mp4")


def test_bad_files_are_rejected_with_a_reason_and_the_rest_goes_on(tmp_path):
    bad_files(tmp_path / "in")
    write_video(tmp_path / "in" / "z last.webm.mp4", [100] * 10)
    events: list[ScoreProgress] = []
    report = run([tmp_path / "in"], tmp_path / "out", on_progress=events.append)
    assert [row.video for row in report.scored] == ["b_good.mp4", "z last.webm.mp4"]
    rejected = json.loads((tmp_path / "out" / "rejected.json").read_text())
    assert [row["video"] for row in rejected] == ["a_empty.mp4", "c_cut.mp4", "d_text.mov"]
    assert all(row["reason"] and "\n" not in row["reason"] for row in rejected)
    assert rejected[0]["reason"] == "the file is empty"
    assert not list((tmp_path / "out").glob("c_cut*"))
    outcomes = [event.outcome for event in events if event.outcome]
    assert outcomes == ["rejected", "scored", "rejected", "rejected", "scored"]


def test_a_model_that_fails_stops_the_run(tmp_path):
    write_video(tmp_path / "in" / "a.mp4", [100])
    with pytest.raises(EngineError, match="broken"):
        run([tmp_path / "in"], tmp_path / "out", BrightnessModel(fails=True))


def test_an_unreadable_file_is_a_rejected_row(tmp_path, monkeypatch):
    video = write_video(tmp_path / "a.mp4", [100])

    def refuse(_path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tasks.score.hash_file", refuse)
    report = run([video], tmp_path / "out")
    assert report.rejected[0].reason == "Permission denied"


def test_a_full_disk_stops_the_run_and_leaves_no_half_file(tmp_path, monkeypatch):
    videos = [write_video(tmp_path / "in" / f"{name}.mp4", [100] * 5) for name in "ab"]

    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    run(videos[:1], tmp_path / "out")
    before = snapshot(tmp_path / "out")
    monkeypatch.setattr("tasks.scored_files.pq.write_table", full)
    with pytest.raises(OSError, match="No space left"):
        run(videos, tmp_path / "out")
    assert snapshot(tmp_path / "out") == before


@pytest.mark.parametrize("threshold", [-0.1, 1.5, float("nan")])
def test_a_threshold_out_of_range_is_refused(threshold, tmp_path):
    video = write_video(tmp_path / "a.mp4", [100])
    with pytest.raises(ParamsError, match="must be 0 to 1"):
        run([video], tmp_path / "out", threshold=threshold)


def test_a_second_run_keeps_every_file_and_decodes_nothing(tmp_path):
    for name in ("a", "b"):
        write_video(tmp_path / "in" / f"{name}.mp4", [*bright_between(1, 2, 4), ord(name)])
    first = run([tmp_path / "in"], tmp_path / "out")
    before = snapshot(tmp_path / "out")
    model = BrightnessModel()
    second = run([tmp_path / "in"], tmp_path / "out", model)
    after = snapshot(tmp_path / "out")
    assert model.batches == []
    assert all(row.kept for row in second.scored)
    assert not any(row.kept for row in first.scored)
    results = [name for name in before if name not in ("scored.json", "rejected.json")]
    assert len(results) == 6
    assert all(after[name] == before[name] for name in results)
    assert {name: value[1] for name, value in after.items()} == {name: value[1] for name, value in before.items()}
    assert [(r.num_spans, r.highlight_s, r.duration_s) for r in second.scored] == [
        (r.num_spans, r.highlight_s, r.duration_s) for r in first.scored
    ]


@pytest.mark.parametrize("change", ["force", "model", "threshold", "content", "lost picture", "damaged json"])
def test_what_is_no_longer_true_is_scored_again(change, tmp_path):
    video = write_video(tmp_path / "in" / "a.mp4", bright_between(1, 2, 4))
    out = tmp_path / "out"
    run([video], out)
    identity, options = IDENTITY, {}
    if change == "force":
        options = {"force": True}
    elif change == "model":
        identity = ModelIdentity("models:/fake@champion", "4", "cd" * 32)
    elif change == "threshold":
        options = {"threshold": 0.6}
    elif change == "content":
        write_video(video, bright_between(2, 3, 4))
    elif change == "lost picture":
        (out / "a.timeline.png").unlink()
    else:
        (out / "a.spans.json").write_text('{"video_id": "')
    model = BrightnessModel()
    report = score_videos(model, identity, list_footage([video]), out, **options)
    assert model.batches
    assert not report.scored[0].kept
    content = json.loads((out / f"{report.scored[0].output}.spans.json").read_text())
    assert content["model"]["sha256"] == identity.sha256
    assert content["video_id"] == hash_file(video)[:16]


def test_a_run_that_was_cut_off_ends_with_the_same_bytes(tmp_path):
    for name in "abc":
        write_video(tmp_path / "in" / f"{name}.mp4", [*bright_between(1, 2, 4), ord(name)])
    run([tmp_path / "in"], tmp_path / "whole")

    def cut(event: ScoreProgress) -> None:
        if event.index == 1 and event.fraction > 0:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run([tmp_path / "in"], tmp_path / "cut", on_progress=cut)
    assert (tmp_path / "cut" / "a.spans.json").exists()
    assert not list((tmp_path / "cut").glob("*b.*"))
    model = BrightnessModel()
    report = run([tmp_path / "in"], tmp_path / "cut", model)
    assert [row.kept for row in report.scored] == [True, False, False]
    whole, again = snapshot(tmp_path / "whole"), snapshot(tmp_path / "cut")
    assert {name: value[1] for name, value in whole.items()} == {name: value[1] for name, value in again.items()}


def test_two_videos_with_one_stem_get_distinct_names_that_last(tmp_path):
    first = write_video(tmp_path / "in" / "day1" / "cam.mp4", [50] * 5)
    second = write_video(tmp_path / "in" / "day2" / "cam.mp4", [200] * 5)
    third = write_video(tmp_path / "in" / "day2" / "CAM.mkv", [100] * 5)
    out = tmp_path / "out"
    report = run([tmp_path / "in"], out)
    names = {row.video: row.output for row in report.scored}
    assert names["day1/cam.mp4"] == "cam"
    assert len({name.lower() for name in names.values()}) == 3
    for row in report.scored:
        assert json.loads((out / f"{row.output}.spans.json").read_text())["video"] == row.video
    # A later run that no longer sees the first gives nobody its name.
    first.unlink()
    later = run([second, third], out)
    assert {row.output for row in later.scored} == set(names.values()) - {"cam"}
    assert all(row.kept for row in later.scored)
    # Nor does one whose like is gone from the results lose the name that it got.
    for path in out.glob("cam.*"):
        path.unlink()
    assert [row.kept for row in run([second], out).scored] == [True]
    assert hash_file(second)[:8] in {row.output for row in later.scored if row.video == "cam.mp4"}.pop()


def test_the_same_content_twice_is_scored_once_for_each_name(tmp_path):
    video = write_video(tmp_path / "in" / "x" / "a.mp4", [50] * 5)
    for copy in ("y/a.mp4", "y/b.mp4"):
        (tmp_path / "in" / copy).parent.mkdir(exist_ok=True)
        shutil.copy(video, tmp_path / "in" / copy)
    report = run([tmp_path / "in"], tmp_path / "out")
    assert [(row.output, row.kept) for row in report.scored] == [("a", False), ("a", True), ("b", False)]


def test_long_and_undecodable_names_are_written(tmp_path):
    long = write_video(tmp_path / "in" / ("é" * 120 + ".mp4"), [50] * 5)
    bytes_name = os.fsencode(tmp_path / "in") + b"/bad\xff\xfe.mp4"
    shutil.copy(write_video(tmp_path / "other.mp4", [90] * 5), bytes_name)
    report = run([tmp_path / "in"], tmp_path / "out")
    assert [row.video for row in report.scored] == ["bad\ufffd\ufffd.mp4", long.name]
    assert all(len(name.encode()) < 255 for name in os.listdir(tmp_path / "out"))  # noqa: PTH208
    json.loads((tmp_path / "out" / "scored.json").read_text(encoding="utf-8"))


def test_the_identity_of_a_model_is_its_files(tmp_path):
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.bin").write_bytes(b"1")
    (folder / "sub" / "b.bin").write_bytes(b"2")
    first = identify_model(folder, "x", "7")
    copied = Path(shutil.copytree(folder, tmp_path / "copy"))
    (copied / ".cache").write_bytes(b"ignored")
    assert identify_model(copied, "y").sha256 == first.sha256
    (copied / "sub" / "b.bin").rename(copied / "sub" / "c.bin")
    assert identify_model(copied, "x").sha256 != first.sha256
    assert (first.name, first.version) == ("x", "7")


def test_a_video_that_breaks_in_the_middle_says_where(tmp_path, shared: Path):
    with pytest.raises(VideoError, match=r"decord__corrupted.mp4: decoding breaks after 2\.\d+ s"):
        score_video_file(BrightnessModel(), shared / "data" / "odd_media" / "decord__corrupted.mp4")


def test_real_footage_is_scored_to_its_true_end(tmp_path, shared: Path):
    names = ["elephant_tree_b.webm", "waterhole_vfr_meme.mp4", "penguins_portrait.mp4"]
    report = run([shared / "data" / "wildlife" / name for name in names], tmp_path / "out")
    assert [row.video for row in report.scored] == names
    for row in report.scored:
        info = probe(shared / "data" / "wildlife" / row.video)
        times_s = pq.read_table(tmp_path / "out" / f"{row.output}.scores.parquet")["time_s"].to_numpy()
        assert row.duration_s == pytest.approx(info.duration_s)
        assert info.duration_s - times_s[-1] < 1.0
        assert times_s[0] == 0.0


def test_hostile_files_never_end_the_batch(tmp_path, shared: Path):
    folder = shared / "data" / "odd_media"
    few: Callable[[Path], bool] = lambda path: path.name.startswith(("mp4parse", "zero", "small", "-video"))  # noqa: E731
    paths = [path for path in sorted(folder.iterdir()) if few(path)]
    report = run(paths, tmp_path / "out")
    assert len(report.scored) + len(report.rejected) == len(paths)
    assert report.scored
    assert report.rejected
