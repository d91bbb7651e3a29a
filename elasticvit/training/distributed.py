"""Several processes that train together, and the one place where they talk.

    torchrun --nproc-per-node 4 -m elasticvit.training cifar10_1gpu --out FILE

No `DistributedDataParallel`: a step runs several networks backward, each touching another part of the weights, so its
hooks would send half-done sums several times a step. Here gradients are sent once, when all of a step's networks are
done, flat and in buckets. Running statistics are not sent: they fit no sub-network and are recalibrated anyway.
"""

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import NoReturn, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from elasticvit.errors import ElasticVitError
from elasticvit.nn.device import best_device

T = TypeVar("T")
BUCKET = 1 << 22
"""Numbers sent at once."""
TIMEOUT_S = 1800.0
MAKING_S = 24 * 3600.0
"""How long the others wait for what one process makes for all."""


class DistributedError(ElasticVitError):
    """The processes of a run cannot work together."""


@dataclass(frozen=True)
class World:
    """The processes of a run, seen by one of them: this is number `rank` of `size`, on `device`."""

    rank: int = 0
    size: int = 1
    device: torch.device = torch.device("cpu")  # noqa: RUF009 - a device is a value

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes files and speaks."""
        return self.rank == 0

    def add(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by its sum over all processes; all must come with the same shapes in the same order.

        Raises:
            DistributedError: another process is gone, or silent for longer than the time limit.
        """
        if self.size == 1:
            return
        for bucket in buckets(tensors):
            flat = torch.cat([tensor.flatten() for tensor in bucket])
            with _clearly():
                dist.all_reduce(flat)
            parts = torch.split(flat, [tensor.numel() for tensor in bucket])
            for tensor, part in zip(bucket, parts, strict=True):
                tensor.copy_(part.view_as(tensor))

    def total(self, numbers: Sequence[float]) -> list[float]:
        """The sum of each number over all processes. Raises `DistributedError` like `add`."""
        if self.size == 1:
            return list(numbers)
        sums = torch.tensor(numbers, dtype=torch.float64, device=self.device)
        self.add([sums])
        return [float(number) for number in sums.tolist()]

    def share(self, make: Callable[[], T]) -> T:
        """What `make` gives in the first process, or the error it raises there, in all of them.

        Raises:
            DistributedError: like `add`.
        """
        if self.size == 1:
            return make()
        made: list[object] = [None, None]
        if self.first:
            try:
                made[0] = make()
            except ElasticVitError as error:
                made[1] = error
        with _clearly():
            dist.broadcast_object_list(made, src=0, device=self.device)
        if isinstance(made[1], ElasticVitError):
            raise made[1]
        return made[0]  # type: ignore[return-value]

    def in_turn(self, make: Callable[[], T]) -> T:
        """What `make` gives, run in each machine's first process before the others, who find what it left on disk."""
        if self.size == 1:
            return make()
        early = int(os.environ.get("LOCAL_RANK", "0")) == 0
        with _clearly():
            # Its own, since a large set takes longer to decode than a process may be silent in a step.
            waiting = dist.new_group(backend="gloo", timeout=timedelta(seconds=MAKING_S))
        made = make() if early else None
        with _clearly():
            dist.barrier(group=waiting)
        return make() if made is None else made


@contextmanager
def joined(timeout_s: float = TIMEOUT_S) -> Iterator[World]:
    """The processes that torchrun started, by its environment variables; elsewhere this process alone.

    A process that ends without a word ends the others: at once where its connection closes, after `timeout_s` seconds
    where it only hangs.

    Raises:
        DistributedError: the others do not come.
    """
    size, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    device = best_device(int(os.environ.get("LOCAL_RANK", "0")))
    if size == 1:
        yield World(device=device)
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    with _clearly():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timedelta(seconds=timeout_s))
    try:
        yield World(rank, size, device)
    except DistributedError:
        raise  # leaving in good order would wait for those that are gone
    except BaseException:
        dist.destroy_process_group()
        raise
    else:
        dist.destroy_process_group()


def leave(status: int) -> NoReturn:
    """End this process; at once, where it has lost the others of its run.

    Threads that still wait for them would be ended in the midst of it, which the C++ runtime answers with SIGABRT.
    """
    if dist.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def buckets(tensors: Iterable[Tensor], size: int = BUCKET) -> Iterator[list[Tensor]]:
    """The tensors in order, in groups of one data type and of up to `size` numbers; a larger one alone."""
    group: list[Tensor] = []
    held = 0
    for tensor in tensors:
        if group and (held + tensor.numel() > size or tensor.dtype != group[0].dtype):
            yield group
            group, held = [], 0
        group.append(tensor)
        held += tensor.numel()
    if group:
        yield group


@contextmanager
def _clearly() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise DistributedError(
            f"another process of this run ended or does not answer ({error}); look at its output, then start the same"
            " command again: it goes on from the last checkpoint"
        ) from error
