"""Which files the paths on a command line mean."""

import pytest

from models.errors import DataError
from tasks.footage import Footage, list_footage


def test_folders_give_every_file_below_but_hidden_ones_sidecars_and_results(tmp_path):
    folder = tmp_path / "in"
    for name in (
        "b.mp4",
        "sub/deep/a.MOV",
        "noextension",
        ".hidden.mp4",
        ".trash/c.mp4",
        "b.srt",
        "b.JSON",
        "Thumbs.db",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    out = folder / "out"
    out.mkdir()
    (out / "old.mp4").write_bytes(b"x")
    listed = list_footage([folder], out)
    assert [item.name for item in listed] == ["b.mp4", "noextension", "sub/deep/a.MOV"]
    assert list_footage([folder / "b.mp4", folder], out)[0] == Footage(folder / "b.mp4", "b.mp4")
    assert len(list_footage([folder, folder / "b.mp4"], out)) == 3
    assert [item.name for item in list_footage([folder / ".hidden.mp4"])] == [".hidden.mp4"]


@pytest.mark.parametrize(("name", "message"), [("nowhere", "no such file or folder"), ("empty", "no video files")])
def test_paths_with_nothing_in_them_are_named(name, message, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=rf"{name}: {message}"):
        list_footage([tmp_path / name])
