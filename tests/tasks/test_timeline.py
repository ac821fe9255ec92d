"""The timeline picture: what it keeps of the curve, where it puts things, and that it can be drawn for anything."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from models.spans import ScoreTrack, Span, spans_above
from tasks import timeline
from tasks.thumbnails import MAX_KEPT, Thumbnail, ThumbnailReel, choose_times, gap_for, peak_time_s
from tasks.timeline import curve_points, draw_timeline, format_time, num_thumbnails, showable, spread, summarise

SPAN_COLOUR = np.array([0xE0, 0xA0, 0x30])


def make_track(scores: list[float] | np.ndarray, duration_s: float | None = None) -> ScoreTrack:
    scores = np.asarray(scores, dtype=np.float32)
    duration_s = float(len(scores)) if duration_s is None else duration_s
    return ScoreTrack(np.arange(len(scores)) * (duration_s / len(scores)), scores, duration_s)


def grey(time_s: float, width: int = 160, height: int = 90) -> Thumbnail:
    return Thumbnail(time_s, np.full((height, width, 3), 128, np.uint8))


def draw(track: ScoreTrack, spans: list[Span], path: Path, name: str = "clip.mp4", thumbnails=()) -> np.ndarray:
    draw_timeline(path, name, track, spans, 0.5, thumbnails)
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def tinted_columns(image: np.ndarray) -> np.ndarray:
    """Return the columns of the picture in which the top of the curve's area is tinted like a span."""
    row = image[108]  # just inside the top of the curve, above every score
    return np.flatnonzero((row[:, 0] - row[:, 2] > 20) & (row[:, 0] > 200))


def test_format_time_counts_minutes_hours_and_tenths():
    assert format_time(0) == "00:00"
    assert format_time(59.96, tenths=True) == "01:00.0"
    assert format_time(61.25, tenths=True) == "01:01.2"
    assert format_time(3599.7) == "1:00:00"
    assert format_time(7 * 3600 + 65) == "7:01:05"


def test_summary_says_how_many_and_how_long():
    assert summarise(30.1, [Span(1, 3), Span(5, 6.5)]) == "2 highlights, 3.5 of 30.1 s"
    assert summarise(0.04, []) == "no highlights, 0.00 of 0.04 s"
    assert summarise(43200, [Span(0, 469)]) == "1 highlight, 469 of 43200 s (07:49 of 12:00:00)"


def test_curve_keeps_each_frame_until_the_next():
    x, y = curve_points(make_track([0.25, 0.75], 3.0))
    assert x.tolist() == [0.0, 1.5, 3.0]
    assert y.tolist() == [0.25, 0.75, 0.75]


@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=400), st.integers(1, 40))
def test_a_shortened_curve_keeps_order_and_both_extremes(scores, columns):
    x, y = curve_points(make_track(scores), columns)
    assert len(x) == len(y) <= max(2 * columns, 1) + 1 or len(scores) <= columns
    assert np.all(np.diff(x) > 0)
    assert y.max() == np.float32(max(scores))
    assert y.min() == np.float32(min(scores))


def test_a_single_high_frame_in_a_night_is_still_drawn():
    scores = np.zeros(200_000)
    scores[123_456] = 1.0
    x, y = curve_points(make_track(scores, 50_000.0))
    assert len(x) < 4000
    assert x[np.argmax(y)] == pytest.approx(123_456 / 4)


@given(
    st.lists(st.floats(0, 100), min_size=1, max_size=10).map(sorted),
    st.floats(1, 10),
)
def test_spread_boxes_neither_overlap_nor_leave_the_strip(centres, width):
    placed = spread(centres, width, 0, 100)
    assert all(b - a >= width - 1e-6 for a, b in itertools.pairwise(placed))
    assert placed[0] >= width / 2 - 1e-6
    assert placed[-1] <= 100 - width / 2 + 1e-6


def test_spread_leaves_boxes_with_room_where_they_are():
    assert spread([10, 50, 90], 10, 0, 100) == [10, 50, 90]


@pytest.mark.parametrize(
    "name", ["象の群れ 🐘.mp4", "Éléphant слоны.mp4", "a$x^2$_{b.mp4", "tab\tline\n.mp4", "x" * 300, "\ufffd"]
)
def test_any_name_can_be_drawn_without_a_warning(name, tmp_path):
    draw(make_track([0.2, 0.8]), [Span(1, 2, 0.8)], tmp_path / "a.png", name)


def test_missing_glyphs_are_spelt_out_and_the_rest_stays(monkeypatch):
    monkeypatch.setattr(timeline, "_title_fonts", lambda: ["DejaVu Sans"])
    timeline._has_glyph.cache_clear()
    assert showable("象a слон é \N{ELEPHANT}.mp4") == "[U+8C61]a слон é [elephant].mp4"
    assert showable("tab\there") == "tab[U+0009]here"
    timeline._has_glyph.cache_clear()


@pytest.mark.parametrize(
    ("fonts", "shown"), [(["DejaVu Sans"], "[U+1D84]"), (["DejaVu Sans", "STIXGeneral"], "\u1d84")]
)
def test_a_font_that_has_the_glyph_is_used_where_it_is_installed(monkeypatch, fonts, shown):
    monkeypatch.setattr(timeline, "_title_fonts", lambda: fonts)
    timeline._has_glyph.cache_clear()
    assert showable("\u1d84") == shown
    timeline._has_glyph.cache_clear()


