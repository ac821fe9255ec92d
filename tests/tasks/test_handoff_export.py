"""The hand-off as a whole: Camtrap DP, the sheet and the page, and what happens with bad, missing and killed things."""

import csv
import html
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import frictionless
import numpy as np
import pytest
from PIL import Image

from models.files import hash_file
from models.video import survey
from tasks.handoff.camtrap import Recording, recording_of, safe_path, write_camtrap
from tasks.handoff.export import FORMATS, export_results
from tasks.handoff.media import load_handoff
from tasks.handoff.options import ExportOptions, parse_place, parse_starts
from tasks.handoff.pictures import take_picture, write_contact_sheet
from tasks.handoff.values import FootageIndex, read_results
from tests.handoff_files import read_frames, write_result, write_video

ROOT = Path(__file__).resolve().parents[2]
HOSTILE = "-x <img src=x onerror=alert(1)> \"q\" 'é' #1 %41 &amp; 北.mp4"
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
TABLES = ["json", "csv", "parquet", "vtt", "timeline"]
# What https://camtrap-dp.tdwg.org/data asks of the fields that are filled; all others may be empty text.
TIME = {"type": "datetime", "format": "%Y-%m-%dT%H:%M:%S%z", "constraints": {"required": True}}
KEY = {"type": "string", "constraints": {"required": True, "unique": True}}
NEEDED = {"type": "string", "constraints": {"required": True}}
CAMTRAP = {
    "deployments": {
        "deploymentID": KEY,
        "latitude": {"type": "number", "constraints": {"required": True, "minimum": -90, "maximum": 90}},
        "longitude": {"type": "number", "constraints": {"required": True, "minimum": -180, "maximum": 180}},
        "deploymentStart": TIME,
        "deploymentEnd": TIME,
        "timestampIssues": {"type": "boolean"},
    },
    "media": {
        "mediaID": KEY,
        "deploymentID": NEEDED,
        "timestamp": TIME,
        "filePath": {
            "type": "string",
            "constraints": {"required": True, "pattern": r"^(?=^[^./~])(^((?!\.{2}).)*$).*$"},
        },
        "filePublic": {"type": "boolean", "constraints": {"required": True}},
        "fileMediatype": {"type": "string", "constraints": {"required": True, "pattern": "^(image|video|audio)/.*$"}},
        "favorite": {"type": "boolean"},
    },
    "observations": {
        "observationID": KEY,
        "deploymentID": NEEDED,
        "mediaID": {"type": "string"},
        "eventStart": TIME,
        "eventEnd": TIME,
        "observationLevel": {"type": "string", "constraints": {"required": True, "enum": ["media", "event"]}},
        "observationType": {
            "type": "string",
            "constraints": {
                "required": True,
                "enum": ["animal", "human", "vehicle", "blank", "unknown", "unclassified"],
            },
        },
        "classificationMethod": {"type": "string", "constraints": {"enum": ["human", "machine"]}},
    },
}
KEYS = {
    "media": [("deploymentID", "deployments")],
    "observations": [("deploymentID", "deployments"), ("mediaID", "media")],
}


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with footage (two videos with highlights, one without) and their results."""
    folder = tmp_path_factory.mktemp("scene")
    spans = [
        {"start_s": 0.48, "end_s": 1.2},
        {"start_s": 1.6, "end_s": 2.0, "category": "<i>", "category_probability": 0.5},
    ]
    first = write_video(folder / "footage" / "cam 1" / HOSTILE, 60, metadata={"creation_time": "2024-05-06T07:08:09Z"})
    write_result(folder / "results", first, spans, stem="-x", name=f"cam 1/{HOSTILE}")
    second = write_video(folder / "footage" / "b.mp4", 40, rate=10, size=(48, 96), has_sound=False)
    write_result(folder / "results", second, [{"start_s": 1.0, "end_s": 1.6}])
    write_result(folder / "results", write_video(folder / "footage" / "quiet.mp4", 20), [])
    return folder


@pytest.fixture(scope="module")
def whole(scene: Path) -> Path:
    """Return the folder of an export of everything."""
    report = export_results(scene / "results", [scene / "footage"], scene / "out", ["all"])
    assert report.rejected == ()
    assert set(report.files) == set(FORMATS)
    for files in report.files.values():
        assert all((scene / "out" / name).stat().st_size for name in files)
    return scene / "out"


def check_camtrap(folder: Path) -> list[str]:
    """Return what frictionless finds wrong with the package, by the rules of the standard."""
    package = json.loads((folder / "datapackage.json").read_text())
    package["profile"] = "data-package"
    for resource in package["resources"]:
        name = resource["name"]
        assert resource["schema"].endswith(f"camtrap-dp/1.0.2/{name}-table-schema.json")
        with (folder / f"{name}.csv").open(newline="") as source:
            columns = next(csv.reader(source))
        assert set(CAMTRAP[name]) <= set(columns)
        keys = [{"fields": field, "reference": {"resource": to, "fields": field}} for field, to in KEYS.get(name, [])]
        fields = [{"name": column, "type": "string", **CAMTRAP[name].get(column, {})} for column in columns]
        resource["schema"] = {"fields": fields, "missingValues": ["", "NA"], "foreignKeys": keys}
    report = frictionless.Package.from_descriptor(package, basepath=str(folder)).validate()
    return [f"{task.name}: {error.message}" for task in report.tasks for error in task.errors] + [
        error.message for error in report.errors
    ]


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as source:
        return list(csv.DictReader(source))


def test_camtrap_is_valid_once_time_and_place_are_told(scene, tmp_path):
    starts = {"b.mp4": "06:00:00+03:00", "quiet.mp4": "07:00:00+03:00"}
    options = ExportOptions(parse_starts([f"{k}=2026-01-31T{v}" for k, v in starts.items()]), parse_place("-2.4,37.9"))
    report = export_results(scene / "results", [scene / "footage"], tmp_path, ["camtrap-dp"], options)
    assert not any("not valid" in note for note in report.notes)
    assert check_camtrap(tmp_path / "camtrap-dp") == []
    observations = rows_of(tmp_path / "camtrap-dp" / "observations.csv")
    assert len(observations) == 3
    assert {row["observationType"] for row in observations} == {"unclassified"}
    assert not any(row["scientificName"] for row in observations)
    [b] = [row for row in observations if row["eventStart"].startswith("2026")]
    assert (b["eventStart"], b["eventEnd"]) == ("2026-01-31T06:00:01+03:00", "2026-01-31T06:00:02+03:00")
    assert "startSeconds:1.0000 | endSeconds:1.6000" in b["observationTags"]
    package = json.loads((tmp_path / "camtrap-dp" / "datapackage.json").read_text())
    assert package["spatial"] == {"type": "MultiPoint", "coordinates": [[37.9, -2.4]]}
    assert package["temporal"] == {"start": "2024-05-06", "end": "2026-01-31"}
    [deployment] = rows_of(tmp_path / "camtrap-dp" / "deployments.csv")
    assert deployment["timestampIssues"] == "true"  # one start is the container's own


def test_camtrap_says_what_is_not_known_and_makes_nothing_up(whole):
    problems = check_camtrap(whole / "camtrap-dp")
    assert problems
    assert all('constraint "required" is "True"' in problem for problem in problems)
    assert {re.search('field "(.+?)"', problem)[1] for problem in problems} == {
        "latitude", "longitude", "timestamp", "eventStart", "eventEnd"
    }  # fmt: skip
    package = json.loads((whole / "camtrap-dp" / "datapackage.json").read_text())
    assert "2 of 3 videos do not say when" in package["description"]
    assert "3 of 3 videos do not say where" in package["description"]
    notes = json.loads((whole / "export.json").read_text())["notes"]
    assert sum("camtrap-dp: not valid yet" in note for note in notes) == 2


def test_camtrap_takes_two_copies_of_one_content_apart(scene, tmp_path):
    video = write_video(tmp_path / "f" / "a.mp4", 20, has_sound=False)
    shutil.copy(video, tmp_path / "f" / "b.mp4")
    for name in ("a", "b"):
        write_result(tmp_path / "r", tmp_path / "f" / f"{name}.mp4", [{"start_s": 0.0, "end_s": 0.5}])
    index = FootageIndex([tmp_path / "f"])
    items = [load_handoff(scored, index) for scored in read_results(tmp_path / "r")[0]]
    recordings = [Recording(datetime(2026, 1, 1, tzinfo=UTC), True, (1.0, 2.0))] * 2
    assert write_camtrap(tmp_path / "c", items, recordings, datetime(2026, 1, 2, tzinfo=UTC)) == []
    assert check_camtrap(tmp_path / "c") == []
    assert recording_of(items[0], {}, None).start is None


@pytest.mark.parametrize("name", ["../a..b.mp4", "/etc/x.mp4", ".hidden.mp4", "~x.mp4", "a/b c.mp4"])
def test_paths_are_what_the_standard_allows(name):
    assert re.match(CAMTRAP["media"]["filePath"]["constraints"]["pattern"], safe_path(name))
    assert ("/" not in name[1:]) or "/" in safe_path(name)


def test_a_second_export_writes_the_same_bytes(scene, whole, tmp_path):
    def snapshot(folder: Path) -> dict[str, str]:
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        return {path.relative_to(folder).as_posix(): hash_file(path) for path in files}

    before = snapshot(whole)
    formats = [name for name in FORMATS if name not in ("clips", "reel", "html")]  # their bytes: test_handoff_clips
    export_results(scene / "results", [scene / "footage"], whole, formats)
    after = snapshot(whole)
    assert {k: v for k, v in after.items() if k != "export.json"} == {
        k: v for k, v in before.items() if k != "export.json"
    }
    files = json.loads((whole / "export.json").read_text())["files"]
    assert set(files) == set(FORMATS)


def test_clips_and_reel_are_where_the_report_says(whole):
    assert sorted(path.name for path in (whole / "clips").iterdir()) == ["-x.001.mp4", "-x.002.mp4", "b.001.mp4"]
    assert len(read_frames(whole / "clips" / "-x.001.mp4")) == 18
    assert (whole / "reel.vtt").read_text().count("-->") == 3


def test_what_is_no_longer_a_highlight_has_no_clip_any_more(scene, tmp_path):
    shutil.copytree(scene / "results", tmp_path / "results")
    export_results(tmp_path / "results", [scene / "footage"], tmp_path / "out", ["clips", "json"])
    (tmp_path / "out" / "clips" / "mine.mp4").write_bytes(b"a person's own file")
    content = json.loads((tmp_path / "results" / "-x.spans.json").read_text())
    content["spans"] = content["spans"][:1]
    (tmp_path / "results" / "-x.spans.json").write_text(json.dumps(content))
    export_results(tmp_path / "results", [scene / "footage"], tmp_path / "out", ["clips"])
    assert sorted(p.name for p in (tmp_path / "out" / "clips").iterdir()) == ["-x.001.mp4", "b.001.mp4", "mine.mp4"]
    assert (tmp_path / "out" / "highlights.json").exists()


def test_a_missing_and_a_changed_video_are_rows_and_the_others_go_on(scene, tmp_path):
    shutil.copytree(scene / "footage", tmp_path / "footage")
    (tmp_path / "footage" / "b.mp4").write_bytes(b"not what was scored")
    (tmp_path / "footage" / "quiet.mp4").unlink()
    report = export_results(
        scene / "results", [tmp_path / "footage"], tmp_path / "out", ["json", "otio", "clips", "html"]
    )
    reasons = {row.video: row.reason for row in report.rejected}
    assert set(reasons) == {"b.mp4", "quiet.mp4"}
    assert "another video" in reasons["b.mp4"]
    assert len(json.loads((tmp_path / "out" / "highlights.json").read_text())["videos"]) == 3
    assert len(report.files["clips"]) == 2
    assert "no picture of this moment" in (tmp_path / "out" / "highlights.html").read_text()
    assert json.loads((tmp_path / "out" / "export.json").read_text())["rejected"][0]["video"] == "b.mp4"


def test_of_a_video_that_breaks_off_its_beginning_is_handed_on(tmp_path):
    video = write_video(tmp_path / "f" / "v.mkv", 100, has_sound=False, gop=10)
    result = write_result(tmp_path / "r", video, [{"start_s": 0.4, "end_s": 1.2}])
    video.write_bytes(video.read_bytes()[: video.stat().st_size * 6 // 10])
    info, missing = survey(video)
    assert missing
    content = json.loads(result.read_text())
    content |= {"video_id": hash_file(video)[:16], "partial": missing}
    result.write_text(json.dumps(content))
    report = export_results(tmp_path / "r", [tmp_path / "f"], tmp_path / "out", ["json", "clips", "otio", "html"])
    assert report.rejected == ()
    assert "1 videos were read in part" in report.notes[0]
    assert len(read_frames(tmp_path / "out" / report.files["clips"][0])) == 20
    assert json.loads((tmp_path / "out" / "highlights.json").read_text())["videos"][0]["partial"] == missing
    assert f"read in part: {html.escape(missing)}" in (tmp_path / "out" / "highlights.html").read_text()
    assert 1.2 < info.duration_s < 3.9


def test_a_timeline_picture_that_is_gone_is_a_row(scene, tmp_path):
    shutil.copytree(scene / "results", tmp_path / "r")
    (tmp_path / "r" / "b.timeline.png").unlink()
    report = export_results(tmp_path / "r", [], tmp_path / "out", ["timeline"])
    assert report.files["timeline"] == ("videos/-x.timeline.png", "videos/quiet.timeline.png")
    assert [row.video for row in report.rejected] == ["b.mp4"]


def test_tables_need_no_footage(scene, tmp_path):
    report = export_results(scene / "results", [], tmp_path, TABLES)
    assert report.rejected == ()
    assert report.num_highlights == 3


def test_no_highlight_at_all_is_a_whole_export_that_says_so(tmp_path):
    video = write_video(tmp_path / "f" / "v.mp4", 20)
    result = write_result(tmp_path / "r", video, [])
    result.write_text(json.dumps({**json.loads(result.read_text()), "note": "a budget of 0 s"}))
    report = export_results(tmp_path / "r", [tmp_path / "f"], tmp_path / "out", ["all"])
    assert report.rejected == ()
    assert "<td>a budget of 0 s</td>" in (tmp_path / "out" / "highlights.html").read_text()
    assert report.files["clips"] == report.files["reel"] == ()
    assert "no reel: no highlight" in report.notes
    assert "No highlights" in (tmp_path / "out" / "highlights.html").read_text()
    with Image.open(tmp_path / "out" / "contact-sheet.png") as sheet:
        assert np.asarray(sheet.convert("L")).min() < 90  # there is writing on it


def test_results_without_a_video_are_empty_and_valid(tmp_path):
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "scored.json").write_text("[]")
    report = export_results(tmp_path / "r", [tmp_path], tmp_path / "out", ["all"])
    assert (report.num_videos, report.rejected) == (0, ())
    assert "covers no time" in " ".join(report.notes)


def test_the_contact_sheet_shows_each_highlight_and_goes_on_to_a_second_one(scene, tmp_path):
    index = FootageIndex([scene / "footage"])
    item = load_handoff(read_results(scene / "results")[0][0], index)
    picture = take_picture(item, 1, item.scored.highlights[0])
    write_contact_sheet(tmp_path / "a.png", [picture] * 45)
    write_contact_sheet(tmp_path / "b.png", [picture] * 45, sheet=1)
    with Image.open(tmp_path / "a.png") as first, Image.open(tmp_path / "b.png") as second:
        assert first.width == second.width
        assert first.height > 3 * second.height


@pytest.fixture(scope="module")
def dom(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    return browse(whole / "highlights.html", tmp_path_factory.mktemp("profile"))


def test_names_in_the_page_are_text_and_nothing_runs(dom):
    shown = [html.unescape(name) for name in re.findall("<h2>(.*?)</h2>", dom)]
    assert f"cam 1/{HOSTILE}" in shown
    assert "onerror" not in re.sub("&lt;.*?&gt;", "", dom)
    assert "<i>" not in dom


def test_pictures_of_the_page_are_inside_and_nothing_is_fetched(whole, dom):
    sources = re.findall(r'(?:src|poster|href)="(.*?)"', dom)
    assert sum(source.startswith("data:image/jpeg;base64,") for source in sources) == 3
    links = [source for source in sources if not source.startswith("data:")]
    assert sorted(links) == ["./clips/-x.001.mp4", "./clips/-x.002.mp4", "./clips/b.001.mp4", "./reel.mp4"]
    assert all((whole / link).is_file() for link in links)
    assert "http" not in dom.replace("http-equiv", "")


def test_clips_play_in_the_browser_under_the_policy_of_the_page(whole, tmp_path):
    page = (whole / "highlights.html").read_text()
    script = (
        "<script>for (const v of document.querySelectorAll('video')) { v.preload = 'auto';"
        "v.onloadeddata = () => document.body.append(` played:${v.getAttribute('src')}:${v.duration.toFixed(2)};`);"
        "v.onerror = () => document.body.append(` failed:${v.getAttribute('src')};`); v.load(); }</script>"
    )
    policy = page.replace("default-src 'none';", "default-src 'none'; script-src 'unsafe-inline';")
    (whole / "probe.html").write_text(policy.replace("</body>", f"{script}</body>"))
    dom = browse(whole / "probe.html", tmp_path)
    (whole / "probe.html").unlink()
    assert "failed:./" not in dom
    played = re.findall(r" played:(\./\S+?):([\d.]+);", dom)
    lengths = {name: float(length) for name, length in played}
    assert lengths["./clips/-x.001.mp4"] == pytest.approx(0.72, abs=0.05)
    assert set(lengths) == {"./clips/-x.001.mp4", "./clips/-x.002.mp4", "./clips/b.001.mp4", "./reel.mp4"}


def browse(page: Path, profile: Path) -> str:
    """Return the document that a headless Chromium makes of `page`, or skip where there is none."""
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--timeout=8000"]
    flags += [f"--user-data-dir={profile}", "--virtual-time-budget=6000", "--dump-dom", page.as_uri()]
    done = subprocess.run([CHROMIUM, *flags], capture_output=True, text=True, timeout=60, check=True)
    return done.stdout


def test_a_kill_leaves_no_half_file_and_the_next_run_finishes(tmp_path):
    video = write_video(tmp_path / "f" / "v.mp4", 250, gop=400)
    write_result(tmp_path / "r", video, [{"start_s": i + 0.2, "end_s": i + 1.0} for i in range(9)])
    out = tmp_path / "out"
    code = (
        "import sys; from pathlib import Path; from tasks.handoff.export import export_results\n"
        "results, footage, out = map(Path, sys.argv[1:]); export_results(results, [footage], out, ['clips', 'reel'])"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "r"), str(tmp_path / "f"), str(out)]
    process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
    deadline = time.monotonic() + 60
    while len(list((out / "clips").glob("[!.]*.mp4"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = sorted((out / "clips").glob("[!.]*.mp4"))
    assert 2 <= len(done) < 9
    assert all(len(read_frames(path)) == 20 for path in done)
    assert not (out / "export.json").exists()
    report = export_results(tmp_path / "r", [tmp_path / "f"], out, ["clips", "reel"])
    assert len(report.files["clips"]) == 9
    assert report.rejected == ()
