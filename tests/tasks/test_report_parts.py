"""What the report shows of single videos, kinds of scene, further figures and the champion: counted right."""

import re
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.bootstrap import PairedDifference
from models.comparison import Comparison
from models.errors import ModelError
from models.manifest import Caption, VideoRow
from models.metrics import Counts
from models.spans import Span, total_duration_s
from tasks.report.images import FramePictures
from tasks.report.ladder import make_forest, make_tables
from tasks.report.misses import Category, count_categories, judge_frames, longest_stretches
from tasks.report.render import _environment
from tasks.report.strips import Cut, choose_extremes, make_strip, rank_videos


@pytest.mark.parametrize(
    ("num", "worst", "best"),
    [(0, "", ""), (1, "a", ""), (2, "a", "b"), (3, "ab", "c"), (5, "abc", "ed"), (6, "abc", "fed"), (9, "abc", "ihg")],
)
def test_the_worst_and_the_best_three_of_a_made_case(num: int, worst: str, best: str) -> None:
    assert choose_extremes(list("abcdefghi"[:num]), 3) == (list(worst), list(best))


@given(st.integers(0, 60), st.integers(1, 12))
def test_no_video_is_both_and_few_are_all_shown(num: int, most: int) -> None:
    ranked = [str(place) for place in range(num)]
    worst, best = choose_extremes(ranked, most)
    assert len(worst) <= most
    assert len(best) <= most
    assert len(set(worst + best)) == len(worst) + len(best) == min(num, 2 * most)
    assert worst == ranked[: len(worst)]
    assert best == ranked[::-1][: len(best)]


def test_strips_show_truth_and_flags_where_they_are(make_row: Callable[..., VideoRow]) -> None:
    rows = pd.DataFrame(
        {"time_s": [0.0, 1.0, 2.0, 3.0], "label": [0, 1, 1, 0], "score": np.array([0.1, 0.5, 0.9, 0.6], np.float32)}
    )
    video = make_row("v", duration_s=5.0, path="a.mp4")
    strip = make_strip(rows, video, Cut(0.5), FramePictures(None, is_squashed=False))
    assert [(block.x, block.width) for block in strip.truth] == [(200.0, 400.0)]
    assert [(block.x, block.width) for block in strip.flagged] == [(200.0, 800.0)]
    assert strip.predicted == strip.flagged
    assert make_strip(rows, video, Cut(0.5, min_duration_s=4.5), FramePictures(None, is_squashed=False)).predicted == ()
    assert strip.threshold_y == 50
    assert strip.curve.startswith("0.0,90.0 200.0,90.0 200.0,50.0")
    assert strip.counts == Counts(2, 1, 0, 1)


def make_predictions(**videos: str) -> pd.DataFrame:
    """Return a frame a second: "h" a found highlight, "m" missed, "f" a false alarm, "." neither."""
    parts = [
        pd.DataFrame(
            {
                "video_id": name,
                "split": "val" if name.startswith("val") else "test",
                "time_s": np.arange(float(len(frames))),
                "label": [int(frame in "hm") for frame in frames],
                "score": np.array([0.9 if frame in "hf" else 0.2 for frame in frames], np.float32),
            }
        )
        for name, frames in videos.items()
    ]
    return pd.concat(parts, ignore_index=True)


FRAMES = {"one": "hhmm..ff", "two": "..mmm...f", "three": "hhhh", "four": "......", "val_one": "mmmmmmmmmmffff"}
CONTENT = {"one": "bathing", "two": "charging", "three": "bathing", "four": "", "val_one": "bathing"}


@pytest.fixture
def videos(make_row: Callable[..., VideoRow]) -> dict[str, VideoRow]:
    captions = (Caption(0.0, 2.4, "a calf waits"), Caption(2.4, 6.0, "a bull charges"))
    return {
        name: make_row(
            name,
            content=CONTENT[name],
            caption="a whole clip",
            captions=captions if name == "two" else (),
            segments=(),
            duration_s=len(frames) + 0.5,
        )
        for name, frames in FRAMES.items()
    }


def test_videos_are_ranked_by_their_right_frames() -> None:
    ranked = rank_videos(make_predictions(**FRAMES), 0.5)
    assert [name for name, _ in ranked] == ["one", "two", "four", "three"]  # of equals, what finds more is better
    assert dict(ranked)["one"] == Counts(2, 2, 2, 2)


def test_misses_are_counted_by_what_the_clips_show(videos: dict[str, VideoRow]) -> None:
    judged = judge_frames(make_predictions(**FRAMES), videos, 0.5)
    assert count_categories(judged) == [
        Category("bathing", 2, 6.5, 2.0, 2.5, 2.0),  # the last frame stands until the end of the video
        Category("charging", 1, 0.0, 3.0, 1.5, 5.0),
        Category("not said", 1, 0.0, 0.0, 0.0, 6.5),
    ]
    total_s = total_duration_s(
        [Span(100.0 * n, 100.0 * n + v.duration_s) for n, v in enumerate(videos.values()) if n < 4]
    )
    assert judged["duration_s"].sum() == pytest.approx(total_s)


