"""What decays, how gradients are clipped, and the learning rate's way."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from elasticvit.archs.space import paper
from elasticvit.nn.supernet import SuperNet
from elasticvit.training.loop import fresh_supernet
from elasticvit.training.optim import Optim, clip_gradients, clip_to_weights, decays, learning_rate, make_optimizer
from tests.elasticvit.training.tiny_training import tiny_recipe


def test_the_learning_rate_warms_up_and_falls_by_half_a_cosine() -> None:
    optim = Optim(lr=2.0, warmup=2, lr_end=0.1)
    rates = [learning_rate(optim, step, 13) for step in range(13)]
    assert rates[:3] == [1.0, 2.0, 2.0]
    assert rates[7] == pytest.approx(1.1)  # halfway
    assert rates[12] == pytest.approx(0.2)
    assert all(a >= b for a, b in pairwise(rates[1:]))


def test_the_authors_schedule_starts_above_zero_and_ends_level() -> None:
    optim = Optim(lr=1.0, warmup=4, lr_start=0.2, lr_end=0.01, cooldown=3)
    rates = [learning_rate(optim, step, 20) for step in range(20)]
    assert rates[:4] == pytest.approx([0.4, 0.6, 0.8, 1.0])
    assert rates[16:] == pytest.approx([0.01] * 4)
    assert rates[15] > 0.011


@pytest.mark.medium
def test_only_matrices_and_kernels_decay() -> None:
    supernet = fresh_supernet(tiny_recipe())
    names = {id(p): name for name, p in supernet.named_parameters()}
    groups = make_optimizer(supernet, tiny_recipe().optim).param_groups
    decayed, kept = ({names[id(p)] for p in group["params"]} for group in groups)
    assert [group["weight_decay"] for group in groups] == [0.05, 0.0]
    assert decayed | kept == set(names.values()) and not decayed & kept
    assert {"net.head.classify.weight", "net.first_conv.conv.weight"} <= decayed
    assert {"net.head.classify.bias", "net.first_conv.bn.weight", "net.vit.0.attention.0.position_bias"} <= kept


def test_the_authors_decay_is_that_of_their_network() -> None:
    """141 tensors of the paper's space: six in each of 23 transformer layers, three in the head.

    Their numbers by the shapes of the authors' state dict: qkv 6S·S, projection 4S·S, two linears of 5S·S, a 3×3 kernel
    for each of 4S values, and a table of (2R-1)² offsets for S/16 heads.
    """
    shapes = ((5, 96, 961), (6, 160, 961), (6, 288, 225), (6, 320, 49))
    numbers = sum(depth * (20 * s * s + 36 * s + table * s // 16) for depth, s, table in shapes)
    numbers += 1920 * 320 + 1984 * 1920 + 1000 * 1984
    with torch.device("meta"):
        supernet = SuperNet(paper())
    decayed = {n: p for n, p in supernet.named_parameters() if decays(n, p, "authors")}
    assert len(decayed) == 141
    assert sum(p.numel() for p in decayed.values()) == numbers == 32_942_398
    layers = 5 + 6 + 6 + 6
    for end in ("qkv.weight", "values_conv.weight", "position_bias", "expand.weight", "project.weight"):
        within = [n for n in decayed if n.endswith(end) and ".vit." in n]
        assert len(within) == (2 * layers if end == "project.weight" else layers), end
    assert {n for n in decayed if "head" in n} == {
        f"net.head.{name}.weight" for name in ("expand", "hidden", "classify")
    }
    assert all(p.ndim > 1 for p in decayed.values())


def _weighed(weights: list[list[float]], gradient: list[list[float]]) -> nn.Parameter:
    parameter = nn.Parameter(torch.tensor(weights).float())
    parameter.grad = torch.tensor(gradient).float()
    return parameter


def _gradient(parameter: nn.Parameter) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad


def test_adaptive_clipping_takes_rows_apart() -> None:
    # Norms of weights 5, 5 and 0; of gradients 10, 0.1 and 2. Allowed at 0.1: 0.5, 0.5 and 0.1 × 0.001.
    parameter = _weighed([[3, 4], [4, 3], [0, 0]], [[6, 8], [0.1, 0], [0, 2]])
    clip_to_weights(parameter, 0.1)
    assert torch.allclose(_gradient(parameter), torch.tensor([[0.3, 0.4], [0.1, 0.0], [0.0, 1e-4]]))


def test_adaptive_clipping_takes_a_vector_whole_and_a_kernel_by_output() -> None:
    vector = nn.Parameter(torch.tensor([3.0, 4.0]))
    vector.grad = torch.tensor([0.0, 5.0])
    clip_to_weights(vector, 0.1)
    assert torch.allclose(_gradient(vector), torch.tensor([0.0, 0.5]))
    kernel = nn.Parameter(torch.ones(2, 1, 2, 2))
    kernel.grad = torch.stack([torch.full((1, 2, 2), 0.05), torch.full((1, 2, 2), 5.0)])
    clip_to_weights(kernel, 0.1)  # weights of norm 2 allow 0.2, four numbers of 0.1
    assert torch.allclose(_gradient(kernel)[:, 0, 0, 0], torch.tensor([0.05, 0.1]))


def test_nothing_moves_without_a_gradient() -> None:
    parameter = _weighed([[0, 0]], [[0, 0]])
    clip_to_weights(parameter, 0.1)
    assert torch.equal(_gradient(parameter), torch.zeros(1, 2))


def _model() -> nn.Module:
    model = nn.Linear(2, 1)
    with torch.no_grad():
        model.weight.fill_(1.0)
        model.bias.fill_(1.0)
    model.weight.grad, model.bias.grad = torch.tensor([[2.0, 4.0]]), torch.tensor([4.0])
    return model


def test_clipping_is_by_the_norm_of_everything_or_by_units() -> None:
    model = _model()
    assert clip_gradients(model, Optim(lr=1, clip=3.0)).item() == pytest.approx(6.0)
    assert [p.grad.flatten().tolist() for p in model.parameters() if p.grad is not None] == [
        pytest.approx([1.0, 2.0]),
        pytest.approx([2.0]),
    ]
    model = _model()
    assert clip_gradients(model, Optim(lr=1, clip=3.0, agc=0.5)).item() == pytest.approx(6.0)
    lengths = [p.grad.norm().item() for p in model.parameters() if p.grad is not None]
    assert lengths == pytest.approx([0.5 * 2**0.5, 0.5])
    model = _model()
    assert clip_gradients(model, Optim(lr=1, clip=None)).item() == pytest.approx(6.0)
    assert [p.grad.flatten().tolist() for p in model.parameters() if p.grad is not None] == [[2.0, 4.0], [4.0]]
