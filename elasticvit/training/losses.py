"""Losses of sub-networks: labels, external teachers, and distillation from other sub-networks of the step.

All targets are distributions over classes; logits are converted to float32.
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
"""Temperature of two or more teachers in the authors' code; the student's is 1. The paper mentions no teachers."""
ONE_TEACHER = 0.5
"""Weight of a single teacher in the loss, a fraction (0 to 1); the rest is labels."""


@dataclass(frozen=True, kw_only=True)
class Loss:
    """Settings of the loss of a step's sub-networks."""

    smoothing: float = 0.1
    """Label smoothing: the fraction (0 to 1) of a label that is spread evenly over all classes."""
    distil: float = 0.5
    """Weight of in-place distillation in the loss of taught sub-networks, a fraction (0 to 1); the rest is labels. The
    authors' code has 1."""
    inplace: Literal["soft", "alpha"] = "soft"
    """soft: cross-entropy to the mean prediction of the teaching sub-networks. alpha: adaptive alpha-divergence."""
    alpha_clip: float = 5.0
    """Largest importance weight of the alpha-divergence."""


def soft_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Mean cross-entropy of logits (B, classes) to a target distribution (B, classes)."""
    return -(target * F.log_softmax(logits.float(), dim=1)).sum(1).mean()


def soft_target(logits: Sequence[Tensor], temperature: float = 1.0) -> Tensor:
    """The mean of the probabilities of several networks, (B, classes), without gradient."""
    return torch.stack([F.softmax(output.detach().float() / temperature, dim=1) for output in logits]).mean(0)


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
    """The prediction of external teachers for images (B, 3, H, W), (B, classes): of one at temperature 1, of several
    the mean of their sharpened probabilities; None without teachers."""
    if not teachers:
        return None
    with torch.no_grad():
        return soft_target([teach(images) for teach in teachers], 1.0 if len(teachers) == 1 else SHARP)


@dataclass(frozen=True)
class StepLoss:
    """The targets of a batch: labels (B, classes) and, if there are external teachers, their predictions."""

    settings: Loss
    labels: Tensor
    outside: Tensor | None = None
    teachers: int = 0

    def from_outside(self, logits: Tensor) -> Tensor:
        """The loss to labels without teachers, to labels and one teacher in equal parts, or to several teachers."""
        if self.outside is None:
            return soft_cross_entropy(logits, self.labels)
        taught = soft_cross_entropy(logits, self.outside)
        if self.teachers > 1:
            return taught
        return ONE_TEACHER * taught + (1 - ONE_TEACHER) * soft_cross_entropy(logits, self.labels)

    def in_place(self, logits: Tensor, answers: Sequence[Tensor]) -> Tensor:
        """The loss to the logits (B, classes) of the step's teaching sub-networks, and to labels."""
        weight, target = self.settings.distil, soft_target(answers)
        if self.settings.inplace == "alpha":
            taught = alpha_divergence(logits, target, self.settings.alpha_clip)
        else:
            taught = soft_cross_entropy(logits, target)
        return taught if weight == 1 else weight * taught + (1 - weight) * soft_cross_entropy(logits, self.labels)

    def loss(self, role: Role, roles: Sequence[Role], logits: Tensor, answers: list[Tensor]) -> Tensor:
        """The loss of one sub-network; the logits of a teaching one are appended to `answers`, for those after it.

        If the step trains the largest, it teaches all others; else the random ones teach the smallest.
        """
        teaching: Role = "largest" if "largest" in roles else "uniform"
        if role == teaching:
            answers.append(logits.detach())
        elif answers:
            return self.in_place(logits, answers)
        return self.from_outside(logits)
