"""Logs of a training run: JSON lines and TensorBoard."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from elasticvit.atomic import write_atomically
from elasticvit.errors import ElasticVitError


class LogError(ElasticVitError):
    """A run's log cannot be written."""


@dataclass(frozen=True)
class Record:
    """One step of a run, counted from 1; losses by role, averaged over the step's sub-networks of that role."""

    step: int
    level: int
    losses: Mapping[str, float]
    lr: float
    images_per_s: float
    gradient_norm: float


class Log(Protocol):
    """Takes records of a run."""

    def begin(self, done: int) -> None:
        """A run continues after `done` steps: records of later steps, of a run that was killed, are dropped."""

    def __call__(self, record: Record) -> None: ...


class Unlogged:
    """Discards all records."""

    def begin(self, done: int) -> None: ...

    def __call__(self, record: Record) -> None: ...


class JsonLines:
    """Appends every record to a file as a JSON line. Raises `LogError` if the file cannot be written."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def begin(self, done: int) -> None:
        """Keep the lines of the steps done; drop later and incomplete ones."""
        try:
            kept = "".join(f"{line}\n" for line in self._lines() if _step(line) <= done)
            write_atomically(self.path, kept.encode(), parents=True, single_writer=True)
        except OSError as error:
            raise LogError(f"cannot write {self.path}: {error}") from error

    def __call__(self, record: Record) -> None:
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(record)) + "\n")
        except OSError as error:
            raise LogError(f"cannot write {self.path}: {error}") from error

    def _lines(self) -> list[str]:
        return self.path.read_text("utf-8").splitlines() if self.path.exists() else []


class TensorBoard:
    """Scalars for TensorBoard in a folder. Raises `LogError` if TensorBoard is not installed, or the disk refuses."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._writer: Any = None

    def begin(self, done: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise LogError("TensorBoard is not installed: pip install tensorboard, or run without it") from error
        try:
            self._writer = SummaryWriter(os.fspath(self.folder), purge_step=done + 1)
        except OSError as error:
            raise LogError(f"cannot write TensorBoard's files into {self.folder}: {error}") from error

    def __call__(self, record: Record) -> None:
        numbers = {f"loss/{role}": loss for role, loss in record.losses.items()}
        numbers |= {"lr": record.lr, "level": record.level, "gradient_norm": record.gradient_norm}
        for name, number in (numbers | {"images_per_s": record.images_per_s}).items():
            self._writer.add_scalar(name, number, record.step)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


class Several:
    """Passes the record of every `every`-th step to several logs."""

    def __init__(self, logs: list[Log], every: int = 1) -> None:
        self.logs, self.every = logs, every

    def begin(self, done: int) -> None:
        for log in self.logs:
            log.begin(done)

    def __call__(self, record: Record) -> None:
        if record.step % self.every == 0:
            for log in self.logs:
                log(record)


@contextmanager
def logs_to(jsonl: Path | None, tensorboard: Path | None = None, every: int = 1) -> Iterator[Log]:
    """A log to a file of JSON lines, a folder for TensorBoard, both or neither."""
    with ExitStack() as stack:
        logs: list[Log] = [] if jsonl is None else [JsonLines(jsonl)]
        if tensorboard is not None:
            board = TensorBoard(tensorboard)
            stack.callback(board.close)
            logs.append(board)
        yield Several(logs, every)


def _step(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")
