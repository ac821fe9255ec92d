"""The report: self-contained, escaped, complete, and robust when optional pieces are missing."""

import base64
import re
import shutil
from collections.abc import Callable, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from models.energy import Energy
from models.evaluation import Evaluation
from models.files import read_json, write_json, write_jsonl
from models.manifest import VideoRow, write_manifest
from models.metrics import choose_threshold
from models.predictions import write_predictions
from models.reliability import reliability_of
from models.shards import write_shard
from models.spans import Span, label_times
from models.verdict import Verdict
from tasks.evaluate import EvaluateParams, evaluate
from tasks.evaluate_segments import SegmentTruth
from tasks.gate import GateParams, judge
from tasks.pictures import PLAIN_NAMES, write_pictures, write_plots
from tasks.reliability import write_reliability
from tasks.report.__main__ import main

FPS = 4.0
# Noise of the logits by model: the lower, the better the model.
NOISE = {"zero_shot": 3.2, "fine_tuned": 1.1, "pruned": 1.2, "compiled": 1.2}
HOSTILE = "test/good/<script>alert('x')</script> & \"calf\".mp4"


def make_videos(make_row: Callable[..., VideoRow], seed: int = 3) -> list[VideoRow]:
    """Return videos of every split, some without any highlight, one with a hostile name."""
    rng = np.random.default_rng(seed)
    rows = []
    for index, split in enumerate(["val"] * 6 + ["test"] * 9 + ["train"] * 5):
        duration_s = float(rng.uniform(5, 14))
        start_s, length_s = float(rng.uniform(0.5, duration_s / 2)), float(rng.uniform(1.5, 4.5))
        segments = () if index % 4 == 3 else (Span(start_s, min(start_s + length_s, duration_s)),)
        content = ("calf at play", "bathing", "charging", "walking", "")[index % 5]
        folder = "good" if segments else "bad"
        rows.append(
            make_row(
                f"{index:016x}",
                path=HOSTILE if index == 6 else f"{split}/{folder}/{content or 'plain'} {index}.mp4",
                split=split,
                folder=folder,
                content=content,
                segments=segments,
                duration_s=duration_s,
                width=320,
                height=240,
            )
        )
    return rows


def make_tables(videos: Sequence[VideoRow], seed: int = 5) -> dict[str, pd.DataFrame]:
    """Return a frame table a model: noisy logits of the truth, smooth in time, shifted a little for each video."""
    rng = np.random.default_rng(seed)
    shared: dict[str, np.ndarray] = {}
    tables = {}
    for name, noise in NOISE.items():
        parts = []
        for video in videos:
            if video.split == "train":
                continue
            times_s = np.arange(int(video.duration_s * FPS)) / FPS
            labels = label_times(times_s, video.spans)
            white = shared.setdefault(video.video_id, rng.normal(size=len(times_s)))
            smooth = np.convolve(white, np.ones(5) / 5**0.5, mode="same") + rng.normal(scale=0.05)
            slow = np.convolve(labels * 4.0, [0.2, 0.6, 0.2], mode="same")
            logits = slow - 1.6 + noise * smooth + 0.8 * (white[0] > 0)
            score = (1 / (1 + np.exp(-logits))).astype(np.float32)
            parts.append(
                pd.DataFrame(
                    {
                        "video_id": video.video_id,
                        "group": video.group,
                        "split": video.split,
                        "time_s": times_s,
                        "label": labels,
                        "score": score,
                    }
                )
            )
        tables[name] = pd.concat(parts, ignore_index=True)
    return tables


def _draw_frames(num_frames: int, size: int = 48) -> np.ndarray:
    """Return uint8 [T, S, S, 3]: a sky, a plain and a grey animal that walks."""
    y, x = np.mgrid[0:size, 0:size] / size
    frames = np.empty((num_frames, size, size, 3), np.uint8)
    for t in range(num_frames):
        frames[t] = np.where(y[..., None] < 0.45, [150, 190, 225], [190, 160, 95])
        at = 0.2 + 0.6 * t / max(1, num_frames - 1)
        frames[t][((x - at) / 0.16) ** 2 + ((y - 0.55) / 0.12) ** 2 < 1] = [105, 100, 98]
        frames[t][((x - at - 0.15) / 0.06) ** 2 + ((y - 0.5) / 0.08) ** 2 < 1] = [95, 90, 88]
    return frames


