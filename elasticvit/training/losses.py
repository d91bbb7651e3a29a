"""What a sub-network learns from: labels, and the other sub-networks of the step."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def label_loss(logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropy of logits (B, classes) to labels (B,), a part `smoothing` of the target spread evenly."""
    return F.cross_entropy(logits, labels, label_smoothing=smoothing)


def soft_target(logits: Sequence[Tensor]) -> Tensor:
    """What several networks believe together: the mean of their probabilities (B, classes), without gradient."""
    return torch.stack([F.softmax(each.detach(), dim=1) for each in logits]).mean(0)


def distillation_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Mean cross-entropy of logits (B, classes) to a target distribution (B, classes)."""
    return -(target * F.log_softmax(logits, dim=1)).sum(1).mean()
