"""Architectures and spaces as values: texts, codes and the published figures."""

import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elasticvit import Arch, Space, macs, paper_mflops, params
from elasticvit.archs.arch import ConvBlock, ConvStage, VitLayer, VitStage
from elasticvit.archs.published import PUBLISHED, published
from elasticvit.archs.space import PRESETS, paper, small
from elasticvit.costs.blocks import blocks
from elasticvit.costs.flops import block_macs
from elasticvit.costs.ops import trace
from elasticvit.errors import ArchError, SpaceError

# Measured once on the official network: its own formula, FlopCounterMode/2, and trainable numbers of the sub-network.
OFFICIAL = {
    "T0": (37.3650, 38.2862, 5_636_555),
    "T1": (62.9151, 64.8991, 8_905_832),
    "T2": (119.9796, 120.5482, 9_300_065),
    "min2": (159.9243, 161.6729, 8_447_198),
    "S1": (217.6419, 221.5491, 10_836_592),
    "min3": (288.8094, 290.3100, 9_637_206),
    "S2": (318.5281, 320.2524, 10_231_654),
    "M": (415.5808, 417.4188, 12_016_968),
    "L1": (517.1076, 522.8790, 12_764_996),
    "L2": (704.1106, 713.1291, 14_901_060),
    "L3": (815.3993, 824.5897, 15_344_982),
}

presets = st.sampled_from(sorted(PRESETS))
seeds = st.integers(0, 2**32 - 1)


def _sample(preset: str, seed: int) -> tuple[Space, Arch]:
    space = PRESETS[preset]()
    return space, space.decode(space.sample(np.random.default_rng(seed), 1)[0])


@pytest.mark.parametrize("name", OFFICIAL)
def test_published_archs_cost_what_the_official_network_costs(name: str) -> None:
    formula, exact, numbers = OFFICIAL[name]
    arch = published(name)
    assert round(paper_mflops(arch), 4) == formula
    assert round(macs(arch) / 1e6, 4) == exact
    assert params(arch) == numbers


def test_ends_of_the_paper_space() -> None:
    space = paper()
    assert space.smallest() == PUBLISHED["T0"] == PUBLISHED["min1"]
    assert round(paper_mflops(space.largest()), 4) == 3191.4588
    assert params(space.largest()) == 37_567_310
    assert f"{space.count():.4e}" == "2.1672e+16"


def test_largest_of_the_small_space_is_below_its_limit() -> None:
    assert params(small(200).largest()) < 5_900_000


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_archs_are_members_with_distinct_ids(name: str) -> None:
    assert paper().contains(PUBLISHED[name])
    same = {other for other, arch in PUBLISHED.items() if arch.id == PUBLISHED[name].id}
    assert same <= {"T0", "min1"} or same == {name}


@pytest.mark.medium
@settings(max_examples=60, deadline=None)
@given(presets, seeds)
def test_texts_and_codes_round_trip(preset: str, seed: int) -> None:
    space, arch = _sample(preset, seed)
    assert Arch.from_json(arch.to_json()) == arch
    assert Arch.from_json(json.loads(arch.to_json())) == arch
    assert Arch.from_moonlit(arch.to_moonlit(), arch.hidden, arch.classes) == arch
    assert space.decode(space.encode(arch)) == arch
    assert sum(op.macs for op in trace(arch)) == sum(block_macs(block) for block in blocks(arch)) == macs(arch)


@pytest.mark.medium
@settings(max_examples=30, deadline=None)
@given(presets, seeds)
def test_samples_mutations_and_crosses_stay_members(preset: str, seed: int) -> None:
    space, rng = PRESETS[preset](), np.random.default_rng(seed)
    codes = space.sample(rng, 200)
    children = space.mutate(codes, rng, 0.4)
    for batch in (codes, children, space.cross(codes, children, rng)):
        assert space.valid(batch).all()
    assert space.contains(space.decode(children[0]))


def test_ids_are_stable() -> None:
    assert published("S1").id == "42e8a002ae35"


def test_sampling_follows_the_authors_rule() -> None:
    """Widths: each uniform over those that do not decrease; everything else uniform."""
    space = small()
    codes = space.sample(np.random.default_rng(0), 60_000)
    for at, (name, choices) in enumerate(space.dimensions):
        if not name.endswith("width"):
            shares = np.bincount(codes[:, at], minlength=len(choices)) / len(codes)
            assert np.allclose(shares, 1 / len(choices), atol=0.01), name
    wide = codes[codes[:, 1] == 1]  # a stem of 16 leaves 16 and 24 to the next stage
    assert np.allclose(np.bincount(wide[:, 5], minlength=3) / len(wide), [0, 0.5, 0.5], atol=0.01)


def test_decreasing_widths_are_no_members() -> None:
    space = small()
    code = (space.sizes - 1).astype(np.int8)
    code[5] = 0  # the first conv stage narrower than the stem
    assert not space.valid(code[None])[0]
    with pytest.raises(SpaceError, match="widths decrease"):
        space.encode(space.decode(code))


def test_layerwise_archs_are_archs_but_not_members() -> None:
    arch = published("S1")
    mixed = ConvStage(24, (ConvBlock(3, 3), ConvBlock(5, 4)))
    layerwise = Arch(arch.resolution, arch.stem, (mixed, arch.conv[1]), arch.vit)
    assert Arch.from_moonlit(layerwise.to_moonlit()) == layerwise
    with pytest.raises(SpaceError, match="mixes kernels"):
        paper().encode(layerwise)


