"""Adapters with which the training loop trains one plain network like a supernet."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import Tensor, nn

from elasticvit.archs.arch import Arch
from elasticvit.nn.net import Net
from elasticvit.training.sampling import Choice, SamplerState


class Draws(Protocol):
    """Chooses the sub-networks of each step: a `Sampler`, or `Always` one."""

    def start(self) -> SamplerState: ...
    def step(self, state: SamplerState, rng: np.random.Generator, epoch: int = 0) -> Choice: ...
    def observe(self, state: SamplerState, choice: Choice, scores: Sequence[float]) -> None: ...
    def refresh_due(
        self, state: SamplerState, batch: int, batches_per_epoch: int
    ) -> Sequence[tuple[int, tuple[Arch, ...]]]: ...
    def rescore(self, state: SamplerState, level: int, scores: Sequence[float]) -> None: ...


@dataclass(frozen=True)
class Always:
    """The same architecture every step."""

    arch: Arch

    def start(self) -> SamplerState:
        return SamplerState()

    def step(self, _state: SamplerState, _rng: np.random.Generator, _epoch: int = 0) -> Choice:
        return Choice(0, (self.arch,), ("uniform",), (False,))

    def observe(self, _state: SamplerState, _choice: Choice, _scores: Sequence[float]) -> None: ...

    def refresh_due(
        self, _state: SamplerState, _batch: int, _batches_per_epoch: int
    ) -> Sequence[tuple[int, tuple[Arch, ...]]]:
        return ()

    def rescore(self, _state: SamplerState, _level: int, _scores: Sequence[float]) -> None: ...


class Single(nn.Module):
    """One plain network with the interface of a supernet."""

    def __init__(self, net: Net) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor, _arch: Arch) -> Tensor:
        return self.net(images)  # type: ignore[no-any-return]
