"""Forward and backward passes of the sub-networks of a step on one part of its images."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import backward

from elasticvit.archs.arch import Arch
from elasticvit.training.batches import Part
from elasticvit.training.losses import StepLoss, Teacher, teacher_target
from elasticvit.training.recipes import Recipe
from elasticvit.training.sampling import Choice

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class TrainingStep:
    """Runs `model(images, arch)` in the recipe's precision; `forward` is the compiled model if the recipe compiles."""

    model: nn.Module
    recipe: Recipe
    teachers: Sequence[Teacher]
    forward: Callable[[Tensor, Arch], Tensor]

    def learn(self, choice: Choice, part: Part, scaled: Callable[[Tensor], Tensor]) -> Tensor:
        """Add the gradients of `scaled(loss)` of all sub-networks of a step to the model's.

        Returns:
            Losses and scores (as `score`, if the recipe has a bank, else 0) by sub-network, (2, archs).
        """
        with self._precision(part.images.device):
            outside = teacher_target(self.teachers, part.mixed)
        step_loss = StepLoss(self.recipe.loss, part.targets, outside, len(self.teachers))
        answers: list[Tensor] = []
        marks = torch.zeros(2, len(choice.archs), device=part.images.device)
        for i, (arch, role, explored) in enumerate(zip(choice.archs, choice.roles, choice.explored, strict=True)):
            with self._precision(part.images.device):
                logits = self.forward(part.mixed, arch)
            loss = step_loss.loss(role, choice.roles, logits, answers)
            backward(scaled(loss))
            marks[0, i] = loss.detach()
            if explored and self.recipe.sampling.bank is not None:
                marks[1, i] = self.score(arch, part) if part.is_mixed else score_of(logits, part.labels)
        return marks

    def score(self, arch: Arch, part: Part) -> Tensor:
        """The score of a sub-network on the unmixed images of a part, in training mode.

        Running statistics are unchanged; the authors' code updates them once more.
        """
        with torch.no_grad(), kept_statistics(self.model), self._precision(part.images.device):
            return score_of(self.forward(part.images, arch), part.labels)

    def scores(self, arch: Arch, parts: Sequence[Part]) -> float:
        """The sum of `score` over parts."""
        return sum(float(self.score(arch, part)) for part in parts)

    def _precision(self, device: torch.device) -> torch.autocast:
        chosen = PRECISIONS[self.recipe.precision]
        return torch.autocast(device.type, dtype=chosen, enabled=chosen != torch.float32)


def score_of(logits: Tensor, labels: Tensor) -> Tensor:
    """The negative mean cross-entropy of logits (B, classes) to hard labels (B,); higher is better."""
    return -F.cross_entropy(logits.detach().float(), labels)


@contextmanager
def kept_statistics(model: nn.Module) -> Iterator[None]:
    """Restores all buffers at the end."""
    buffers = list(model.buffers())
    before = [buffer.clone() for buffer in buffers]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, old in zip(buffers, before, strict=True):
                buffer.copy_(old)
