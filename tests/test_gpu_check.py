"""The GPU check without a GPU: its loop, its parity and its file, and that a rung which fails stops no other."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.gpu import check, rungs
from benchmarks.gpu.check import main, speedups
from benchmarks.gpu.measure import (
    Timing,
    batch_sizes,
    compare_features,
    features_of,
    measure_energy,
    measure_rates,
)
from benchmarks.gpu.nvml import kwh_per_1000, open_counter
from benchmarks.gpu.rungs import keep_two_of_four, make_frames, make_subject
from models.errors import EngineError

ON_CPU = ["--device", "cpu", "--tiny", "--quick", "--max-batch", "2", "--commit", "abc"]
NAMES = ["eager-float32", "eager-float16", "tensorrt-float16", "sparse24-float16", "eager-bfloat16"]


def run(path: Path, *arguments: str, names: list[str] = NAMES) -> dict[str, Any]:
    assert main(["--into", str(path), *ON_CPU, *arguments, "--rungs", *names]) == 0
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def test_one_file_with_every_rung_measured_or_its_reason(tmp_path: Path) -> None:
    content = run(tmp_path / "gpu.json")
    assert {"name", "figures", "hardware", "versions", "commit", "params", "reasons"} == set(content)
    figures = content["figures"]
    assert all(value is None or (isinstance(value, (int, float)) and np.isfinite(value)) for value in figures.values())
    for name in ("eager_float32", "eager_float16", "eager_bfloat16"):
        for size in (1, 2):
            assert figures[f"tiny_{name}_batch_{size}_images_per_s"] > 0
        assert figures[f"tiny_{name}_cosine_min"] > 0.99
        assert figures[f"tiny_{name}_batch_32_kwh_per_1000"] is None
    assert figures["tiny_eager_float32_max_abs_diff"] < 1e-6 < figures["tiny_eager_bfloat16_max_abs_diff"]
    assert figures["tiny_eager_bfloat16_relative_to_spread"] < 0.5
    assert set(content["reasons"]) == {"tiny tensorrt-float16", "tiny sparse24-float16"}
    assert all("NVIDIA GPU" in reason for reason in content["reasons"].values())
    assert figures["tensorrt_fp16_speedup"] is None
    assert content["params"]["seed"] == 0
    assert content["commit"] == "abc"


def test_a_rung_that_fails_later_stops_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails_at_two(subject: rungs.Subject) -> rungs.Ready:
        ready = rungs.eager(subject, torch.float32)

        def call(frames: torch.Tensor) -> torch.Tensor:
            if len(frames) == 2:
                raise RuntimeError("CUDA out of memory\nand a page of advice")
            return ready.call(frames)

        return rungs.Ready(call, ready.tower)

    def not_finite(subject: rungs.Subject) -> rungs.Ready:
        return rungs.Ready(lambda frames: torch.full((len(frames), 24), torch.nan), subject.tower)

    patched = {**rungs.RUNGS, "eager-float16": fails_at_two, "eager-bfloat16": not_finite}
    monkeypatch.setattr(check, "RUNGS", patched)
    content = run(tmp_path / "gpu.json", names=["eager-float16", "eager-bfloat16", "eager-float32"])
    assert content["reasons"] == {
        "tiny eager-float16": "at batch 2: CUDA out of memory",
        "tiny eager-bfloat16": "1536 of 1536 feature values are not finite",
    }
    figures = content["figures"]
    assert figures["tiny_eager_float16_batch_1_images_per_s"] > 0
    assert figures["tiny_eager_float16_batch_2_images_per_s"] is None
    assert figures["tiny_eager_float32_batch_2_images_per_s"] > 0


def test_pieces_of_work_make_one_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "gpu.json"
    late = run(path, "--budget-s", "0", names=["eager-float16"])
    assert "no time left" in late["reasons"]["tiny eager-float16"]
    first = run(path, names=["eager-float16"])
    assert "tiny eager-float16" not in first["reasons"]
    both = run(path, names=["eager-float32"])
    assert set(first["figures"]) < set(both["figures"])
    path.write_text(json.dumps({**both, "commit": "def"}))
    assert main(["--into", str(path), *ON_CPU]) == 1
    assert "another machine, version or commit" in capsys.readouterr().err
    path.write_text("[1]")
    assert main(["--into", str(path), *ON_CPU]) == 1
    assert "not a result of this check" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--into", str(tmp_path / "gpu.json")]) == 1
    assert capsys.readouterr().err == (
        "gpu check: torch sees no GPU on this machine; --device cpu --tiny runs without one\n"
    )
    assert not list(tmp_path.iterdir())


def test_speedups_are_of_the_same_tower_and_batch() -> None:
    figures = {
        "vit_b_32_eager_float16_batch_32_images_per_s": 100.0,
        "vit_b_32_tensorrt_float16_batch_32_images_per_s": 150.0,
        "vit_b_32_torch_tensorrt_float16_batch_32_images_per_s": 250.0,
        "vit_b_32_tensorrt_int8_batch_32_images_per_s": None,
        "vit_l_14_tensorrt_fp8_batch_32_images_per_s": 90.0,
    }
    found = speedups(figures)
    assert found["tensorrt_fp16_speedup"] == 2.5
    assert found["tensorrt_int8_speedup"] is None
    assert found["vit_l_14_tensorrt_fp8_speedup"] is None, "its eager float16 was not measured"


def test_parity_is_zero_for_the_same_and_sees_frames_mixed_up() -> None:
    subject = make_subject("tiny", "cpu", Path(), 0)
    frames = torch.from_numpy(make_frames(8, 32, 1))
    features = features_of(rungs.eager(subject, torch.float32).call, frames)
    same = compare_features(features, features)
    assert same.max_abs_diff == 0
    assert same.cosine_min == pytest.approx(1)
    mixed = compare_features(features[::-1].copy(), features)
    assert mixed.relative_to_spread > 1
    assert mixed.cosine_min > 0.5, "features of a random tower are much alike, so that a cosine alone says little"
    with pytest.raises(EngineError, match="features"):
        compare_features(features[:3], features)


def test_turns_are_taken_one_after_another() -> None:
    order: list[str] = []

    def named(name: str) -> rungs.Call:
        def call(frames: torch.Tensor) -> torch.Tensor:
            order.append(name)
            return frames

        return call

    rates = measure_rates({name: named(name) for name in "ab"}, torch.zeros(2, 1), Timing(3, 0, 0), pytest.fail)
    assert [name for at, name in enumerate(order) if not at or order[at - 1] != name] == list("ab" * 4)
    assert all(rate.images_per_s > 0 <= rate.spread for rate in rates.values())


class _Counter:
    def __init__(self, *readings: float | None) -> None:
        self.readings = list(readings)

    def read_j(self) -> float | None:
        return self.readings.pop(0)


def test_energy_is_a_figure_or_none() -> None:
    frames = torch.zeros(4, 1)
    counted: list[int] = []
    found = measure_energy(lambda x: counted.append(len(x)) or x, frames, _Counter(10.0, 46.0), 0.01)  # type: ignore
    assert found == pytest.approx(kwh_per_1000(36.0, sum(counted)))
    for readings in ((None, None), (5.0, 5.0), (5.0, None)):
        assert measure_energy(lambda x: x, frames, _Counter(*readings), 0.001) is None  # type: ignore
    assert measure_energy(lambda x: x, frames, None, 0.001) is None
    assert kwh_per_1000(3.6e6, 1000) == 1
    assert open_counter("GPU-0", library="no-such-library.so") is None


@settings(max_examples=25, deadline=None)
@given(rows=st.integers(1, 5), fours=st.integers(1, 6), seed=st.integers(0, 99))
def test_two_of_four_are_kept_and_they_are_the_larger(rows: int, fours: int, seed: int) -> None:
    weight = torch.from_numpy(np.random.default_rng(seed).normal(size=(rows, 4 * fours)).astype("f4"))
    kept = keep_two_of_four(weight)
    groups, before = kept.reshape(-1, 4), weight.reshape(-1, 4)
    assert ((groups != 0).sum(dim=1) == 2).all()
    assert (kept[kept != 0] == weight[kept != 0]).all()
    dropped = torch.where(groups == 0, before.abs(), 0).amax(dim=1)
    least = torch.where(groups != 0, before.abs(), torch.inf).amin(dim=1)
    assert (dropped <= least).all()


def test_batches_go_up_in_powers_of_two() -> None:
    assert list(batch_sizes(512)) == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512]
    assert list(batch_sizes(1)) == [1]
    assert list(batch_sizes(48)) == [1, 2, 4, 8, 16, 32]
