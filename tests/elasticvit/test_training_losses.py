"""Losses against numbers worked out by hand."""

from math import log

import pytest
import torch

from elasticvit.training.losses import distillation_loss, label_loss, soft_target

# Probabilities 3/4 and 1/4; 1/2 and 1/2.
SURE, UNSURE = torch.tensor([[log(3), 0.0]]), torch.tensor([[0.0, 0.0]])


def test_smoothing_spreads_a_part_of_the_target_over_all_classes() -> None:
    right, wrong = torch.tensor([0]), torch.tensor([1])
    assert label_loss(SURE, right).item() == pytest.approx(-log(0.75))
    assert label_loss(SURE, right, 0.2).item() == pytest.approx(-0.9 * log(0.75) - 0.1 * log(0.25))
    assert label_loss(SURE, wrong, 0.2).item() == pytest.approx(-0.1 * log(0.75) - 0.9 * log(0.25))


def test_the_soft_target_is_the_mean_of_probabilities_without_gradient() -> None:
    target = soft_target([SURE.clone().requires_grad_(), UNSURE])
    assert target.tolist() == [pytest.approx([0.625, 0.375])]
    assert not target.requires_grad


def test_distillation_is_cross_entropy_to_the_target() -> None:
    target = torch.tensor([[0.625, 0.375], [0.0, 1.0]])
    logits = torch.cat([SURE, UNSURE]).requires_grad_()
    loss = distillation_loss(logits, target)
    assert loss.item() == pytest.approx((-0.625 * log(0.75) - 0.375 * log(0.25) + log(2)) / 2)
    (gradient,) = torch.autograd.grad(loss, logits)
    # The gradient of cross-entropy is probability minus target, a half of it here: two images.
    assert torch.allclose(gradient, torch.tensor([[0.125, -0.125], [0.5, -0.5]]) / 2)
