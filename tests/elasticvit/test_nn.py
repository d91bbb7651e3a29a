"""Networks and supernets: costs against torch's counter, extraction against the supernet, files that survive."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from elasticvit import Arch, load_supernet, macs, params
from elasticvit.errors import SpaceError, SupernetFileError
from elasticvit.nn.files import Card, read_card, save_supernet
from elasticvit.nn.net import Net, randomise_norms
from elasticvit.nn.supernet import SuperNet
from elasticvit.space import PRESETS, Space, small


def _archs(space: Space, n: int, seed: int = 0) -> list[Arch]:
    return [space.decode(code) for code in space.sample(np.random.default_rng(seed), n)]


def _supernet(space: Space) -> SuperNet:
    torch.manual_seed(0)
    supernet = SuperNet(space)
    randomise_norms(supernet.net, torch.Generator().manual_seed(1))
    return supernet.eval()


@pytest.mark.slow
@pytest.mark.parametrize("name", PRESETS)
def test_macs_and_params_equal_torch(name: str) -> None:
    space = PRESETS[name]()
    for arch in [space.smallest(), space.largest(), *_archs(space, 98)]:
        # Numbers do not matter for counting, so memory is taken as it comes.
        with torch.device("meta"):
            net = Net(arch).eval()
        net = net.to_empty(device="cpu")
        with torch.inference_mode(), FlopCounterMode(display=False) as counter:
            net(torch.zeros(1, 3, arch.resolution, arch.resolution))
        assert counter.get_total_flops() == 2 * macs(arch)
        assert sum(p.numel() for p in net.parameters()) == params(arch)


@pytest.mark.slow
@pytest.mark.parametrize("name", PRESETS)
def test_extraction_is_bit_equal(name: str) -> None:
    space = PRESETS[name]()
    supernet = _supernet(space)
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        for arch in _archs(space, 50):
            net = supernet.extract(arch)
            assert torch.equal(supernet(images, arch), net(images))


def test_extracted_networks_share_nothing() -> None:
    supernet = _supernet(small())
    arch = small().smallest()
    before = {name: t.clone() for name, t in supernet.state_dict().items()}
    net = supernet.extract(arch)
    assert not net.training
    with torch.no_grad():
        for tensor in net.state_dict().values():
            tensor.add_(1)
    assert all(torch.equal(before[name], t) for name, t in supernet.state_dict().items())


def test_gradients_and_statistics_reach_only_the_cut() -> None:
    space = small()
    supernet = _supernet(space).train()
    arch = space.smallest()
    means = {n: b.clone() for n, b in supernet.net.named_buffers() if n.endswith("running_mean")}
    supernet(torch.randn(4, 3, 32, 32), arch).square().sum().backward()
    kernel = supernet.net.get_parameter("conv.0.0.depthwise.conv.weight").grad
    assert kernel is not None and kernel[:, :, 1:4, 1:4].abs().sum() > 0
    assert kernel[:, :, 0].abs().sum() == 0  # the ring around a 3×3 kernel stays untouched
    qkv = supernet.net.get_parameter("vit.0.attention.0.qkv.weight").grad
    assert qkv is not None
    used, stride = 32, space.vit[0].widths[-1]
    rows = qkv.abs().sum(1) > 0
    expected = torch.zeros_like(rows)
    for start, length in ((0, used), (stride, used), (2 * stride, 2 * used)):
        expected[start : start + length] = True
    assert torch.equal(rows, expected)
    mean = dict(supernet.net.named_buffers())["first_conv.bn.running_mean"]
    assert not torch.equal(mean[:8], means["first_conv.bn.running_mean"][:8])
    assert torch.equal(mean[8:], means["first_conv.bn.running_mean"][8:])


def test_an_arch_outside_the_space_is_refused_by_name() -> None:
    supernet = SuperNet(small())
    arch = PRESETS["paper"]().smallest()
    with pytest.raises(SpaceError, match=r"resolution = 128 is not in space 'small'"):
        supernet.extract(arch)


def test_a_space_whose_supernet_would_lack_weights_is_refused() -> None:
    space = small()
    flat = replace(space, stem=replace(space.stem, widths=(16, 24)))  # as wide as the first conv stage
    with pytest.raises(SpaceError, match="grow from stage to stage"):
        SuperNet(flat)


def test_extract_takes_the_head_of_the_supernet() -> None:
    supernet = SuperNet(small(7))
    lists = small().smallest().to_moonlit()
    net = supernet.extract(Arch.from_moonlit(lists))
    assert net(torch.zeros(1, 3, 32, 32)).shape == (1, 7)
    assert macs(net.arch) == macs(small(7).smallest())


def test_image_norm_is_group_norm_over_the_whole_image() -> None:
    from elasticvit.nn.layers import ImageNorm

    norm, x = ImageNorm(8), torch.randn(3, 9, 8)
    expected = torch.nn.functional.group_norm(x.transpose(1, 2), 1).transpose(1, 2)
    assert torch.allclose(norm(x), expected, atol=1e-6)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("supernet") / "tiny.safetensors"
    supernet = _supernet(small())
    save_supernet(path, supernet, Card("tiny", tuple("0123456789"), "digits", provenance={"seed": 0}))
    return path


def test_files_round_trip(saved: Path) -> None:
    loaded = load_supernet(saved)
    original = _supernet(small())
    assert loaded.space == small() and loaded.card.provenance == {"seed": 0}
    assert all(torch.equal(t, original.state_dict()[n]) for n, t in loaded.state_dict().items())
    assert read_card(saved)[1].class_names == tuple("0123456789")


@pytest.mark.parametrize("keep", [0, 7, 100, 5000])
def test_truncated_files_are_refused(saved: Path, tmp_path: Path, keep: int) -> None:
    part = tmp_path / "part.safetensors"
    part.write_bytes(saved.read_bytes()[:keep])
    with pytest.raises(SupernetFileError, match="not a whole safetensors file"):
        load_supernet(part)


def test_foreign_and_missing_files_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    with pytest.raises(SupernetFileError, match="no supernet file"):
        load_supernet(tmp_path / "none")
    save_file({"a": torch.zeros(1)}, tmp_path / "foreign")
    with pytest.raises(SupernetFileError, match="no supernet file of format"):
        load_supernet(tmp_path / "foreign")


def test_nan_is_not_saved_and_nothing_is_left(tmp_path: Path) -> None:
    supernet = SuperNet(small())
    with torch.no_grad():
        supernet.net.head.classify.bias[3] = float("nan")
    with pytest.raises(SupernetFileError, match=r"head\.classify\.bias holds NaN"):
        save_supernet(tmp_path / "x", supernet, Card("x", tuple("0123456789"), "digits"))
    assert list(tmp_path.iterdir()) == []