def test_adopting_a_head() -> None:
    arch = small(200).smallest()
    with pytest.raises(SpaceError, match=r"200 classes.*Space\.adopt"):
        small(10).encode(arch)
    assert small(10).adopt(arch) == small(10).smallest()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"resolution": 100}, "resolution must be"),
        ({"resolution": 128.0}, "whole number"),
        ({"resolution": True}, "whole number"),
        ({"classes": 0}, "classes must be"),
        ({"colour": 1}, "unknown field 'colour'"),
        ({"stem": {"width": 16, "blocks": []}}, "depth must be"),
        ({"stem": {"width": 16, "blocks": [{"kernel": 4, "expand": 1}]}}, "kernel must be 3 or 5"),
        ({"stem": {"width": 16, "blocks": [{"kernel": 3, "expand": 2}]}}, "expand 1"),
        ({"vit": []}, "not an architecture"),
        ({"conv": None}, "not an architecture"),
    ],
)
def test_what_is_no_architecture_is_refused(change: dict[str, object], message: str) -> None:
    data = json.loads(published("T1").to_json()) | change
    with pytest.raises(ArchError, match=message):
        Arch.from_json(data)


@pytest.mark.parametrize("text", ["", "[]", "{", "{}", "null", "3", '"S1"'])
def test_texts_that_are_no_architecture_are_refused(text: str) -> None:
    with pytest.raises(ArchError):
        Arch.from_json(text)


def test_bad_ten_lists_are_refused() -> None:
    good = published("T1").to_moonlit()
    for at, value in [(0, "x"), (1, [1, 2]), (2, [9] * 7), (7, [2] * 4), (9, [])]:
        with pytest.raises(ArchError):
            Arch.from_moonlit([*good[:at], value, *good[at + 1 :]])
    with pytest.raises(ArchError, match="no published architecture 'X9'"):
        published("X9")


def test_values_check_themselves() -> None:
    with pytest.raises(ArchError):
        VitStage(40, (VitLayer(2, 2),))
    with pytest.raises(ArchError):
        VitLayer(0, 2)


def test_spaces_check_themselves() -> None:
    data = json.loads(small().to_json())
    assert Space.from_json(data) == small()
    with pytest.raises(SpaceError, match="ascending"):
        Space.from_json(data | {"resolutions": [64, 32]})
    with pytest.raises(SpaceError, match="not a space"):
        Space.from_json(data | {"colour": 1})


def _widths(n: int) -> list[int]:
    return list(range(4, 4 * n + 1, 4))


def test_a_dimension_has_at_most_as_many_choices_as_a_code_can_count() -> None:
    """An index above 127 would wrap around to a negative one, and so to another network."""
    data = json.loads(small().to_json())
    vit = [stage | {"widths": [512]} for stage in data["vit"]]
    widest = Space.from_json(data | {"stem": data["stem"] | {"widths": _widths(128)}, "conv": [
        stage | {"widths": [512]} for stage in data["conv"]
    ], "vit": vit})  # fmt: skip
    assert widest.largest().stem.width == 512
    assert widest.decode(widest.encode(widest.largest())) == widest.largest()
    assert widest.sample(np.random.default_rng(0), 2000)[:, 1].max() == 127
    with pytest.raises(SpaceError, match=r"stem\.width has 129 choices; a dimension may have at most 128"):
        Space.from_json(data | {"stem": data["stem"] | {"widths": _widths(129)}})


@pytest.mark.parametrize(
    "change",
    [
        {"resolutions": list(range(16, 1025))},
        {"resolutions": list(range(-200, 65))},
        {"resolutions": [32, 10**30]},
        {"resolutions": [32, 40, 64]},
        {"resolutions": [32, 48.0, 64]},
        {"resolutions": "abc"},
        {"resolutions": 64},
        {"stem": {"widths": [8, 16], "depths": [1, 2], "kernels": [3, 4, 5], "expands": [1]}},
        {"stem": {"widths": [8, 10, 16], "depths": [1, 2], "kernels": [3, 5], "expands": [1]}},
        {"stem": {"widths": _widths(400), "depths": [1], "kernels": [3], "expands": [1]}},
        {"hidden": 10**30},
        {"conv": json.loads(small().to_json())["conv"] * 2},
        {"vit": [*json.loads(small().to_json())["vit"], {}]},
    ],
)
def test_what_is_no_space_is_refused(change: dict[str, object]) -> None:
    """Also where only a choice in the middle is one that no network can have."""
    with pytest.raises(SpaceError):
        Space.from_json(json.loads(small().to_json()) | change)


@pytest.mark.parametrize(
    "row", [[0] * 28, [0] * 30, [0] * 28 + [-1], [128] + [0] * 28, [10**30] + [0] * 28, [0.5] + [0] * 28, ["0"] * 29]
)
def test_codes_from_outside_are_checked(row: list[int]) -> None:
    space = small()
    good = space.sample(np.random.default_rng(0), 3).tolist()
    assert space.checked(good).tolist() == good and space.checked(good).dtype == np.int8
    assert space.checked([]).shape == (0, 29)
    with pytest.raises(SpaceError):
        space.checked([*good[:2], row])


def test_an_index_that_is_out_of_range_is_not_another_choice() -> None:
    for index in (-1, 3, 127):
        with pytest.raises(SpaceError, match="resolution has 3 choices"):
            small().decode(np.array([index] + [0] * 28, np.int8))


@pytest.mark.medium
def test_values_need_no_torch() -> None:
    modules = ["archs.arch", "archs.space", "archs.published", "costs.blocks", "costs.ops", "costs.flops", "errors"]
    code = "import sys\n" + "\n".join(f"import elasticvit.{m}" for m in modules) + "\nassert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
