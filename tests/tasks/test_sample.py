"""The sample data set: its files, its truth, and that it is neither trivial nor hopeless."""

import hashlib
import re
from collections import Counter
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from models.errors import DataError, ParamsError
from models.files import read_json
from models.spans import Span, label_times
from tasks.sample.casts import state_at
from tasks.sample.draw import draw_frames
from tasks.sample.elephant import trunk_line
from tasks.sample.make import NUM_CLIPS, SEED, draw_clip, make_sample, write_clip
from tasks.sample.plan import Clip, plan_clips, plan_unseen
from tasks.sample.poses import ACTIONS, Pose, blend_poses
from tasks.sample.scenes import HIGHLIGHTS, still_twin

TINY = {"num_clips": 8, "seed": 3, "duration_s": (1.5, 2.0)}


@pytest.fixture(scope="module")
def plan():
    return plan_clips(NUM_CLIPS, SEED)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sample") / "data"
    return folder, make_sample(folder, **TINY)


def split_of(clip: Clip) -> str:
    return clip.name.split("/")[0]


def of_split(clips: list[Clip], split: str) -> list[Clip]:
    return [clip for clip in clips if split_of(clip) == split]


def hashes(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def decode(path: Path) -> tuple[list[np.ndarray], list[float], int]:
    """Return upright frames, presentation times from 0, and the rotation in degrees."""
    with av.open(str(path)) as source:
        frames = list(source.decode(video=0))
    turns = {0: 0, -90: -1}[frames[0].rotation]
    pixels = [np.rot90(frame.to_ndarray(format="rgb24"), turns) for frame in frames]
    return pixels, [float(frame.time - frames[0].time) for frame in frames], frames[0].rotation


# --- the files -------------------------------------------------------------------------------------


def test_written_folder_has_the_layout_and_the_truth_of_the_plan(tiny):
    folder, clips = tiny
    annotations = read_json(folder / "annotations.json")["videos"]
    on_disk = {path.relative_to(folder / "videos").as_posix() for path in (folder / "videos").rglob("*.*")}
    assert on_disk == set(annotations) == {clip.name for clip in clips}
    for clip in clips:
        entry = annotations[clip.name]
        folder_name = clip.name.split("/")[1]
        assert folder_name == ("good" if clip.spans() else "bad")
        segments = entry.get("segments", [[0.0, clip.spans()[0].end_s]] if clip.spans() else None)
        assert [Span(*segment) for segment in segments] == clip.spans()
        assert entry["group"] in clip.name
    assert {tuple(name.split("/")[:2]) for name in annotations} == {
        (split, kind) for split in ("train", "val", "test") for kind in ("good", "bad")
    }


def test_unseen_videos_have_their_truth_apart_from_the_annotations(tiny):
    folder, clips = tiny
    truth = read_json(folder / "unseen" / "truth.json")["videos"]
    assert {path.name for path in (folder / "unseen").glob("*.mp4")} == set(truth)
    assert len(truth) == 2
    assert all(entry["segments"] and len(entry["content"].split(", ")) == 3 for entry in truth.values())
    assert not {entry["group"] for entry in truth.values()} & {clip.group for clip in clips}
    assert all(19 < clip.duration_s < 21 for clip in plan_unseen(SEED))


def test_every_file_decodes_to_the_planned_size_and_times(tiny):
    folder, clips = tiny
    for clip in clips:
        frames, times_s, _ = decode(folder / "videos" / clip.name)
        expected_s = clip.encoding.frame_times_s(clip.duration_s)
        assert frames[0].shape == (clip.encoding.height, clip.encoding.width, 3), clip.name
        assert np.allclose(times_s, expected_s, atol=0.002), clip.name
        for span in clip.spans():
            assert span.end_s < times_s[-1] + 1 / clip.encoding.fps


def test_decoded_pixels_are_close_to_the_drawn_ones(tiny):
    folder, clips = tiny
    for clip in clips:
        decoded, _, _ = decode(folder / "videos" / clip.name)
        drawn = list(draw_clip(clip))
        middle = len(drawn) // 2
        difference = np.abs(decoded[middle].astype(float) - drawn[middle]).mean()
        assert difference < 9, clip.name  # levels of 255: compression, not another picture


def test_same_seed_gives_the_same_bytes_and_another_seed_does_not(tiny, tmp_path):
    folder, _ = tiny
    make_sample(tmp_path / "again", **TINY)
    assert hashes(tmp_path / "again") == hashes(folder)
    other = plan_clips(8, 4, (1.5, 2.0))
    assert other != plan_clips(8, 3, (1.5, 2.0))


def test_rerun_replaces_its_own_files_but_never_those_of_others(tmp_path):
    out = tmp_path / "data"
    seen: list[tuple[int, int]] = []
    short = {"num_clips": 8, "seed": 1, "duration_s": (0.5, 0.6)}
    make_sample(out, **short, on_progress=lambda done, total: seen.append((done, total)))
    assert seen == [(i, 10) for i in range(1, 11)]
    make_sample(out, **short)
    (out / "videos" / "train" / "good" / "mine.mp4").write_bytes(b"footage of years")
    with pytest.raises(DataError, match=r"mine\.mp4.*--out"):
        make_sample(out, **short)
    assert (out / "videos" / "train" / "good" / "mine.mp4").read_bytes() == b"footage of years"


def test_too_few_clips_are_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ParamsError, match="num_clips = 7"):
        make_sample(tmp_path / "data", num_clips=7)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_run_leaves_the_earlier_sample_whole(tmp_path):
    out = tmp_path / "data"
    short = {"num_clips": 8, "seed": 1, "duration_s": (0.5, 0.6)}
    make_sample(out, **short)
    before = hashes(out)

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_sample(out, num_clips=8, seed=2, duration_s=(0.5, 0.6), on_progress=interrupt)
    assert hashes(out) == before
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


