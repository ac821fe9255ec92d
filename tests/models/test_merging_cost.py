"""What merging saves: the formula against torch's own counter, the comparison against a clock of ours."""

from itertools import count

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from models.encoder import EncoderSpec
from models.errors import ParamsError, ShapeError
from models.merging_cost import TowerShape, compare_times, flops_saved, tower_flops, tower_shape
from models.merging_tower import MergingTower
from models.token_merging import NO_MERGING, MergeSchedule, merge_schedule

VIT_B_16 = TowerShape(
    num_tokens=197, num_blocks=12, width=768, head_width=64, mlp_width=3072, patch_numbers=768, embed_dim=0
)
SPEC = EncoderSpec(
    name="tiny",
    pretrained=None,
    model_config={
        "embed_dim": 24,
        "vision_cfg": {"image_size": 32, "layers": 3, "width": 32, "head_width": 16, "patch_size": 8},
    },
    image_size=32,
    mean=(0.48, 0.46, 0.41),
    std=(0.27, 0.26, 0.28),
)


@pytest.mark.parametrize("schedule", [NO_MERGING, MergeSchedule((3, 0, 2)), MergeSchedule((8, 4, 2))])
def test_formula_is_what_torch_counts(schedule: MergeSchedule) -> None:
    tower = MergingTower(SPEC, 0, schedule)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        tower(torch.zeros(2, 3, 32, 32))
    assert 2 * tower_flops(tower_shape(tower), schedule) == counter.get_total_flops()


def test_known_towers_cost_what_papers_say() -> None:
    assert tower_flops(VIT_B_16) / 2 == pytest.approx(
        17.6e9, rel=0.02
    )  # of multiplications: Touvron et al., DeiT, 2021
    constant, decreasing = (merge_schedule(kind, 8, 12, 197) for kind in ("constant", "decreasing"))
    assert 0.2 < flops_saved(VIT_B_16, constant) < flops_saved(VIT_B_16, decreasing) < 0.4
    assert flops_saved(VIT_B_16, NO_MERGING) == 0
    with pytest.raises(ParamsError, match="tower of 12"):
        flops_saved(VIT_B_16, MergeSchedule((1,)))


def test_times_are_taken_in_turn_after_a_warm_up() -> None:
    ticks, calls = count(), []

    def slow(x: torch.Tensor) -> torch.Tensor:
        calls.append("slow")
        next(ticks), next(ticks)
        return x

    def fast(x: torch.Tensor) -> torch.Tensor:
        calls.append("fast")
        return x

    found = compare_times(slow, fast, torch.zeros(1), 3, clock=lambda: float(next(ticks)))
    assert (found.reference_s, found.merging_s) == (3, 1)
    assert (found.ratio_low, found.ratio, found.ratio_high, found.num_rounds) == (3, 3, 3, 3)
    assert calls == ["slow", "fast"] * 5
    with pytest.raises(ShapeError, match="0 rounds"):
        compare_times(slow, fast, torch.zeros(1), 0)
