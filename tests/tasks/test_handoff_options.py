"""What people type for an export: formats, starts, places and folders."""

import pytest

from models.errors import DataError, ParamsError
from tasks.handoff.export import FORMATS, choose_formats
from tasks.handoff.options import parse_place, parse_starts, require_separate


def test_formats_are_named_once_in_their_order():
    assert choose_formats(["csv,json", "vtt"]) == ["json", "csv", "vtt"]
    assert choose_formats(["all"]) == list(FORMATS)
    with pytest.raises(ParamsError, match="'avi' is no format; there are json"):
        choose_formats(["json,avi"])
    with pytest.raises(ParamsError, match="no format was named"):
        choose_formats([","])


@pytest.mark.parametrize("text", ["a.mp4", "a.mp4=noon", "a.mp4=2026-01-01T00:00:00", "=2026-01-01T00:00:00Z"])
def test_a_start_without_video_or_zone_is_refused(text):
    with pytest.raises(ParamsError, match="must be VIDEO=TIME with a zone"):
        parse_starts([text])


@pytest.mark.parametrize("text", ["here", "91,0", "0,181", "1", "nan,0", "1,2,3"])
def test_a_place_off_the_earth_is_refused(text):
    with pytest.raises(ParamsError, match="LATITUDE,LONGITUDE"):
        parse_place(text)


def test_results_are_not_written_into_themselves(tmp_path):
    with pytest.raises(DataError, match="choose another --out"):
        require_separate(tmp_path, tmp_path)
    (tmp_path / "b.mp4").write_bytes(b"")
    with pytest.raises(DataError, match="not a folder"):
        require_separate(tmp_path, tmp_path / "b.mp4" / "x")