@pytest.mark.parametrize("wanted", ["libx264", "libx265", "libvpx-vp9", "mpeg4", "variable", "rotated", "audio"])
def test_each_kind_of_encoding_survives_the_round_trip(plan, tmp_path, wanted):
    kinds = {"variable": "is_variable", "rotated": "is_rotated", "audio": "audio"}
    short = plan_clips(NUM_CLIPS, SEED, (1.6, 1.7))
    clip = next(
        c for c in short if (getattr(c.encoding, kinds[wanted]) if wanted in kinds else c.encoding.codec == wanted)
    )
    path = tmp_path / Path(clip.name).name
    write_clip(path, clip)
    frames, times_s, rotation = decode(path)
    gaps = np.diff(times_s)
    assert (rotation != 0) == clip.encoding.is_rotated
    assert (gaps.max() > 1.5 * gaps.min()) == clip.encoding.is_variable
    assert frames[0].shape[:2] == (clip.encoding.height, clip.encoding.width)
    with av.open(str(path)) as source:
        assert bool(source.streams.audio) == (clip.encoding.audio is not None)
        if clip.encoding.audio:
            sound = np.concatenate([frame.to_ndarray().ravel() for frame in source.decode(audio=0)])
            assert np.std(sound) > 0


# --- the plan --------------------------------------------------------------------------------------


def test_plan_has_the_size_the_balance_and_the_splits_of_its_promise(plan):
    assert len(plan) == NUM_CLIPS == len({clip.name for clip in plan})
    assert all(6.0 <= clip.duration_s <= 9.0 for clip in plan)
    groups = {split: {clip.group for clip in of_split(plan, split)} for split in ("train", "val", "test")}
    assert len(set.union(*groups.values())) >= 16
    assert sum(len(g) for g in groups.values()) == len(set.union(*groups.values()))
    for split in groups:
        clips = of_split(plan, split)
        assert len(clips) >= 20
        assert 0.45 <= np.mean([bool(clip.spans()) for clip in clips]) <= 0.55
        labels = np.concatenate([label_times(np.arange(0, clip.duration_s, 0.25), clip.spans()) for clip in clips])
        assert 0.25 <= labels.mean() <= 0.35, split
    assert set(Counter(clip.group for clip in plan).values()) - {1}


def test_every_split_has_every_highlight_and_both_still_twins(plan):
    for split in ("train", "val", "test"):
        contents = {clip.content for clip in of_split(plan, split)}
        assert contents >= HIGHLIGHTS | {"standing", "lying", "resting", "walking", "birds", "rock"}, split
    assert len({clip.content for clip in plan}) == 16


def test_most_highlights_fill_only_a_part_of_their_clip(plan):
    good = [clip for clip in plan if clip.spans()]
    throughout = [clip for clip in good if clip.is_highlight_throughout]
    assert 2 <= len(throughout) <= 0.15 * len(good)


