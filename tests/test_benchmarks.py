"""What the benchmarks plan, count and write, on made files; their measurements are runs of their own."""

import gzip
import json
import re
from pathlib import Path
from typing import Any

import pytest

from benchmarks import gate_power, qvhighlights, real_footage, tvsum, tvsum_pipeline
from benchmarks.real_footage import Input, compare, is_clear, lay_out, plan, read_baseline, summarise
from benchmarks.results_file import RESULTS, write_results
from benchmarks.tvsum_pipeline import plan_data
from models.errors import DataError, ModelError, ShapeError, StageFailed
from models.evaluation import MODEL_NAMES, TRIVIAL_NAMES
from models.files import read_json
from models.params import parse_section, read_params
from tasks.annotations import parse_annotations, resolve_labels
from tasks.footage import list_footage
from tasks.profiles import SECTION_MODULES, section_class

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """Return a folder like ../shared whose videos are text; planning never opens them."""
    data = tmp_path / "shared" / "data"
    names = ["wildlife/a.mp4", "wildlife/labels.csv", "odd_media/-dash-.mp4", "odd_media/empty.mp4", "odd_media/x.md"]
    for name in names:
        (data / name).parent.mkdir(parents=True, exist_ok=True)
        (data / name).write_text(name)
    return tmp_path / "shared"


def scored_row(video: str, duration_s: float, highlight_s: float) -> dict[str, Any]:
    return {"video": video, "duration_s": duration_s, "highlight_s": highlight_s}


def test_the_plan_takes_what_scoring_takes_and_links_to_it(shared: Path, tmp_path: Path) -> None:
    inputs = plan(shared, real_footage.QUICK_FOLDERS)
    assert [item.name for item in inputs] == ["wildlife/a.mp4", "odd_media/-dash-.mp4", "odd_media/empty.mp4"]
    lay_out(inputs, tmp_path / "footage")
    # The names in the result files are those that scoring will give to the links.
    assert sorted(item.name for item in list_footage([tmp_path / "footage"])) == sorted(item.name for item in inputs)
    assert (tmp_path / "footage" / "odd_media" / "-dash-.mp4").read_text() == "odd_media/-dash-.mp4"


def test_counts_are_by_folder_and_in_all() -> None:
    inputs = [Input(name, Path(name)) for name in ("a/1.mp4", "a/2.mp4", "a/3.mp4", "b/1.mp4")]
    scored = [scored_row("a/1.mp4", 1800.0, 450.0), scored_row("a/3.mp4", 1800.0, 0.0)]
    rejected = [{"video": "a/2.mp4", "reason": "no frame"}, {"video": "b/1.mp4", "reason": "no frame"}]
    figures = summarise(inputs, scored, rejected)
    assert (figures["num_videos"], figures["num_scored"], figures["num_rejected"]) == (4, 2, 2)
    assert (figures["a_num_videos"], figures["a_num_scored"], figures["a_num_rejected"]) == (3, 2, 1)
    assert (figures["b_num_scored"], figures["b_num_rejected"], figures["b_highlight_share"]) == (0, 1, None)
    assert (figures["hours"], figures["a_hours"], figures["a_highlight_share"]) == (1.0, 1.0, 0.125)


@pytest.mark.parametrize("rejected", [[], [{"video": "a/1.mp4", "reason": "x"}], [{"video": "a/9.mp4", "reason": "x"}]])
def test_a_video_that_is_lost_counted_twice_or_unknown_is_an_error(rejected: list[dict[str, str]]) -> None:
    inputs = [Input("a/1.mp4", Path("a/1.mp4")), Input("a/2.mp4", Path("a/2.mp4"))]
    with pytest.raises(DataError, match="neither scored nor rejected"):
        summarise(inputs, [scored_row("a/1.mp4", 1.0, 0.0)], rejected)


def test_disagreement_with_the_other_decoder_is_listed_in_both_directions(tmp_path: Path) -> None:
    manifest = tmp_path / "manifest.csv"
    rows = ["file,frames_decoded,pyav_error", "a/good.mp4,5,", "a/bad.mp4,0,", "a/broken.mp4,5,InvalidDataError"]
    manifest.write_text("\n".join([*rows, "a/fine.mp4,9,", "a/untried.mp4,,"]))
    inputs = [
        Input(f"a/{stem}.mp4", tmp_path / f"a/{stem}.mp4")
        for stem in ("good", "bad", "broken", "fine", "new", "untried")
    ]
    found = compare(read_baseline(manifest), inputs, {"a/good.mp4", "a/broken.mp4", "a/new.mp4"}, tmp_path)
    assert found["rejected_but_decoded_elsewhere"] == ["a/good.mp4"]
    assert found["scored_but_not_decoded_elsewhere"] == ["a/bad.mp4"]
    assert read_baseline(tmp_path / "missing.csv") == {}