def write_build(root: Path, make_row: Callable[..., VideoRow]) -> Path:
    """Write a whole build folder as the stages before the report leave it, and return it."""
    videos = make_videos(make_row)
    tables = make_tables(videos)
    for stage in ("ingest", "frames"):
        write_manifest(root / stage / "manifest.parquet", videos)
    write_json(
        root / "ingest" / "rejected.json",
        [{"path": "train/good/<b>broken</b>.mp4", "reason": "moov atom not found <script>alert(1)</script>"}],
    )
    write_json(root / "frames" / "rejected.json", [{"path": "val/good/cut.mp4", "reason": "broke off at 2.5 s"}])
    write_json(root / "validate" / "expectations.json", {"success": True, "expectations": [{"success": True}] * 14})
    for video in videos:
        count = int(video.duration_s * FPS)
        tensors = {"frames": _draw_frames(count), "times_s": np.arange(count) / FPS}
        metadata = {"duration_s": repr(video.duration_s), "fingerprint": "f"}
        write_shard(root / "frames" / "shards", video.video_id, tensors, metadata)
    places = {"zero_shot": "embed/zero_shot", "fine_tuned": "train/predictions"}
    places |= {"pruned": "prune/predictions", "compiled": "compile/predictions"}
    for name, place in places.items():
        write_predictions(root / f"{place}.parquet", tables[name])
    truth = SegmentTruth.of(videos, min_duration_s=0.5, merge_gap_s=0.75)
    evaluation = evaluate(tables, truth, EvaluateParams(num_bootstrap=400))
    write_json(root / "evaluate" / "evaluation.json", evaluation.to_json())
    write_plots(root / "evaluate" / "plots", evaluation, tables)
    write_pictures(root / "evaluate" / "pictures", evaluation, tables)
    reliability = reliability_of(tables["compiled"].assign(raw_score=np.sqrt(tables["compiled"]["score"])))
    write_json(root / "evaluate" / "reliability.json", reliability.to_json())
    write_reliability(root / "evaluate" / "plots", root / "evaluate" / "pictures", reliability)
    val = tables["compiled"][tables["compiled"]["split"] == "val"]
    engines = make_engines(choose_threshold(val["label"].to_numpy(), val["score"].to_numpy()))
    write_json(root / "compile" / "engines.json", engines)
    write_json(root / "gate" / "verdict.json", judge(evaluation, engines, GateParams(), None).to_json())
    stages = ("ingest", "validate", "frames", "pretrain", "embed", "train", "prune", "compile", "evaluate", "gate")
    for index, stage in enumerate(stages):
        energy = Energy(3.0 + 9 * index, 1e-5 * (1 + index), 0, 2e-6, 1e-6 * (2 + index), "estimated", "CPU x2", "KEN")
        write_json(root / stage / "energy.json", energy.to_json())
    return root


def make_engines(threshold: float) -> dict[str, Any]:
    """Return an engines.json with one engine of each status."""
    measured = {
        "name": "openvino",
        "status": "measured",
        "reason": "",
        "precision": "bfloat16",
        "num_bytes": 5_400_000,
        "latency_ms_p50": 3.1,
        "latency_ms_p99": 4.8,
        "frames_per_s": 812.0,
        "max_score_diff": 0.011,
        "mean_score_diff": 0.0012,
        "f1": 0.81,
        "f1_diff": 0.0,
    }
    unmeasured = dict.fromkeys(list(measured)[5:])
    tensorrt = {"name": "tensorrt", "status": "built", "reason": "no GPU here", "precision": "float16"}
    onnx = {"name": "onnx", "status": "failed", "reason": "no <kernel> for 'Foo'", "precision": "float32"}
    return {
        "chosen": "openvino",
        "threshold": threshold,
        "engines": [
            measured,
            {**measured, "name": "eager-bf16", "frames_per_s": 402.0, "latency_ms_p50": 6.0},
            {**tensorrt, "num_bytes": 3_000_000, **unmeasured},
            {**onnx, "num_bytes": None, **unmeasured},
        ],
    }


