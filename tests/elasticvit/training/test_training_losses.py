"""Losses against numbers worked out by hand."""

from math import log

import pytest
import torch
from torch import Tensor

from elasticvit.training.losses import (
    Loss,
    StepLoss,
    alpha_divergence,
    soft_cross_entropy,
    soft_target,
    teacher_target,
)
from elasticvit.training.sampling.state import Role

# Probabilities 3/4 and 1/4; 1/2 and 1/2.
SURE, UNSURE = torch.tensor([[log(3), 0.0]]), torch.tensor([[0.0, 0.0]])
FIRST = torch.tensor([[1.0, 0.0]])
AS_UNSURE = -(log(0.75) + log(0.25)) / 2
"""Cross-entropy of SURE to the probabilities of UNSURE."""


def _logits(*probabilities: float) -> Tensor:
    return torch.tensor([probabilities]).log().requires_grad_()


def _gradient(loss: Tensor, logits: Tensor) -> list[float]:
    (gradient,) = torch.autograd.grad(loss, logits)
    return [float(number) for number in gradient[0]]


def test_the_soft_target_is_the_mean_of_probabilities_without_gradient() -> None:
    target = soft_target([SURE.clone().requires_grad_(), UNSURE])
    assert target.tolist() == [pytest.approx([0.625, 0.375])]
    assert not target.requires_grad


def test_a_low_temperature_sharpens() -> None:
    # Logits log 3 and 0 at temperature 1/2 are log 9 and 0.
    assert soft_target([SURE], 0.5).tolist() == [pytest.approx([0.9, 0.1])]


def test_cross_entropy_to_a_distribution() -> None:
    target = torch.tensor([[0.625, 0.375], [0.0, 1.0]])
    logits = torch.cat([SURE, UNSURE]).requires_grad_()
    loss = soft_cross_entropy(logits, target)
    assert loss.item() == pytest.approx((-0.625 * log(0.75) - 0.375 * log(0.25) + log(2)) / 2)
    (gradient,) = torch.autograd.grad(loss, logits)
    # The gradient of cross-entropy is probability minus target, a half of it here: two images.
    assert torch.allclose(gradient, torch.tensor([[0.125, -0.125], [0.5, -0.5]]) / 2)


def test_cross_entropy_to_a_smoothed_label_is_torchs() -> None:
    logits, labels = torch.randn(5, 7), torch.tensor([0, 3, 6, 1, 1])
    target = torch.nn.functional.one_hot(labels, 7) * 0.9 + 0.1 / 7
    expected = torch.nn.functional.cross_entropy(logits, labels, label_smoothing=0.1)
    assert soft_cross_entropy(logits, target).item() == pytest.approx(expected.item(), rel=1e-6)


def test_alpha_divergence_where_the_student_misses_mass() -> None:
    """p = (1/2, 1/2), q = (1/10, 9/10): KL(p‖q) = log(5/3) = 0.51, Σ q (q/p - 1) / 2 = 0.32."""
    logits = _logits(0.1, 0.9)
    negative = (0.1 * (0.2 - 1) + 0.9 * (1.8 - 1)) / 2
    positive = 0.5 * log(5) + 0.5 * log(5 / 9)
    assert negative == pytest.approx(0.32) and positive == pytest.approx(0.5108, abs=1e-4)
    loss = alpha_divergence(logits, torch.tensor([[0.5, 0.5]]))
    assert loss.item() == pytest.approx(-0.5 * log(0.1) - 0.5 * log(0.9))
    # Of Σ -p log q, like cross-entropy: q - p.
    assert _gradient(loss, logits) == pytest.approx([-0.4, 0.4])


def test_alpha_divergence_where_the_student_spreads() -> None:
    """p = (1/4, 3/4), q = (3/4, 1/4): q/p is 3 and 1/3, so Σ q (q/p - 1) / 2 = 2/3; KL(p‖q) = log(3)/2 = 0.55."""
    logits = _logits(0.75, 0.25)
    loss = alpha_divergence(logits, torch.tensor([[0.25, 0.75]]))
    # Surrogate: weights q (q/p - 1/2) of 15/8 and -1/24 on log q.
    a, b = 0.75 * 2.5, 0.25 * (1 / 3 - 0.5)
    assert loss.item() == pytest.approx(a * log(0.75) + b * log(0.25))
    # Of log q_i by logit j: (i == j) - q_j. That is also the divergence's own gradient: d/dq of q²/2p is q/p.
    slope = a * 0.25 - b * 0.75
    assert _gradient(loss, logits) == pytest.approx([slope, -slope])
    q = logits.softmax(1)
    divergence = (q * (q / torch.tensor([[0.25, 0.75]]) - 1)).sum() / 2
    true = _gradient(divergence, logits)
    assert true == pytest.approx([2 * 0.75 * 0.25 * (3 - 1 / 3) / 2] * 1 + [-2 * 0.75 * 0.25 * (3 - 1 / 3) / 2])
    assert [slope, -slope] == pytest.approx(true)