@pytest.mark.parametrize(
    ("reason", "clear"),
    [
        ("has no video stream", True),
        ("decoding stops at 3.2 s of 10 s: invalid data", True),
        ("", False),
        ("InvalidDataError: [Errno 1094995529]", False),
        ("Traceback (most recent call last)", False),
        ("two\nlines", False),
        ("x" * 500, False),
    ],
)
def test_a_clear_reason_is_one_sentence(reason: str, clear: bool) -> None:
    assert is_clear(reason) is clear


@pytest.mark.parametrize("module", [qvhighlights, real_footage, tvsum, tvsum_pipeline])
def test_without_shared_there_is_one_line_and_status_1(
    module: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        module.main(["--shared", str(tmp_path / "shared")])
    assert left.value.code == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(r"\w+: \w+ skipped: shared/data/\S+ is missing; name the folder with --shared\n", err)


def test_without_a_model_real_footage_says_which_is_missing(shared: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="nowhere: no served model there"):
        real_footage.measure(shared, tmp_path / "nowhere", quick=True, results=tmp_path)


@pytest.fixture
def tvsum(tmp_path: Path) -> tuple[dict[str, Any], Path]:
    """Return labels of three videos, one whose last shots pass its end, and their folder."""
    labels = {
        "-dash": {"category": "DS", "title": "A dog", "duration_s": 9.3, "highlights": [[2.0, 4.0], [8.0, 10.0]]},
        "late": {"category": "GA", "title": "A cat", "duration_s": 6.0, "highlights": [[0.0, 2.0], [6.0, 8.0]]},
        "none": {"category": "BK", "title": "A bee", "duration_s": 30.0, "highlights": []},
    }
    for name in labels:
        (tmp_path / f"{name}.mp4").write_text(name)
    return labels, tmp_path


def test_tvsum_becomes_annotations_that_herdlight_takes(tvsum: tuple[dict[str, Any], Path]) -> None:
    labels, folder = tvsum
    layout = plan_data(labels, folder)
    assert (layout.num_clipped, layout.num_dropped, layout.duration_s) == (1, 1, pytest.approx(45.3))
    parsed = parse_annotations(json.loads(json.dumps(layout.annotations)))
    assert not parsed.problems
    assert set(parsed.entries) == set(layout.sources) == {"pool/-dash.mp4", "pool/late.mp4", "pool/none.mp4"}
    entry = parsed.entries["pool/-dash.mp4"]
    assert (entry.caption, entry.content) == ("A dog", "DS")
    spans = resolve_labels("pool/-dash.mp4", entry, 9.3).segments
    assert [(span.start_s, span.end_s) for span in spans] == [(2.0, 4.0), (8.0, 9.3)]
    # No segments must mean no highlight: an absent key would mean one throughout.
    assert resolve_labels("pool/none.mp4", parsed.entries["pool/none.mp4"], 30.0).segments == ()


def test_a_limit_takes_the_shortest_and_a_missing_video_is_named(tvsum: tuple[dict[str, Any], Path]) -> None:
    labels, folder = tvsum
    assert set(plan_data(labels, folder, 2).sources) == {"pool/-dash.mp4", "pool/late.mp4"}
    (folder / "late.mp4").unlink()
    with pytest.raises(DataError, match=r"late\.mp4: labelled, but not among the videos"):
        plan_data(labels, folder)


def test_a_flow_that_ended_early_is_told_by_the_first_file_that_is_missing(tmp_path: Path) -> None:
    verdict = {"promoted": False, "lines": [{"name": "min_f1", "passed": False, "text": "too low"}]}
    with pytest.raises(StageFailed, match=r"evaluate/evaluation\.json was not written"):
        tvsum_pipeline.collect(tmp_path, ["ingest"], verdict)


def test_the_profile_is_made_of_parameters_that_the_stages_know_and_leaves_the_gate_alone() -> None:
    profile = read_params(ROOT / "params" / "tvsum.yaml")
    assert set(profile) <= set(SECTION_MODULES) - {"gate", "evaluate"}
    for name, values in profile.items():
        kind = section_class(name)
        assert kind is not None
        parse_section(values, name, kind, "params/tvsum.yaml")


def test_a_result_file_has_the_house_s_form_and_no_number_that_is_none(tmp_path: Path) -> None:
    path = write_results(
        "made", {"f1": 0.5, "ap": None}, {"quick": True}, {"why": ["x"]}, commit="abc", folder=tmp_path
    )
    content = read_json(path)
    assert content["figures"] == {"f1": 0.5, "ap": None}
    assert (content["params"], content["commit"], content["why"]) == ({"quick": True}, "abc", ["x"])
    assert content["hardware"]["cores"] >= 1
    assert content["hardware"]["memory_gb"] > 0
    assert re.match(r"3\.\d+", content["versions"]["python"])
    with pytest.raises(ShapeError, match="figure f1 of benchmark made: nan"):
        write_results("made", {"f1": float("nan")}, {}, commit="abc", folder=tmp_path)


@pytest.mark.parametrize("name", [gate_power.NAME, qvhighlights.NAME, real_footage.NAME, tvsum_pipeline.NAME])
def test_the_result_files_are_whole_runs_of_committed_code_and_name_no_path_of_a_machine(name: str) -> None:
    text = (RESULTS / f"{name}.json").read_text(encoding="utf-8")
    content = json.loads(text)
    assert re.fullmatch(r"[0-9a-f]{40}", content["commit"])
    assert content["params"]["quick"] is False
    assert not re.search(r'[" ]/\w+/', text)
    assert all(value is None or isinstance(value, int | float) for value in content["figures"].values())


def test_the_footage_figures_add_up() -> None:
    content = read_json(RESULTS / "real_footage.json")
    figures = content["figures"]
    for count in ("num_videos", "num_scored", "num_rejected"):
        assert figures[count] == sum(figures[f"{name}_{count}"] for name in real_footage.FOLDERS)
    assert figures["num_scored"] + figures["num_rejected"] == figures["num_videos"]
    assert len(content["rejected"]) == figures["num_rejected"]
    assert all(is_clear(row["reason"]) for row in content["rejected"])


def test_the_tvsum_figures_hold_the_whole_ladder_and_the_gate_s_words() -> None:
    content = read_json(RESULTS / "tvsum_pipeline.json")
    figures = content["figures"]
    assert all(f"{row}_{metric}" in figures for row in (*MODEL_NAMES, *TRIVIAL_NAMES) for metric in ("f1", "ap"))
    assert len(content["refused"]) == figures["num_refused_lines"]
    assert (figures["promoted"] == 1) == (not content["refused"]) == (figures["flow_exit_status"] == 0)


def test_the_qvhighlights_figures_are_the_official_ones_to_two_decimals() -> None:
    content = read_json(RESULTS / "qvhighlights.json")
    figures, official = content["figures"], content["official"]
    assert len(official) == figures["num_official_values"] == figures["num_equal_values"] == 104
    assert {name: figures[name] for name in official} == official
    assert (figures["max_abs_difference"], figures["num_queries"]) == (0, 1550)
    published = {"Fair": (67.77, 66.45), "Good": (58.09, 64.45), "VeryGood": (35.65, 55.55)}
    for level, (average, hit) in published.items():
        assert (figures[f"HL-min-{level}/HL-mAP"], figures[f"HL-min-{level}/HL-Hit1"]) == (average, hit)


def make_query(qid: int, windows: list[list[int]]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a line of truth and one of predictions; the prediction is the first 20 of 40 seconds."""
    truth = {
        "qid": qid,
        "duration": 40,
        "relevant_windows": windows,
        "relevant_clip_ids": [0, 1],
        "saliency_scores": [[4, 2, 1], [2, 2, 2]],
    }
    scores = list(range(20, 0, -1))
    return truth, {"qid": qid, "pred_relevant_windows": [[0, 20, 0.9]], "pred_saliency_scores": scores}


def test_qvhighlights_counts_windows_by_their_length() -> None:
    queries = [qvhighlights.query_of(*make_query(1, [[0, 20], [30, 36]])), qvhighlights.query_of(*make_query(2, []))]
    assert queries[0].clips.ratings[:, :3].T.tolist() == [[4, 2, 1], [2, 2, 2], [0, 0, 0]]
    figures = qvhighlights.evaluate(queries[:1])
    assert figures["full/MR-R1/0.95"] == figures["middle/MR-mAP/average"] == figures["brief/MR-middle-mAP"] == 100
    assert figures["full/MR-mAP/0.5"] == figures["brief/MR-full-mAP@0.5"] == pytest.approx(50)
    assert figures["short/MR-mAP/average"] == 0
    # By two annotators both clips are fair, by the third only the second.
    assert figures["HL-min-Fair/HL-mAP"] == figures["brief/HL-min-Fair-mAP"] == pytest.approx(100 * 2.5 / 3)
    assert figures["HL-min-VeryGood/HL-mAP"] == pytest.approx(100 / 3)  # one of three annotators, the others count 0
    assert qvhighlights.of_length(queries[0].moments, "long") is None


def test_qvhighlights_refuses_other_queries_and_other_figures(tmp_path: Path) -> None:
    truth, predicted = make_query(1, [[0, 2]])
    (tmp_path / qvhighlights.TRUTH).write_text(json.dumps(truth))
    (tmp_path / qvhighlights.PREDICTIONS).write_bytes(gzip.compress(json.dumps(predicted | {"qid": 2}).encode()))
    with pytest.raises(DataError, match=r"differ in 2 of 1 queries, e.g. \[1, 2\]"):
        qvhighlights.read_queries(tmp_path)
    flat = qvhighlights.flatten({"a": {"b": {"0.5": 1}}, "c": 2.5})
    assert flat == {"a/b/0.5": 1, "c": 2.5}
    assert qvhighlights.compare({"c": 2.504, "a/b/0.5": 0.99}, flat) == {"c": 0, "a/b/0.5": -0.01}
    with pytest.raises(DataError, match="1 figures are on one side only"):
        qvhighlights.compare({"c": 1}, flat)