def test_encodings_cover_codecs_containers_shapes_and_clocks(plan):
    encodings = [clip.encoding for clip in plan]
    assert {e.codec for e in encodings} == {"libx264", "libx265", "libvpx-vp9", "mpeg4"}
    assert {e.extension for e in encodings} == {"mp4", "mkv", "webm", "avi", "mov"}
    assert {e.audio for e in encodings} == {None, "aac", "libopus", "libmp3lame"}
    assert {float(round(e.fps, 2)) for e in encodings} >= {10.0, 12.5, 15.0, 24.0, 25.0, 29.97}
    ratios = {round(e.width / e.height, 2) for e in encodings}
    assert {1.78, 1.33, 0.8} <= ratios
    assert any(e.is_rotated for e in encodings)
    assert 5 < sum(e.is_variable for e in encodings) < 0.3 * len(encodings)
    # Neither class can be told by how it is stored.
    for kind in ("good", "bad"):
        assert len({c.encoding.codec for c in plan if f"/{kind}/" in c.name}) == 4


def test_both_classes_share_their_palettes(plan):
    """A bad clip has the site, hour, weather and exposure of a good one, so the palette of a clip says nothing."""
    for split in ("train", "val", "test"):
        good, bad = (
            Counter((s.site, s.hour, s.weather, s.exposure) for c in of_split(plan, split) for s in c.shots if test(c))
            for test in (lambda c: c.spans(), lambda c: not c.spans() and c.shots[0].frozen_at_s is None)
        )
        assert set(bad) <= set(good), split


def test_captions_cover_the_clip_in_few_and_true_words(plan):
    words = set()
    for clip in plan:
        rows = clip.captions()
        assert rows[0][0].start_s == 0.0
        assert all(a.end_s == b.start_s for (a, _), (b, _) in pairwise(rows))
        assert rows[-1][0].end_s > clip.duration_s - 0.11
        texts = [text for _, text in rows] + [clip.caption()]
        words |= {word for text in texts for word in re.findall(r"[a-z]+", text)}
        hour = {"day": "by day", "dawn": "at dawn", "dusk": "at dusk", "night": "at night"}[clip.shots[0].hour]
        assert all(hour in text for text in texts)
    assert 60 < len(words) < 130


# --- what can be learnt from it --------------------------------------------------------------------


@pytest.fixture(scope="module")
def thumbnails(plan):
    """Frames of all clips, three a second, drawn 64 x 36: split -> (uint8 [N, 36, 64, 3], labels [N])."""
    sets = {}
    for split in ("train", "test"):
        frames, labels = [], []
        for clip in of_split(plan, split):
            times_s = np.arange(0.0, clip.duration_s - 0.05, 1 / 3)
            frames += list(draw_frames(clip.shots[0], times_s.tolist(), 64, 36))
            labels.append(label_times(times_s, clip.spans()))
        sets[split] = (np.stack(frames), np.concatenate(labels))
    return sets


def colour_features(frames: np.ndarray) -> np.ndarray:
    pixels = frames.reshape(len(frames), -1, 3)
    joint = (pixels // 64) @ np.array([16, 4, 1])
    joint = np.stack([np.bincount(row, minlength=64) for row in joint]) / pixels.shape[1]
    single = [np.stack([np.histogram(p[:, c], 8, (0, 256))[0] for p in pixels]) / pixels.shape[1] for c in range(3)]
    return np.hstack([joint, *single, pixels.mean(1) / 255, pixels.std(1) / 255])


def shape_features(frames: np.ndarray) -> np.ndarray:
    """Histograms of oriented gradients on a grid of 9 x 6 cells, blind to the palette."""
    grey = frames.mean(-1)
    dy, dx = np.gradient(grey, axis=(1, 2))
    strength, angle = np.hypot(dx, dy), np.arctan2(dy, dx) % np.pi
    bins = np.minimum((angle / np.pi * 8).astype(int), 7)
    cells = [
        np.where(bins == b, strength, 0)[:, :36, :63].reshape(len(frames), 6, 6, 9, 7).sum((2, 4)) for b in range(8)
    ]
    features = np.stack(cells, -1)
    features = np.sqrt(features / (features.sum(-1, keepdims=True).mean((1, 2), keepdims=True) + 1e-9))
    return features.reshape(len(frames), -1)


def test_colour_alone_does_not_solve_it(thumbnails):
    (train, y_train), (test, y_test) = thumbnails["train"], thumbnails["test"]
    for model in (
        make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000)),
        RandomForestClassifier(200, random_state=0),
        HistGradientBoostingClassifier(max_iter=150, random_state=0),
    ):
        model.fit(colour_features(train), y_train)
        precision = average_precision_score(y_test, model.predict_proba(colour_features(test))[:, 1])
        assert precision < y_test.mean() + 0.2


