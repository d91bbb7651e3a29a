"""Exponential moving average of a model's weights."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class Ema:
    """An exponential moving average of a model's parameters and running statistics.

    Integer buffers are copied, not averaged: averages cast to float and back are the reason why the authors'
    checkpoints have position indices that are one too small (reference architecture, section 2.6).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.average = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """average ← decay · average + (1 - decay) · model."""
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                self.average[name].lerp_(tensor, 1 - self.decay)
            else:
                self.average[name].copy_(tensor)

    def state_dict(self) -> dict[str, Tensor]:
        """The averages by the model's names."""
        return self.average

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore the averages of `state_dict`. Raises `KeyError` for a missing tensor."""
        for name, tensor in self.average.items():
            tensor.copy_(state[name])
