"""Peers are given a fair start: nothing of them can be folded away, and what was lost is noticed."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from benchmarks import conversion
from benchmarks.attention_blocks import BLOCKS, KINDS, SIDE, V_SCALE, AttentionBlock, attention_block
from benchmarks.conversion import FACTS, converted
from benchmarks.peer_models import NAIVE, randomise, timm_model, torch_macs, zero_scales
from benchmarks.peer_precisions import candidates
from benchmarks.tiles import fully_connected
from elasticvit.errors import ExportError
from elasticvit.export.tflite.reader import tflite_macs


class _DeadBranch(nn.Module):
    """What a norm lets through is nothing, as a network freshly built may have it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1)
        nn.init.zeros_(self.norm.weight)
        nn.init.zeros_(self.last.bias)  # type: ignore[arg-type] # has a bias
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.norm(self.first(x)))  # type: ignore[no-any-return]


def test_no_norm_keeps_a_scale_of_zero_and_nothing_is_all_zeros() -> None:
    model = _DeadBranch()
    image = torch.randn(1, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    assert zero_scales(model) == 1 and not model(image).any()
    kept = model.first.weight.clone()
    randomise(model)
    assert zero_scales(model) == 0 and all(parameter.any() for parameter in model.parameters())
    assert model.norm.running_var is not None and model.norm.running_var.min() >= 0.5 <= model.norm.weight.min()
    assert torch.equal(model.first.weight, kept)


def test_the_same_seed_gives_the_same_network() -> None:
    first, second, other = _DeadBranch(), _DeadBranch(), _DeadBranch()
    for model, seed in ((first, 0), (second, 0), (other, 1)):
        randomise(model, seed)
    assert torch.equal(first.norm.weight, second.norm.weight)
    assert not torch.equal(first.norm.weight, other.norm.weight)


def test_macs_in_torch_are_those_of_the_layers() -> None:
    assert torch_macs(_DeadBranch(), torch.zeros(1, 3, 5, 5)) == 9 * (4 * 27 + 2 * 4)


@pytest.mark.parametrize("width", [64, 112])
def test_both_ways_of_mixing_heads_are_one_function(width: int) -> None:
    torch.manual_seed(0)
    linear, product = (AttentionBlock(width, KINDS[kind]).eval() for kind in ("NASViT", "NASViT matmul"))
    product.load_state_dict(linear.state_dict())
    x = torch.randn(1, SIDE, SIDE, width)
    with torch.inference_mode():
        torch.testing.assert_close(linear(x), product(x))


def test_blocks_keep_the_shape_and_have_the_macs_of_their_parts() -> None:
    n, width = SIDE**2, 96
    values = V_SCALE * width
    common = n * width * (2 * width + 2 * values) + 9 * n * values + n * n * (width + values)
    counted = {}
    for kind in KINDS:
        block, x = attention_block(f"attention {kind} {width}")
        with torch.inference_mode():
            assert block(x).shape == x.shape
        counted[kind] = torch_macs(block, x)
    mixing = 2 * (width // 8) ** 2 * n * n
    assert counted == {"ours 8": common, "ours 16": common} | dict.fromkeys(
        ("NASViT", "NASViT matmul"), common + mixing
    )


def test_peers_that_were_not_given_are_refused_by_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("ELASTICVIT_PEERS", raising=False)
    monkeypatch.delenv("ELASTICVIT_OFFICIAL", raising=False)
    for name, variable in (("LeViT-128S", "ELASTICVIT_PEERS"), (NAIVE, "ELASTICVIT_OFFICIAL")):
        with pytest.raises(FileNotFoundError, match=variable):
            converted(name)
    monkeypatch.setenv("ELASTICVIT_PEERS", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="timm and torchvision"):
        timm_model("LeViT-128S")


def test_a_kept_file_that_lost_macs_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ELASTICVIT_CACHE", str(tmp_path))
    name = next(iter(BLOCKS))
    place = conversion.place(name)
    place.mkdir(parents=True)
    (place / "float32.tflite").write_bytes(fully_connected(3, 8, 4))
    facts = {"macs": 96, "zero_scales": 0, "difference": 0.0, "seconds": 1.0}
    (place / FACTS).write_text(json.dumps(facts))
    assert converted(name).macs == 96
    (place / FACTS).write_text(json.dumps({**facts, "macs": 97}))
    with pytest.raises(ExportError, match="lost a part"):
        converted(name)


def test_every_precision_is_of_the_whole_network() -> None:
    exact = fully_connected(4, 64, 64)
    models = candidates(exact)
    assert set(models) == {"float16", "dynamic_int8 FC", "dynamic_int8 FC+CONV", "int8"}
    assert {name: tflite_macs(data) for name, data in models.items()} == dict.fromkeys(models, 4 * 64 * 64)
    assert all(len(data) < len(exact) for data in models.values())


@pytest.mark.slow
def test_a_block_is_converted_once_and_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ELASTICVIT_CACHE", str(tmp_path))
    name = "attention ours 16 64"
    first = converted(name)
    assert first.macs == torch_macs(*attention_block(name)) == tflite_macs(first.files["float32"])
    written_ns = (conversion.place(name) / FACTS).stat().st_mtime_ns
    assert converted(name).files == first.files
    assert (conversion.place(name) / FACTS).stat().st_mtime_ns == written_ns
