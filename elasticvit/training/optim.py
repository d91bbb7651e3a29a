"""Optimisation: AdamW, weight decay, gradient clipping and the learning rate schedule."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_, get_total_norm

AGC_EPS = 1e-3
"""Lower bound of the norm of a unit's weights in adaptive clipping, so that zero weights can grow."""


@dataclass(frozen=True, kw_only=True)
class Optim:
    """Settings of AdamW, its schedule, gradient clipping and weight averaging."""

    lr: float
    """Peak learning rate, after the warm-up."""
    lr_start: float = 0.0
    """Learning rate at the start of the warm-up, as a fraction of the peak."""
    lr_end: float = 0.01
    """Last learning rate as a fraction of the peak, reached by half a cosine."""
    warmup: int = 0
    """Steps of linear warm-up."""
    cooldown: int = 0
    """Last steps, at the last learning rate."""
    weight_decay: float = 0.05
    decay: Literal["matrices", "authors"] = "matrices"
    """matrices: all matrices and kernels, not norms, biases and position biases. authors: only transformer layers
    (position biases included) and the head; not the first convolution nor any MobileNet block, reductions included."""
    clip: float | None = 1.0
    """Largest norm of a step's gradient over all parameters; None: any."""
    agc: float | None = None
    """Adaptive clipping: largest norm of a unit's gradient as a fraction of the norm of its weights; 0.1 in
    the authors' code. Then `clip` is not used."""
    ema: float | None = None
    """Decay per step of the moving average of the weights, which is then the result; None: the last weights."""


def decays(name: str, parameter: Tensor, rule: str) -> bool:
    """Whether weight decay applies to a parameter, by its name in `Net`."""
    if parameter.ndim < 2:
        return False
    if rule == "matrices":
        return not name.endswith("position_bias")
    return ".reduction." not in name and any(module in name for module in (".attention.", ".ffn.", "head."))


def make_optimizer(model: nn.Module, optim: Optim) -> torch.optim.AdamW:
    """AdamW over a model's parameters in two groups: decayed and not."""
    groups: tuple[list[nn.Parameter], list[nn.Parameter]] = ([], [])
    for name, parameter in model.named_parameters():
        groups[0 if decays(name, parameter, optim.decay) else 1].append(parameter)
    decayed = {"params": groups[0], "weight_decay": optim.weight_decay}
    return torch.optim.AdamW([decayed, {"params": groups[1], "weight_decay": 0.0}], lr=optim.lr, fused=True)


def learning_rate(optim: Optim, step: int, steps: int) -> float:
    """Learning rate of a step (from 0): linear warm-up, half a cosine, then level."""
    if step < optim.warmup:
        fraction = optim.lr_start + (1 - optim.lr_start) * (step + 1) / optim.warmup
    else:
        progress = (step - optim.warmup) / max(1, steps - optim.warmup - optim.cooldown - 1)
        fraction = optim.lr_end + (1 - optim.lr_end) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return optim.lr * fraction


@torch.no_grad()
def clip_gradients(model: nn.Module, optim: Optim) -> Tensor:
    """Clip the gradients; returns their norm before clipping."""
    parameters = [p for p in model.parameters() if p.grad is not None]
    if optim.agc is not None:
        norm = get_total_norm([p.grad for p in parameters if p.grad is not None])
        for parameter in parameters:
            clip_to_weights(parameter, optim.agc)
        return norm
    return clip_grad_norm_(parameters, math.inf if optim.clip is None else optim.clip)


@torch.no_grad()
def clip_to_weights(parameter: Tensor, factor: float) -> None:
    """Clip each unit's gradient to `factor` times the norm of the unit's weights (Brock et al. 2021).

    A unit is a row of a matrix, an output channel of a kernel, a head of a position-bias table (in the authors' code,
    which stores that table the other way round, one offset), or a whole vector.
    """
    gradient = parameter.grad
    assert gradient is not None
    axes = tuple(range(1, parameter.ndim)) if parameter.ndim > 1 else None
    weights = torch.linalg.vector_norm(parameter, dim=axes, keepdim=True)
    lengths = torch.linalg.vector_norm(gradient, dim=axes, keepdim=True)
    allowed = weights.clamp_min(AGC_EPS) * factor
    gradient.mul_(torch.where(lengths > allowed, allowed / lengths.clamp_min(1e-6), torch.ones_like(lengths)))


class Summed:
    """The sum of gradients over parts of a batch; the gradient of each part is complete before it is added.

    Backward passes that accumulate into one tensor would round differently from processes that each compute a part and
    add the results, and AdamW turns such differences into full steps wherever a gradient should be zero.
    """

    def __init__(self) -> None:
        self._sums: dict[nn.Parameter, Tensor] = {}

    @torch.no_grad()
    def take(self, model: nn.Module) -> None:
        """Add the model's gradients, and clear them."""
        for parameter in model.parameters():
            if parameter.grad is not None:
                total = self._sums.get(parameter)
                self._sums[parameter] = parameter.grad if total is None else total.add_(parameter.grad)
                parameter.grad = None

    def give(self, model: nn.Module) -> None:
        """Set the model's gradients to the sums."""
        for parameter in model.parameters():
            parameter.grad = self._sums.get(parameter)
