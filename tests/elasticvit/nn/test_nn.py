"""Networks and supernets: costs against torch's counter, extraction against the supernet, files that survive."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import backward
from torch.utils.flop_counter import FlopCounterMode

from elasticvit import Arch, load_supernet, macs, params
from elasticvit.archs.space import PRESETS, Space, small
from elasticvit.errors import SpaceError, SupernetFileError
from elasticvit.nn import swish
from elasticvit.nn.depthwise import Depthwise
from elasticvit.nn.layers import relative_index
from elasticvit.nn.net import Net, randomise_norms
from elasticvit.nn.supernet import SuperNet, cut
from elasticvit.nn.supernet_file import Card, read_card, save_supernet
from elasticvit.training.loop import bit_exact


def _archs(space: Space, n: int, seed: int = 0) -> list[Arch]:
    return [space.decode(code) for code in space.sample(np.random.default_rng(seed), n)]


def _supernet(space: Space) -> SuperNet:
    torch.manual_seed(0)
    supernet = SuperNet(space)
    randomise_norms(supernet.net, torch.Generator().manual_seed(1))
    return supernet.eval()


@pytest.mark.slow
@pytest.mark.parametrize("drawn", [18, pytest.param(98, marks=pytest.mark.long)])
@pytest.mark.parametrize("name", PRESETS)
def test_macs_and_params_equal_torch(name: str, drawn: int) -> None:
    space = PRESETS[name]()
    for arch in [space.smallest(), space.largest(), *_archs(space, drawn)]:
        # Numbers do not matter for counting, so memory is taken as it comes.
        with torch.device("meta"):
            net = Net(arch).eval()
        net = net.to_empty(device="cpu")
        with torch.inference_mode(), FlopCounterMode(display=False) as counter:
            net(torch.zeros(1, 3, arch.resolution, arch.resolution))
        assert counter.get_total_flops() == 2 * macs(arch)
        assert sum(p.numel() for p in net.parameters()) == params(arch)


@pytest.mark.slow
@pytest.mark.parametrize("drawn", [10, pytest.param(50, marks=pytest.mark.long)])
@pytest.mark.parametrize("name", PRESETS)
def test_extraction_is_bit_equal(name: str, drawn: int) -> None:
    space = PRESETS[name]()
    supernet = _supernet(space)
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        for arch in _archs(space, drawn):
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


@pytest.mark.medium
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


def _gradients(module: torch.nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


def _placed(supernet: SuperNet, small_gradients: dict[str, Tensor]) -> dict[str, Tensor]:
    """Gradients of a plain network where the supernet keeps its weights, zeros around them."""
    placed = {}
    for name, gradient in small_gradients.items():
        big = torch.zeros_like(supernet.net.get_parameter(name))
        if name.endswith("qkv.weight") and big.shape != gradient.shape:
            width, stride = gradient.shape[1], big.shape[1]
            for i, part in enumerate(torch.split(gradient, [width, width, len(gradient) - 2 * width])):
                big[i * stride : i * stride + len(part), :width] = part
        else:
            cut(big, gradient.shape).copy_(gradient)
        placed[name] = big
    return placed


def _step(net: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    logits = net(images)
    backward(F.cross_entropy(logits, torch.arange(len(images)) % logits.shape[1]))
    return logits.detach()


@pytest.mark.medium
def test_gradients_of_a_step_are_those_of_plain_networks_and_add_up() -> None:
    space, images = small(), torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    supernet = _supernet(space).train()
    expected = {name: torch.zeros_like(p) for name, p in supernet.net.named_parameters()}
    archs = [space.smallest(), space.largest(), *_archs(space, 2, seed=5), space.smallest()]
    for arch in archs:
        net = supernet.extract(arch).train()
        logits = _step(net, images)
        for name, gradient in _placed(supernet, _gradients(net)).items():
            expected[name] += gradient
        # In train mode too the forward pass and the statistics it leaves are those of the plain network.
        assert torch.equal(_step(lambda x, arch=arch: supernet(x, arch), images), logits)  # type: ignore[misc]
        for name, statistic in net.named_buffers():
            assert torch.equal(cut(supernet.net.get_buffer(name), statistic.shape), statistic)
    got = _gradients(supernet.net)
    assert got.keys() == expected.keys()
    for name, gradient in got.items():
        assert torch.allclose(gradient, expected[name], rtol=1e-6, atol=1e-6 * float(expected[name].abs().max())), name


@pytest.mark.medium
def test_a_step_works_deterministically_under_autocast_and_without_gradients() -> None:
    space, images = small(), torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    supernet, arch = _supernet(space).train(), _archs(space, 1, seed=2)[0]
    gradients = []
    for _ in range(2):
        supernet.zero_grad()
        with bit_exact(torch.device("cpu")):
            _step(lambda x: supernet(x, arch), images)
        gradients.append(_gradients(supernet))
    assert all(torch.equal(gradients[0][name], gradients[1][name]) for name in gradients[0])
    supernet.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        rough = _step(lambda x: supernet(x, arch), images)
    assert all(g.dtype == torch.float32 and g.isfinite().all() for g in _gradients(supernet).values())
    with torch.no_grad():
        exact = supernet(images, arch)
        assert not exact.requires_grad
    with torch.inference_mode():
        assert torch.equal(supernet(images, arch), exact)
    assert (rough - exact).norm() < 0.1 * exact.norm()
    # What inference mode built first must serve training afterwards.
    assert _step(lambda x: supernet(x, arch), images).isfinite().all()


@pytest.mark.long
@pytest.mark.medium
def test_exporters_see_plain_operators_and_leave_nothing_behind() -> None:
    arch = small().smallest()
    net, images = Net(arch).eval(), torch.randn(1, 3, arch.resolution, arch.resolution)
    relative_index.cache_clear()
    exported = torch.export.export(net, (images,))
    assert torch.allclose(exported.module()(images), net(images), atol=1e-5)
    assert all("autograd" not in str(node.target) for node in exported.graph.nodes)


@pytest.mark.medium
def test_a_failed_pass_leaves_nothing_behind() -> None:
    space, images = small(), torch.randn(2, 3, 32, 32)
    supernet, (arch, other) = _supernet(space), _archs(space, 2, seed=4)
    before = {name: t.clone() for name, t in supernet.state_dict().items()}
    expected = supernet(images, other)
    with pytest.raises(RuntimeError):
        supernet(torch.randn(2, 4, 32, 32), arch)
    assert torch.equal(supernet(images, other), expected)
    assert supernet(images, arch).isfinite().all()
    assert all(torch.equal(t, before[name]) for name, t in supernet.state_dict().items())
    assert all(isinstance(p, torch.nn.Parameter) and not p.is_meta for p in supernet.parameters())


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("stride", [1, 2])
def test_weight_gradients_of_depthwise_convolutions(kernel: int, stride: int) -> None:
    generator = torch.Generator().manual_seed(kernel + stride)
    for side in range(1, 15):
        layer = Depthwise(5, kernel, stride)
        x = torch.randn(3, 5, side, side, generator=generator)
        y = layer(x.to(memory_format=torch.channels_last).requires_grad_())
        grad = torch.randn(y.shape, generator=generator)
        backward([y], [grad])
        weight = layer.weight.detach().double().requires_grad_()
        backward([F.conv2d(x.double(), weight, None, stride, kernel // 2, groups=5)], [grad.double()])
        exact = weight.grad
        assert layer.weight.grad is not None and exact is not None
        # In parts of the whole: of sums of hundreds of products, what cancels to nearly 0 keeps their rounding.
        assert (layer.weight.grad.double() - exact).norm() <= 1e-6 * exact.norm(), side


@pytest.mark.parametrize("momentum", [0.1, None])
def test_norm_and_hard_swish_in_one_are_the_two_apart(momentum: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    norms = [torch.nn.BatchNorm2d(7, momentum=momentum) for _ in range(2)]
    results: list[list[Tensor]] = []
    for norm, limit in zip(norms, (1, 10**9), strict=True):
        monkeypatch.setattr(swish, "LARGE", limit)
        with torch.no_grad():
            norm.weight.copy_(torch.linspace(-1, 2, 7))
            norm.weight[3] = 0
        generator.manual_seed(1)
        for _ in range(2):
            x = (3 * torch.randn(4, 7, 6, 6, generator=generator) + 1).requires_grad_()
            y = swish.norm_hardswish(norm, x)
            backward([y], [torch.randn(y.shape, generator=generator)])
        gradients = (x.grad, norm.weight.grad, norm.bias.grad)
        results.append([y, *(g for g in gradients if g is not None), *norm.buffers()])
    assert "NormHardswish" in type(results[0][0].grad_fn).__name__
    assert torch.equal(results[0][0], results[1][0])
    assert len(results[0]) == 7
    assert all(torch.allclose(one, two, rtol=1e-6, atol=1e-6) for one, two in zip(*results, strict=True))


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


@pytest.mark.medium
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
