"""What a sub-network learns from: labels, teachers from outside, and the other sub-networks of its step.

All targets are distributions over classes; logits are taken in float32, whatever precision made them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from elasticvit.training.sampling.state import Role

Teacher = Callable[[Tensor], Tensor]
"""Scaled images (B, 3, H, W) to logits (B, classes)."""
SHARP = 0.2
"""Temperature at which the authors' code reads two teachers; the student stays at 1. The paper mentions no teachers."""
ONE_TEACHER = 0.5
"""Part of the loss that one teacher has; the rest is labels."""


@dataclass(frozen=True, kw_only=True)
class Loss:
    """How the sub-networks of a step learn."""

    smoothing: float = 0.1
    """Part of a label that is spread evenly over all classes."""
    distil: float = 0.5
    """Part that the step's teaching sub-networks have in what the taught ones learn; the rest is labels. The authors'
    code has 1."""
    inplace: Literal["soft", "alpha"] = "soft"
    """Cross-entropy to the mean of what the teaching ones answer, or the adaptive alpha-divergence from it."""
    alpha_clip: float = 5.0
    """Largest importance weight of the alpha-divergence."""


def soft_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Mean cross-entropy of logits (B, classes) to a target distribution (B, classes)."""
    return -(target * F.log_softmax(logits.float(), dim=1)).sum(1).mean()


def soft_target(logits: Sequence[Tensor], temperature: float = 1.0) -> Tensor:
    """What several networks believe together: the mean of their probabilities (B, classes), without gradient."""
    return torch.stack([F.softmax(each.detach().float() / temperature, dim=1) for each in logits]).mean(0)


def alpha_divergence(logits: Tensor, target: Tensor, clip: float = 5.0) -> Tensor:
    """A loss whose gradient is that of the larger of two divergences, image by image (AlphaNet, Wang et al. 2021).

    With p the target, q the softmax of the logits and w = p / q: alpha = -1 gives Σ q (min(1/w, clip) - 1) / 2, which
    punishes a q that spreads where p does not; alpha = 1 gives KL(p ‖ q), which punishes the contrary, unclipped as in
    the authors' code. The value is that of the surrogate, Σ over classes of -q (1/2 - min(1/w, clip)) log q or
    -p log q with all but log q held fixed, and no divergence itself.

    Args:
        logits: (B, classes). target: a distribution (B, classes).
    """
    log_q = F.log_softmax(logits.float(), dim=1)
    p, q = target.detach().float(), log_q.detach().exp()
    log_p = p.clamp_min(torch.finfo(p.dtype).tiny).log()
    inverse = (log_q.detach() - log_p).exp().clamp_max(clip)
    negative = (q * (inverse - 1)).sum(1) / 2
    positive = (p * (log_p - log_q.detach())).sum(1)
    surrogates = -(q * (0.5 - inverse) * log_q).sum(1), -(p * log_q).sum(1)
    return torch.where(negative > positive, *surrogates).mean()


def teacher_target(teachers: Sequence[Teacher], images: Tensor) -> Tensor | None:
    """What teachers from outside believe of images (B, 3, H, W), (B, classes): one at temperature 1, several the mean
    of their sharpened probabilities, none None."""
    if not teachers:
        return None
    with torch.no_grad():
        return soft_target([teach(images) for teach in teachers], 1.0 if len(teachers) == 1 else SHARP)


@dataclass(frozen=True)
class StepLoss:
    """What a batch's images teach: by labels (B, classes), and by teachers from outside where there are some."""

    settings: Loss
    labels: Tensor
    outside: Tensor | None = None
    teachers: int = 0

    def from_outside(self, logits: Tensor) -> Tensor:
        """Labels without teachers; half labels and half a single teacher; two or more teachers alone."""
        if self.outside is None:
            return soft_cross_entropy(logits, self.labels)
        taught = soft_cross_entropy(logits, self.outside)
        if self.teachers > 1:
            return taught
        return ONE_TEACHER * taught + (1 - ONE_TEACHER) * soft_cross_entropy(logits, self.labels)

    def from_others(self, logits: Tensor, answers: Sequence[Tensor]) -> Tensor:
        """From the logits (B, classes) of the step's teaching sub-networks, and from labels."""
        part, target = self.settings.distil, soft_target(answers)
        if self.settings.inplace == "alpha":
            taught = alpha_divergence(logits, target, self.settings.alpha_clip)
        else:
            taught = soft_cross_entropy(logits, target)
        return taught if part == 1 else part * taught + (1 - part) * soft_cross_entropy(logits, self.labels)

    def loss(self, role: Role, roles: Sequence[Role], logits: Tensor, answers: list[Tensor]) -> Tensor:
        """The loss of one sub-network; the logits of one that teaches are put to `answers`, for those after it.

        Where the step trains the largest it teaches all others, else the random ones teach the smallest.
        """
        teaching: Role = "largest" if "largest" in roles else "uniform"
        if role == teaching:
            answers.append(logits.detach())
        elif answers:
            return self.from_others(logits, answers)
        return self.from_outside(logits)