def test_cut_in_the_middle():
    cut = showable("a" * 50 + "b" * 50, max_length=21)
    assert cut == "a" * 10 + "…" + "b" * 10


def test_spans_are_shaded_where_they_are(tmp_path):
    image = draw(make_track([0.1] * 100), [Span(25, 50, 0.1)], tmp_path / "a.png")
    columns = tinted_columns(image)
    left, right = 75, 1600 - 35
    assert columns.min() == pytest.approx(left + 0.25 * (right - left), abs=2)
    assert columns.max() == pytest.approx(left + 0.50 * (right - left), abs=2)


def test_the_shortest_span_of_a_long_video_is_seen(tmp_path):
    image = draw(make_track([0.1] * 1000, 43_200.0), [Span(20_000, 20_000.5, 0.1)], tmp_path / "a.png")
    assert 1 <= len(tinted_columns(image)) <= 5


def test_without_spans_nothing_is_shaded(tmp_path):
    assert len(tinted_columns(draw(make_track([0.9] * 10), [], tmp_path / "a.png"))) == 0


def test_thumbnails_lie_under_their_times(tmp_path):
    red = Thumbnail(50.0, np.full((90, 160, 3), (255, 0, 0), np.uint8))
    image = draw(make_track([0.1] * 100), [], tmp_path / "a.png", thumbnails=[red])
    rows, columns = np.nonzero((image[:, :, 0] > 240) & (image[:, :, 1] < 20))
    assert columns.mean() == pytest.approx(75 + 0.5 * (1600 - 110), abs=3)
    assert rows.min() > 380
    assert (np.ptp(columns) + 1) / (np.ptp(rows) + 1) == pytest.approx(16 / 9, rel=0.03)


@pytest.mark.parametrize(("duration_s", "gap_s"), [(6.4, 0.1), (64.0, 1.0), (600.0, 1.0), (2048.0, 2.0)])
def test_a_reel_starts_with_a_frame_a_second_unless_that_is_few_or_more_than_it_can_hold(duration_s, gap_s):
    assert gap_for(duration_s) == pytest.approx(gap_s)
    assert duration_s / gap_for(duration_s) <= MAX_KEPT


@given(st.lists(st.integers(0, 5000), min_size=1, max_size=60, unique=True), st.randoms(use_true_random=False))
def test_what_a_reel_keeps_hangs_on_the_frames_and_not_on_their_order(times_ms, draw):
    def kept(order):
        reel = ThumbnailReel(0.05, max_kept=8)
        for time_ms in order:
            reel.add(time_ms / 1000, lambda time_ms=time_ms: np.full((2, 2, 3), time_ms % 200, np.uint8))
        return [(shot.time_s, shot.pixels.tobytes()) for shot in reel.at([time_ms / 1000 for time_ms in times_ms])]

    shuffled = list(times_ms)
    draw.shuffle(shuffled)
    assert kept(times_ms) == kept(shuffled)
    assert min(times_ms) / 1000 == kept(times_ms)[0][0]


def test_the_reel_gives_back_the_frame_that_it_was_shown():
    reel = ThumbnailReel()
    for i in range(5):
        reel.add(i / 2, lambda i=i: np.full((90, 160, 3), 40 * i, np.uint8))
    [shot] = reel.at([1.1])
    assert shot.time_s == 1.0
    assert shot.pixels.shape == (90, 160, 3)
    assert abs(int(shot.pixels.mean()) - 80) <= 1
    assert ThumbnailReel().at([1.0]) == ()


def test_one_frame_is_not_shown_twice():
    reel = ThumbnailReel()
    reel.add(0.0, lambda: np.zeros((9, 16, 3), np.uint8))
    assert len(reel.at([0.0, 0.1, 5.0])) == 1


def test_the_peak_of_a_span_is_its_best_frame_and_of_equals_the_middle_one():
    track = make_track([0.9, 0.6, 0.8, 0.7, 0.1])
    assert peak_time_s(track, Span(1, 4)) == 2.0
    assert peak_time_s(make_track([1.0] * 9), Span(0, 9)) == 4.0


def test_chosen_times_show_every_part_and_the_best_peaks():
    scores = np.full(100, 0.1)
    scores[13], scores[17], scores[62] = 0.8, 0.9, 0.7
    track = make_track(scores)
    spans = spans_above(track, 0.5)
    times_s = choose_times(track, spans, 5)
    assert times_s == [17.0, 30.0, 50.0, 62.0, 90.0]


def test_fewer_wide_thumbnails_fit_than_narrow_ones():
    assert num_thumbnails(9 / 16) == 12
    assert num_thumbnails(16 / 9) == 6
    assert num_thumbnails(50.0) == 3
    assert num_thumbnails(0.01) == 12


def test_png_holds_no_version_or_date(tmp_path):
    draw(make_track([0.2]), [], tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as picture:
        info = picture.info
    assert not {"Software", "Creation Time", "date"} & set(info)