def test_alpha_divergence_clips_its_weights() -> None:
    """p = (1/20, 19/20), q = (1/2, 1/2): q/p is 10, clipped to 5, and 10/19."""
    p, logits = torch.tensor([[0.05, 0.95]]), _logits(0.5, 0.5)
    a, b = 0.5 * (5 - 0.5), 0.5 * (10 / 19 - 0.5)
    loss = alpha_divergence(logits, p)
    assert loss.item() == pytest.approx((a + b) * log(0.5))
    assert _gradient(loss, logits) == pytest.approx([(a - b) / 2, (b - a) / 2])
    unclipped = alpha_divergence(logits, p, clip=100.0)
    assert unclipped.item() == pytest.approx((0.5 * 9.5 + b) * log(0.5))


def test_alpha_divergence_chooses_image_by_image_and_takes_the_mean() -> None:
    logits = torch.cat([_logits(0.1, 0.9), _logits(0.75, 0.25)])
    target = torch.tensor([[0.5, 0.5], [0.25, 0.75]])
    alone = [alpha_divergence(logits[i : i + 1], target[i : i + 1]).item() for i in range(2)]
    assert alpha_divergence(logits, target).item() == pytest.approx(sum(alone) / 2)


def test_alpha_divergence_bears_certainty() -> None:
    logits = torch.tensor([[200.0, 0.0], [0.0, 200.0], [0.0, 0.0]], requires_grad=True)
    target = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    loss = alpha_divergence(logits, target)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert torch.isfinite(loss) and torch.isfinite(gradient).all()
    assert gradient[1, 0] < 0 < gradient[1, 1]


def test_no_teacher_one_teacher_two_teachers() -> None:
    def sure(images: Tensor) -> Tensor:
        return SURE.expand(len(images), 2)

    def unsure(images: Tensor) -> Tensor:
        return UNSURE.expand(len(images), 2)

    images = torch.zeros(1, 3, 4, 4)
    assert teacher_target([], images) is None
    one = teacher_target([sure], images)
    two = teacher_target([sure, unsure], images)
    assert one is not None and two is not None
    assert one.tolist() == [pytest.approx([0.75, 0.25])]
    # At temperature 0.2, log 3 becomes log 243.
    assert two.tolist() == [pytest.approx([(243 / 244 + 0.5) / 2, (1 / 244 + 0.5) / 2])]
    # Labels alone; half labels, half the teacher; both teachers alone.
    label = -log(0.75)
    assert StepLoss(Loss(), FIRST).from_outside(SURE).item() == pytest.approx(label)
    taught = -0.75 * log(0.75) - 0.25 * log(0.25)
    assert StepLoss(Loss(), FIRST, one, 1).from_outside(SURE).item() == pytest.approx((label + taught) / 2)
    together = -two[0, 0].item() * log(0.75) - two[0, 1].item() * log(0.25)
    assert StepLoss(Loss(), FIRST, two, 2).from_outside(SURE).item() == pytest.approx(together)


def test_random_sub_networks_teach_the_smallest() -> None:
    step_loss, answers = StepLoss(Loss(distil=0.25), FIRST), list[Tensor]()
    roles: tuple[Role, ...] = ("uniform", "uniform", "smallest")
    assert step_loss.loss("uniform", roles, SURE, answers).item() == pytest.approx(-log(0.75))
    assert step_loss.loss("uniform", roles, UNSURE, answers).item() == pytest.approx(log(2))
    taught = -0.625 * log(0.75) - 0.375 * log(0.25)
    loss = step_loss.loss("smallest", roles, SURE, answers).item()
    assert loss == pytest.approx(0.25 * taught + 0.75 * -log(0.75))
    assert len(answers) == 2


def test_the_largest_teaches_all_others() -> None:
    step_loss, answers = StepLoss(Loss(distil=1.0), FIRST), list[Tensor]()
    roles: tuple[Role, ...] = ("largest", "uniform", "floor")
    assert step_loss.loss("largest", roles, UNSURE, answers).item() == pytest.approx(log(2))
    for role in roles[1:]:
        assert step_loss.loss(role, roles, SURE, answers).item() == pytest.approx(AS_UNSURE)
    assert len(answers) == 1


def test_distillation_inside_a_step_may_be_by_alpha_divergence() -> None:
    step_loss, answers = StepLoss(Loss(distil=1.0, inplace="alpha"), FIRST), [_logits(0.25, 0.75)]
    logits = _logits(0.75, 0.25)
    loss = step_loss.loss("smallest", ("uniform", "smallest"), logits, answers)
    assert loss.item() == pytest.approx(alpha_divergence(logits, torch.tensor([[0.25, 0.75]])).item())


def test_a_smallest_without_others_learns_from_labels() -> None:
    assert StepLoss(Loss(), FIRST).loss("smallest", ("smallest",), SURE, []).item() == pytest.approx(-log(0.75))


def test_losses_are_taken_in_single_precision() -> None:
    logits = torch.tensor([[20.0, 0.0]], dtype=torch.bfloat16)
    for loss in (soft_cross_entropy(logits, FIRST), alpha_divergence(logits, FIRST)):
        assert loss.dtype == torch.float32