def test_longest_stretches_come_first_with_their_words(videos: dict[str, VideoRow]) -> None:
    judged = judge_frames(make_predictions(**FRAMES), videos, 0.5)
    missed = longest_stretches(judged, videos, label=1, num=5)
    assert [(one.video_id, one.start_s, one.end_s, one.caption) for one in missed] == [
        ("two", 2.0, 5.0, "a bull charges"),
        ("one", 2.0, 4.0, "a whole clip"),
    ]
    assert missed[0].mean_score == pytest.approx(0.2)
    false = longest_stretches(judged, videos, label=0, num=1)
    assert [(one.video_id, one.start_s, one.end_s) for one in false] == [("one", 6.0, 8.5)]


def test_a_stretch_ends_with_its_video(videos: dict[str, VideoRow]) -> None:
    judged = judge_frames(make_predictions(one="..mm", two="mm.."), videos | {}, 0.5)
    assert len(longest_stretches(judged, videos, label=1, num=9)) == 2


@given(st.lists(st.text("hmf.", min_size=1, max_size=12), min_size=1, max_size=4))
def test_every_second_is_in_one_place(tracks: list[str]) -> None:
    judged = judge_frames(make_predictions(**{f"v{n}": track for n, track in enumerate(tracks)}), {}, 0.5)
    seconds = [(c.found_s, c.missed_s, c.false_s, c.right_s) for c in count_categories(judged)]
    # without a manifest row the last frame of a video has no known end
    expected = [sum(track[:-1].count(kind) for track in tracks) for kind in "hmf."]
    assert np.sum(seconds, axis=0) == pytest.approx(expected)
    missed = longest_stretches(judged, {}, label=1, num=99)
    assert len(missed) == sum(len(re.findall("m+", track)) for track in tracks)


def estimate(value: float | None, low: float | None = None, high: float | None = None) -> dict[str, float | None]:
    return {"value": value, "low": low, "high": high}


SERVED_ROW = {"name": "compiled", "kind": "model", "threshold": 0.4, "counts": {"tp": 1}, "f1": estimate(0.8, 0.7, 0.9)}
EVALUATION = {
    "rows": [
        SERVED_ROW | {"segment_map": estimate(0.31), "hit_at_one": 0.5},
        {"name": "all_positive", "kind": "trivial", "threshold": None, "f1": estimate(None)},
    ],
    "importance": {"rows": [{"name": "human", "kind": "reference", "spearman_rho": estimate(0.2), "videos": {}}]},
    "video_counts": {},
}


def test_a_figure_that_a_later_stage_adds_is_shown() -> None:
    ladder, importance = make_tables(EVALUATION)
    assert ladder.headings == ("F1", "Segment mAP", "hit at one")
    assert [figure.value for figure in ladder.rows[0][1]] == [0.8, 0.31, 0.5]
    assert np.isnan(ladder.rows[1][1][1].value)
    assert importance.headings == ("Spearman \N{GREEK SMALL LETTER RHO}",)
    assert importance.title
    served, trivial = make_forest(EVALUATION)
    assert (served.kind, served.dot, served.left, served.width) == pytest.approx(("served", 80, 70, 20))
    assert (trivial.kind, trivial.dot, trivial.left) == ("trivial", None, None)


def make_comparison() -> Comparison:
    in_use = {"a": Counts(5, 5, 0, 0), "b": Counts(5, 0, 5, 0), "c": Counts(0, 0, 0, 9), "d": Counts(4, 1, 0, 5)}
    now = {"a": Counts(5, 0, 0, 5), "b": Counts(1, 0, 9, 0), "c": Counts(0, 0, 0, 9), "d": Counts(4, 0, 0, 6)}
    return Comparison.of("herdlight version 7", PairedDifference(0.02, -0.1, float("nan"), 0.95, 4), now, in_use)


def test_videos_that_got_better_and_worse_are_told_apart() -> None:
    comparison = make_comparison()
    assert [(one.video_id, one.gained) for one in comparison.better] == [("a", 5), ("d", 1)]
    assert [(one.video_id, one.gained) for one in comparison.worse] == [("b", -4)]
    with pytest.raises(ModelError, match="not the same"):
        Comparison.of("x", comparison.f1, {"a": Counts(1, 0, 0, 0)}, {})


def test_a_comparison_survives_its_json() -> None:
    stored = make_comparison().to_json()
    assert stored["f1"]["high"] is None
    assert Comparison.from_json(stored).to_json() == stored
    assert Comparison.from_json(stored).better == make_comparison().better
    with pytest.raises(ModelError, match="comparison"):
        Comparison.from_json({"champion": "x"})


def test_the_change_is_shown_and_its_absence_is_said() -> None:
    template = _environment(autoescape=True).get_template("champion.jinja")
    comparison = make_comparison()
    moved = {
        which: [{"path": f"<{one.video_id}>.mp4", "change": one} for one in getattr(comparison, which)]
        for which in ("better", "worse")
    }
    page = template.render(
        champion=comparison, changes={"num_better": 2, "num_worse": 1, "num_same": 1, "most": 5.0, **moved}
    )
    text = re.sub(r"\s+", " ", re.sub("<[^>]*>", " ", page))
    assert "2 better 1 the same 1 worse" in text
    assert "&lt;a&gt;.mp4 50% 100% +5" in text
    assert "&lt;b&gt;.mp4 50% 10% \N{MINUS SIGN}4" in text
    assert "There is no model in use" in template.render(champion=None, changes=None)
