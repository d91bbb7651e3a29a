"""What training costs: multiply-accumulates and time, added up over all sessions of a run."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from elasticvit.archs.arch import Arch
from elasticvit.atomic import write_atomically
from elasticvit.costs.flops import macs
from elasticvit.errors import DataError
from elasticvit.training.ablation.records import append_line, encode_line, read_lines
from elasticvit.training.logs import Record
from elasticvit.training.sampling import Choice, SamplerState
from elasticvit.training.single_net import Draws

BACKWARD = 2
"""Multiply-accumulates of a backward pass, in those of a forward pass."""


@dataclass(frozen=True)
class Spent:
    """Work of the first `step` steps of a run; core seconds are CPU time of all threads of the process."""

    step: int = 0
    macs: int = 0
    seconds: float = 0.0
    core_seconds: float = 0.0


def spent(path: Path) -> Spent:
    """The last line of a file of `Work`; nothing where there is none."""
    lines = read_lines(path)
    return Spent(**lines[-1]) if lines else Spent()


@dataclass
class CountingSampler:
    """A sampler that adds up what its choices cost; otherwise the sampler it is given.

    Attributes:
        each_step: multiply-accumulates per image that every step spends beside its choices, for the external teacher.
    """

    sampler: Draws
    batch: int
    each_step: int = 0
    _macs: int = field(default=0, init=False)

    def start(self) -> SamplerState:
        return self.sampler.start()

    def step(self, state: SamplerState, rng: np.random.Generator, epoch: int = 0) -> Choice:
        choice = self.sampler.step(state, rng, epoch)
        self._macs += self.each_step + (1 + BACKWARD) * sum(map(macs, choice.archs))
        return choice

    def observe(self, state: SamplerState, choice: Choice, scores: Sequence[float]) -> None:
        self.sampler.observe(state, choice, scores)

    def refresh_due(
        self, state: SamplerState, batch: int, batches_per_epoch: int
    ) -> Sequence[tuple[int, tuple[Arch, ...]]]:
        due = self.sampler.refresh_due(state, batch, batches_per_epoch)
        self._macs += sum(macs(arch) for _, archs in due for arch in archs)
        return due

    def rescore(self, state: SamplerState, level: int, scores: Sequence[float]) -> None:
        self.sampler.rescore(state, level, scores)

    def take(self) -> int:
        """Multiply-accumulates of the steps since the last call."""
        taken, self._macs = self._macs * self.batch, 0
        return taken


class Work:
    """A log that writes what was spent until each step as a line of a file, for `spent`.

    Args:
        macs_of_step: called once per step: the multiply-accumulates of the step.

    Raises:
        DataError: the disk refuses, or the file lacks the step from which the run resumes.
    """

    def __init__(self, path: Path, macs_of_step: Callable[[], int]) -> None:
        self.path, self._macs_of_step = path, macs_of_step
        self._spent, self._since = Spent(), (0.0, 0.0)

    def begin(self, done: int) -> None:
        before = [row for row in (Spent(**line) for line in read_lines(self.path)) if row.step <= done]
        self._spent = before[-1] if before else Spent()
        if self._spent.step != done:
            raise DataError(
                f"{self.path} does not say what the first {done} steps cost; delete it and the checkpoint beside it to"
                " start this run again"
            )
        # The lines before are not needed again.
        write_atomically(self.path, encode_line(asdict(self._spent)), error=DataError, parents=True, single_writer=True)
        self._since = time.perf_counter(), time.process_time()

    def __call__(self, record: Record) -> None:
        now = time.perf_counter(), time.process_time()
        self._spent = Spent(
            record.step,
            self._spent.macs + self._macs_of_step(),
            self._spent.seconds + now[0] - self._since[0],
            self._spent.core_seconds + now[1] - self._since[1],
        )
        self._since = now
        append_line(self.path, asdict(self._spent))
