"""Costs of many codes at once give the same whole numbers as the walk over one architecture."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elasticvit.archs.arch import Arch
from elasticvit.archs.published import PUBLISHED
from elasticvit.archs.space import PRESETS, paper
from elasticvit.costs.cost_table import CostTable
from elasticvit.costs.flops import macs, paper_mflops

PAPER = paper()


@pytest.mark.medium
@pytest.mark.parametrize("name", PRESETS)
def test_both_costs_of_3000_networks(name: str) -> None:
    space = PRESETS[name]()
    codes = space.sample(np.random.default_rng(11), 3000)
    archs = [space.decode(code) for code in codes]
    assert CostTable.of_macs(space).total(codes).tolist() == [macs(arch) for arch in archs]
    assert (CostTable.of_paper_flops(space).total(codes) / 1e6).tolist() == [paper_mflops(arch) for arch in archs]


@pytest.mark.medium
def test_both_costs_of_every_published_network_and_of_the_ends() -> None:
    archs = [*PUBLISHED.values(), PAPER.smallest(), PAPER.largest()]
    codes = np.stack([PAPER.encode(arch) for arch in archs])
    assert CostTable.of_macs(PAPER).total(codes).tolist() == [macs(arch) for arch in archs]
    assert (CostTable.of_paper_flops(PAPER).total(codes) / 1e6).tolist() == [paper_mflops(arch) for arch in archs]


@pytest.mark.medium
@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(PRESETS)), st.integers(0, 2**32))
def test_the_formula_against_its_closed_form(name: str, seed: int) -> None:
    """The closed form of the reference, written out again from its description, without blocks."""
    space = PRESETS[name]()
    arch = space.decode(space.sample(np.random.default_rng(seed), 1)[0])
    assert round(paper_mflops(arch) * 1e6) == _closed_form(arch)


def test_l3_differs_from_the_paper() -> None:
    assert paper_mflops(PUBLISHED["L3"]) == pytest.approx(815.3993, abs=1e-4)  # 806 in the paper


def _closed_form(arch: Arch) -> int:
    r, c = arch.resolution // 2, arch.stem.width
    k = arch.stem.blocks[0].kernel
    total = 27 * c * r * r + len(arch.stem.blocks) * (c * r * r * k * k + c * c * r * r)
    for stage, squeeze in zip(arch.conv, (0, 1), strict=True):
        r //= 2
        (k, e), depth, wide = (stage.blocks[0].kernel, stage.blocks[0].expand), len(stage.blocks), stage.width
        h = e * c
        total += c * h * (2 * r) ** 2 + h * k * k * r * r + h * wide * r * r
        total += squeeze * 2 * h * (h // 4) + c * wide * r * r
        c, h = wide, e * wide
        total += (depth - 1) * (c * h * r * r + h * k * k * r * r + h * c * r * r + squeeze * 2 * h * (h // 4))
    for vit, stride in zip(arch.vit, (2, 1, 2, 2), strict=True):
        r = (r + 1) // 2 if stride == 2 else r
        before = 2 * r if stride == 2 else r
        total += 6 * c * c * before**2 + 54 * c * r * r + 6 * c * vit.width * r * r
        c, n, heads = vit.width, r * r, vit.width // 16
        v, m = vit.layers[0].v_scale, vit.layers[0].mlp_ratio
        wide = 16 * v * heads
        layer = 16 * heads * n * n + heads * n * n + wide * n * n + c * n * (32 * heads + wide) + n * wide * c
        total += len(vit.layers) * (layer + n * wide + 2 * n * c * (m * c))
    return total + 6 * c * c * r * r + 6 * c * arch.hidden + arch.hidden * arch.classes