@pytest.fixture
def build(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, make_row: Callable[..., VideoRow]) -> Path:
    """Return a fresh copy of a build folder that is written once."""
    template = tmp_path_factory.getbasetemp() / "report_template"
    if not template.exists():
        write_build(template, make_row)
    return Path(shutil.copytree(template, tmp_path / "build"))


def run_report(build: Path) -> tuple[str, str]:
    """Run the shell and return the page and the model card."""
    params = build.parent / "params.yaml"
    params.write_text("gate: {min_f1: 0.6154}\nframes: {fit: squash, note: '<i>'}\n", encoding="utf-8")
    main(["--build", str(build), "--params", str(params), "--out", str(build / "report")])
    folder = build / "report"
    return (folder / "report.html").read_text(encoding="utf-8"), (folder / "model_card.md").read_text(encoding="utf-8")


class Page(HTMLParser):
    """Tags, references and visible text of a page; fails on a tag that is closed but was not opened."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.references: list[str] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        assert not self._open, f"left open: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.references += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]
        assert not any(name.startswith("on") for name, _ in attrs)
        if tag not in ("meta", "img", "br", "rect", "line", "polyline"):
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open[-1:] not in (["style"], []):
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))


def test_page_is_self_contained(build: Path) -> None:
    html, _ = run_report(build)
    page = Page(html)
    assert page.references
    assert all(reference.startswith(("#", "data:image/")) for reference in page.references)
    assert not re.search(r"https?://|url\(|@import", html)
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert {reference[1:] for reference in page.references if reference[0] == "#"} <= set(
        re.findall(r'id="(\w+)"', html)
    )
    pictures = [reference for reference in page.references if reference.startswith("data:image/png")]
    assert sorted(pictures) == sorted(
        "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
        for path in (build / "evaluate" / "pictures").iterdir()
    )


def test_hostile_names_and_reasons_stay_text(build: Path) -> None:
    html, card = run_report(build)
    assert "<script" not in html + card
    assert "<b>broken" not in html + card
    assert "<kernel>" not in html
    page = Page(html)
    assert HOSTILE in page.text
    assert "moov atom not found <script>alert(1)</script>" in page.text
    assert "no <kernel> for 'Foo'" in page.text
    assert "note: <i>" in page.text


def test_page_says_everything(build: Path) -> None:
    html, card = run_report(build)
    text = Page(html).text
    verdict = Verdict.from_json(read_json(build / "gate" / "verdict.json"))
    assert verdict.promoted
    assert "This model may be served" in text
    for line in verdict.lines:
        assert line.text[1:] in text
    assert verdict.resolution is not None
    assert verdict.resolution.text[1:] in text
    assert verdict.resolution.text[1:] in card
    evaluation = Evaluation.from_json(read_json(build / "evaluate" / "evaluation.json"))
    for row in evaluation.rows:
        assert PLAIN_NAMES[row.name] in text
        for estimate in row.metrics.values():
            assert f"{estimate.value:.2f} {estimate.low:.2f} to {estimate.high:.2f}" in text.replace("<0.01", "0.00")
    for words in ("built, not measured", "no GPU here", "eager-bf16", "broke off at 2.5 s", "14 of 14 expectations"):
        assert words in text
    for stage in ("pretrain", "compile", "gate"):
        assert re.search(rf"{stage} \d+ s 0\.0\d+ 0\.0\d+ estimated", text)
    for split, number in (("Train", 5), ("Val", 6), ("Test", 9)):
        assert re.search(rf"{split}: [^\d]* {number} {number} ", text)


def test_refusal_comes_first_with_both_numbers(build: Path) -> None:
    evaluation = Evaluation.from_json(read_json(build / "evaluate" / "evaluation.json"))
    row = evaluation.row("compiled")
    assert row is not None
    engines = read_json(build / "compile" / "engines.json")
    refused = judge(evaluation, engines, GateParams(min_f1=0.99), None)
    write_json(build / "gate" / "verdict.json", refused.to_json())
    html, card = run_report(build)
    text = Page(html).text
    assert "This model must not be served" in text
    assert text.index("✗ failed") < text.index("✓ passed")
    for words in (text, card):
        assert f"F1 of the compiled engine on test is {row.f1.value:.4f}, but it must be at least 0.9900" in words


def test_weakest_videos_come_first_and_none_twice(build: Path) -> None:
    html, _ = run_report(build)
    shares = [int(share) for share in re.findall(r"(\d+)% of \d+ frames right", html)]
    titles = re.findall(r"<h4>(.*?)</h4>", html)
    assert len(titles) == len(set(titles)) == len(shares) == 9
    assert shares[:5] == sorted(shares[:5])
    assert shares[5:] == sorted(shares[5:], reverse=True)
    assert max(shares[:5]) <= min(shares[5:])
    assert len(re.findall(r'<figure class="[^"]*"><img src="data:image/jpeg', html)) == 9 * 4


OPTIONAL = [
    "evaluate/reliability.json",
    "ingest/rejected.json",
    "frames/rejected.json",
    "frames/shards",
    "frames/manifest.parquet",
    "validate",
    "compile/engines.json",
    "evaluate/pictures",
    "gate",
    "train",
    "compile/energy.json",
]


def test_everything_optional_may_be_missing(build: Path) -> None:
    for name in OPTIONAL:
        path = build / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    for path in build.glob("*/energy.json"):
        path.unlink()
    html, card = run_report(build)
    text = Page(html).text
    for words in (
        "Not judged yet",
        "no outcome of the data checks",
        "No list of rejected videos",
        "no list of engines",
        "left no pictures",
        "left an energy record",
    ):
        assert words in text
    assert "not judged" in card
    assert "nan" not in text.lower().split()


@pytest.mark.parametrize("name", ["evaluate/evaluation.json", "ingest/manifest.parquet", "compile/predictions.parquet"])
def test_what_is_needed_and_missing_is_one_line(build: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    (build / "frames" / "manifest.parquet").unlink()
    (build / name).unlink()
    with pytest.raises(SystemExit) as ended:
        run_report(build)
    assert ended.value.code == 1
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert name in last
    assert "run" in last


def test_learning_curves_are_drawn_where_there_is_history(build: Path) -> None:
    write_jsonl(
        build / "train" / "history.jsonl", [{"epoch": n, "loss": 2.0 / (n + 1), "val_loss": None} for n in range(5)]
    )
    write_jsonl(build / "prune" / "history.jsonl", [{"epoch": 0, "loss": 1.0}])
    html, _ = run_report(build)
    text = Page(html).text
    assert "Fine-tuning: loss on train 2.00 at first, 0.40 at epoch 4" in text
    assert "on val 2" not in text
    assert "Recovery" not in text


def test_model_card_has_every_row_the_footprint_and_the_model(build: Path) -> None:
    spec = {
        "encoder": {"name": "ViT-B-32", "pretrained": "open|ai"},
        "sampling": {"fps": 4.0, "image_size": 224, "fit": "squash"},
        "unfreeze_blocks": 0,
        "temporal": "transformer",
    }
    write_json(build / "compile" / "model" / "model.json", spec)
    _, card = run_report(build)
    tables = [line for line in card.splitlines() if line.startswith("|")]
    assert "| Encoder | ViT-B-32, weights open&#124;ai |" in tables
    assert "| Trained blocks of the tower | 0 |" in tables
    evaluation = Evaluation.from_json(read_json(build / "evaluate" / "evaluation.json"))
    for row in evaluation.rows:
        assert any(
            line.startswith(f"| {PLAIN_NAMES[row.name]} | {row.f1.value:.2f} [{row.f1.low:.2f}, {row.f1.high:.2f}] |")
            for line in tables
        ), row.name
    total = sum(read_json(path)["kwh"] for path in build.glob("*/energy.json") if path.parent.name != "report")
    assert re.search(rf"Embodied in this model: {total:.6f}\d* kWh", card)
    for heading in ("Intended use", "Data", "Evaluation", "Limitations", "Footprint", "Licence"):
        assert f"\n## {heading}\n" in card
    assert "\n\n\n" not in card


def test_the_same_inputs_give_the_same_bytes(build: Path) -> None:
    assert run_report(build) == run_report(build)
