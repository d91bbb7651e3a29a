import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from elasticvit.costs.flops import params
from elasticvit.nn.supernet import SuperNet
from elasticvit.training.ablation.gradients import Gradient, Gradients, mean_of_pairs, similarities
from tests.elasticvit.training.tiny_training import tiny_space


@pytest.fixture(scope="module")
def supernet() -> SuperNet:
    torch.manual_seed(0)
    net = SuperNet(tiny_space())
    # Fresh networks have zeros in places; nothing here may be zero by chance.
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return net


@pytest.fixture(scope="module")
def batch() -> tuple[Tensor, Tensor]:
    return torch.randn(8, 3, 32, 32), torch.arange(8)


@pytest.mark.medium
def test_a_network_is_like_itself_and_less_like_another(supernet: SuperNet, batch: tuple[Tensor, Tensor]) -> None:
    space = supernet.space
    archs = [space.largest(), space.largest(), space.smallest()]
    cosines = similarities([Gradients(supernet, *batch).of(arch) for arch in archs])
    assert cosines[0, 1] == pytest.approx(1, abs=1e-6)
    assert np.allclose(np.diag(cosines), 1)
    assert np.allclose(cosines, cosines.T)
    assert -1 <= cosines[0, 2] < 0.999


@pytest.mark.medium
def test_what_a_network_uses_is_exactly_its_parameters(supernet: SuperNet, batch: tuple[Tensor, Tensor]) -> None:
    rng = np.random.default_rng(0)
    for arch in [supernet.space.decode(code) for code in supernet.space.sample(rng, 3)]:
        gradient = Gradients(supernet, *batch).of(arch)
        assert int(gradient.used.sum()) == params(arch)
        assert not gradient.values[~gradient.used].any()


def test_gradients_are_those_of_the_plain_network(supernet: SuperNet, batch: tuple[Tensor, Tensor]) -> None:
    arch = supernet.space.smallest()
    net = supernet.extract(arch).train()
    loss = F.cross_entropy(net(batch[0]), batch[1])
    plain = torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(net.parameters()))])
    gradient = Gradients(supernet, *batch).of(arch)
    assert torch.allclose(gradient.values.norm(), plain.norm(), rtol=1e-4)
    assert torch.allclose(gradient.values.sum(), plain.sum(), rtol=1e-3, atol=1e-4)


def test_measuring_changes_nothing(supernet: SuperNet, batch: tuple[Tensor, Tensor]) -> None:
    before = {name: tensor.clone() for name, tensor in supernet.state_dict().items()}
    supernet.eval()
    Gradients(supernet, *batch).of(supernet.space.largest())
    assert all(torch.equal(tensor, before[name]) for name, tensor in supernet.state_dict().items())
    assert not supernet.training
    assert all(parameter.grad is None for parameter in supernet.parameters())


def test_only_what_both_use_counts() -> None:
    a = Gradient(torch.tensor([3.0, 4.0, 100.0, 0.0]), torch.tensor([True, True, True, False]))
    b = Gradient(torch.tensor([4.0, 3.0, 0.0, 100.0]), torch.tensor([True, True, False, True]))
    c = Gradient(torch.tensor([0.0, 0.0, 0.0, -1.0]), torch.tensor([False, False, False, True]))
    cosines = similarities([a, b, c])
    assert cosines[0, 1] == pytest.approx(24 / 25)
    assert cosines[0, 2] == 0
    assert cosines[1, 2] == pytest.approx(-1)
    assert mean_of_pairs(cosines, [0, 1]) == pytest.approx(24 / 25)
    assert mean_of_pairs(cosines, [0, 1, 2]) == pytest.approx((24 / 25 + 0 - 1) / 3)
