"""A tiny repository whose stages are small scripts: the machinery is real, only the models are not.

Its stages carry the names that end in a candidate (`compile`, `evaluate`), and leave the same files as the real ones.
"""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import yaml

from flows.settings import Settings
from models.files import write_text

_COMMON = """
import json, sys
from pathlib import Path
import yaml

PARAMS = yaml.safe_load(Path("params.yaml").read_text())


def leave(stage, metrics, kwh):
    folder = Path("build") / stage
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.json").write_text(json.dumps(metrics))
    parts = {"seconds": 1.5, "cpu_kwh": kwh, "gpu_kwh": 0.0, "ram_kwh": 0.0, "co2e_kg": kwh / 10}
    about = {"method": "estimated", "device": "test bench", "country": "KEN"}
    (folder / "energy.json").write_text(json.dumps(parts | about))
    with open("ran.log", "a") as log:
        log.write(stage + "\\n")
    return folder
"""
_PREPARE = """
from common import PARAMS, leave

print("drawing", PARAMS["prepare"]["num_videos"], "videos")
out = leave("prepare", {"num_videos": PARAMS["prepare"]["num_videos"], "undefined": None}, 1e-4)
(out / "rows.json").write_text("[1]")
"""
_COMPILE = """
import json, os, sys, time
import numpy as np, pandas as pd
from pathlib import Path
from common import PARAMS, leave
from models.metrics import choose_threshold
from models.predictions import read_predictions, write_predictions

section = PARAMS["model"]
if section["sleep_s"]:
    Path("sleeping").write_text(str(os.getpid()))
    time.sleep(section["sleep_s"])
if section["fail"]:
    print("some progress", flush=True)
    sys.exit("stage compile: weights of layer 3 do not fit; lower model.quality")
generator = np.random.default_rng(section["seed"])
rows = []
for split in ("val", "test"):
    for video in range(8):
        labels = (np.arange(12) // 3 + video) % 2
        noise = generator.random(12)
        scores = np.clip(section["quality"] * labels + (1 - section["quality"]) * noise, 0, 1)
        rows += [(f"{split}{video}", f"g{split}{video}", split, i / 4, int(labels[i]), scores[i]) for i in range(12)]
columns = ["video_id", "group", "split", "time_s", "label", "score"]
out = leave("compile", {"latency_ms": 2.5}, 2e-4)
write_predictions(out / "predictions.parquet", pd.DataFrame(rows, columns=columns))
val = read_predictions(out / "predictions.parquet").query("split == 'val'")
threshold = choose_threshold(val["label"].to_numpy(), val["score"].to_numpy())
engine = {"name": "eager", "status": "measured", "mean_score_diff": 0.0, "f1_diff": 0.0}
(out / "engines.json").write_text(json.dumps({"chosen": "eager", "threshold": threshold, "engines": [engine]}))
(out / "model").mkdir(exist_ok=True)
(out / "model" / "model.json").write_text(json.dumps(section))
history = [{"step": step, "epoch": step // 2, "loss": 1 / (1 + step)} for step in range(4)]
(out / "history.jsonl").write_text("".join(json.dumps(row) + "\\n" for row in history))
"""
_EVALUATE = """
import json
from pathlib import Path
from common import PARAMS, leave
from models.evaluation import MODEL_NAMES
from models.files import write_json
from models.predictions import read_predictions
from models.spans import Span
from tasks.evaluate import EvaluateParams, evaluate
from tasks.evaluate_segments import SegmentTruth

table = read_predictions(Path("build/compile/predictions.parquet"))
spans = {
    video: tuple(Span(time_s, time_s + 0.25) for time_s in frames["time_s"][frames["label"] == 1])
    for video, frames in table.groupby("video_id")
}
truth = SegmentTruth(spans, dict.fromkeys(spans, 3.0), min_duration_s=0.0, merge_gap_s=0.0)
evaluation = evaluate({name: table for name in MODEL_NAMES}, truth, EvaluateParams(**PARAMS["evaluate"]))
out = leave("evaluate", {"compiled_f1": evaluation.row("compiled").f1.value}, 4e-4)
write_json(out / "evaluation.json", evaluation.to_json())
(out / "pictures").mkdir(exist_ok=True)
(out / "pictures" / "curve.svg").write_text("<svg/>")
"""
_STAGES = {
    "evaluate": {
        "desc": "Measure",
        "cmd": "python scripts/evaluate.py",
        "deps": ["build/compile/predictions.parquet", "scripts/evaluate.py"],
        "params": ["evaluate"],
        "outs": [
            "build/evaluate/evaluation.json",
            "build/evaluate/pictures",
            "build/evaluate/energy.json",
        ],
        "metrics": ["build/evaluate/metrics.json"],
    },
    "compile": {
        "desc": "Make a model",
        "cmd": "python scripts/compile.py",
        "deps": ["build/prepare/rows.json", "scripts/compile.py"],
        "params": ["model"],
        "outs": [
            "build/compile/model",
            "build/compile/predictions.parquet",
            "build/compile/engines.json",
            "build/compile/energy.json",
        ],
        "metrics": ["build/compile/metrics.json"],
        "plots": [{"build/compile/history.jsonl": {"x": "step", "y": "loss"}}],
    },
    "prepare": {
        "desc": "Draw",
        "cmd": "python scripts/prepare.py",
        "deps": ["data", "scripts/prepare.py"],
        "params": ["prepare.num_videos"],
        "outs": ["build/prepare/rows.json", "build/prepare/energy.json"],
        "metrics": ["build/prepare/metrics.json"],
    },
}
_PARAMS = """\
# The only place for a hyper-parameter.
prepare:
  num_videos: 8   # each of 3 s
model: {quality: 0.9, seed: 0, sleep_s: 0, fail: false}
evaluate:
  num_bootstrap: 200
gate:
  min_f1: 0.5
"""


@dataclass(frozen=True)
class TinyRepository:
    """A repository of three stages with its own MLflow store."""

    settings: Settings

    @property
    def root(self) -> Path:
        return self.settings.root

    @property
    def flow_arguments(self) -> dict[str, str]:
        return {"root": str(self.root), "tracking_uri": self.settings.tracking_uri}

    def stages_run(self) -> list[str]:
        """Return the stages whose script ran to its end, in order, since the repository was made."""
        log = self.root / "ran.log"
        return log.read_text().split() if log.is_file() else []

    def set(self, section: str, **values: object) -> None:
        """Edit params.yaml."""
        path = self.root / "params.yaml"
        content = yaml.safe_load(path.read_text())
        content[section] |= values
        write_text(path, yaml.safe_dump(content))


def make_repository(root: Path) -> None:
    """Write scripts, params, data and dvc.yaml into `root` and start a DVC repository there."""
    for name, text in {"common": _COMMON, "prepare": _PREPARE, "compile": _COMPILE, "evaluate": _EVALUATE}.items():
        write_text(root / "scripts" / f"{name}.py", text.lstrip())
    write_text(root / "params.yaml", _PARAMS)
    write_text(root / "data" / "clip.txt", "elephants\n")
    write_text(root / "dvc.yaml", yaml.safe_dump({"stages": _STAGES}, sort_keys=False))
    subprocess.run([sys.executable, "-m", "dvc", "init", "--no-scm", "-q"], cwd=root, check=True)