def test_shape_tells_far_more_than_colour(thumbnails):
    (train, y_train), (test, y_test) = thumbnails["train"], thumbnails["test"]
    scores = []
    for features in (colour_features, shape_features):
        model = RandomForestClassifier(100, random_state=0)
        model.fit(features(train), y_train)
        scores.append(average_precision_score(y_test, model.predict_proba(features(test))[:, 1]))
    assert scores[1] > scores[0] + 0.15, scores
    assert scores[1] > 0.55, scores


def twins(plan: list[Clip]) -> list[tuple[Clip, Clip]]:
    """Return the pairs (moving, still) of the plan that share their actors."""
    still = [clip for clip in plan if clip.shots[0].frozen_at_s is not None]
    return [
        (next(c for c in plan if c.shots[0].actors == s.shots[0].actors and c.shots[0].frozen_at_s is None), s)
        for s in still
    ]


def test_still_twins_share_a_frame_with_a_highlight_and_only_motion_tells_them_apart(plan):
    pairs = twins(plan)
    assert Counter(split_of(still) for _, still in pairs)["test"] >= 2
    for moving, still in pairs:
        assert split_of(moving) == split_of(still)
        assert moving.group == still.group
        scene, held = moving.shots[0], still.shots[0]
        at = held.frozen_at_s
        assert label_times(np.array([at]), moving.spans()).tolist() == [1]
        assert not still.spans()
        pair = [next(draw_frames(s, [at], 96, 54)).astype(float) for s in (scene, held)]
        assert np.abs(pair[0] - pair[1]).mean() < 1.0, still.name
        later = [next(draw_frames(s, [at + 0.5], 96, 54)).astype(float) for s in (scene, held)]
        assert np.abs(later[0] - later[1]).mean() > 1.5, still.name


def test_a_charging_elephant_grows_and_its_still_twin_does_not(plan):
    moving, still = next(pair for pair in twins(plan) if pair[1].content == "standing")
    span = moving.spans()[0]
    sizes = {}
    for name, clip in (("moving", moving), ("still", still)):
        scene = clip.shots[0]
        times = [scene.actor_time_s(t) for t in np.linspace(span.start_s, span.end_s - 0.01, 6)]
        sizes[name] = [state_at(scene.actors[0], t).size for t in times]
    assert all(b > a for a, b in pairwise(sizes["moving"]))
    assert sizes["moving"][-1] > 1.4 * sizes["moving"][0]
    assert len(set(sizes["still"])) == 1


def test_still_twin_is_never_a_highlight(plan):
    scene = next(clip.shots[0] for clip in plan if clip.content == "playing")
    twin = still_twin(scene, scene.spans()[0].start_s + 0.5, "lying", "lying")
    assert twin.spans() == []
    assert twin.stretches[0].end_s == scene.duration_s


def test_highlights_are_large_in_most_clips(plan):
    largest = [
        max(state_at(a, clip.spans()[0].end_s - 0.1).size for a in clip.shots[0].actors)
        for clip in plan
        if clip.spans()
    ]
    assert np.mean(np.array(largest) >= 1 / 3) > 0.9


# --- poses -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("action", sorted(ACTIONS))
def test_poses_are_smooth_in_time(action):
    times_s = np.linspace(0, 4, 401)
    poses = [ACTIONS[action](t, 0.7) for t in times_s]
    for name in ("trunk_deg", "curl_deg", "ear", "head_deg", "body_deg", "lift"):
        values = np.array([getattr(pose, name) for pose in poses])
        assert np.abs(np.diff(values)).max() < 6, name


def test_blending_starts_at_the_old_pose_and_ends_at_the_new():
    old, new = Pose(ear=0.0, trunk_deg=-80), Pose(ear=1.0, trunk_deg=40)
    assert blend_poses(old, new, 0.0).ear == 0.0
    assert blend_poses(old, new, 1.0) == new
    assert 0.4 < blend_poses(old, new, 0.5).ear < 0.6


def test_a_raised_trunk_ends_above_the_head_and_a_hanging_one_below():
    raised = trunk_line(ACTIONS["bathe"](0.0, 0.0), calf=False)
    hanging = trunk_line(ACTIONS["rest"](0.0, 0.0), calf=False)
    assert raised.imag.max() > 1.1
    assert hanging[-1].imag < 0.2
