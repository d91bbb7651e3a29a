"""Training in several processes, and all communication between them.

    torchrun --nproc-per-node 4 -m elasticvit.training cifar10_1gpu --out FILE

`DistributedDataParallel` is not used: a step runs the backward pass of several networks, each with other weights, so
its hooks would reduce incomplete gradients several times per step. Here gradients are reduced once, in flat buckets,
after all networks of a step. Running statistics are not synchronised: they fit no sub-network and are recalibrated.
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
"""Numbers in one bucket."""
TIMEOUT_S = 1800.0
MAKING_S = 24 * 3600.0
"""Timeout of the other processes while one of a machine prepares data."""


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
        """Whether this process writes files and prints."""
        return self.rank == 0

    def add(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by its sum over all processes; all processes pass the same shapes in the same order.

        Raises:
            DistributedError: another process ended, or did not answer within the timeout.
        """
        if self.size == 1:
            return
        for bucket in buckets(tensors):
            flat = torch.cat([tensor.flatten() for tensor in bucket])
            with _clearly():
                dist.all_reduce(flat)
            sums = torch.split(flat, [tensor.numel() for tensor in bucket])
            for tensor, total in zip(bucket, sums, strict=True):
                tensor.copy_(total.view_as(tensor))

    def total(self, numbers: Sequence[float]) -> list[float]:
        """The sum of each number over all processes. Raises `DistributedError` like `add`."""
        if self.size == 1:
            return list(numbers)
        sums = torch.tensor(numbers, dtype=torch.float64, device=self.device)
        self.add([sums])
        return [float(number) for number in sums.tolist()]

    def share(self, make: Callable[[], T]) -> T:
        """The result of `make` in the first process, or the error that it raises there, in all processes.

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
        """The result of `make`, run in each machine's first process before the others, which find its files on disk."""
        if self.size == 1:
            return make()
        early = int(os.environ.get("LOCAL_RANK", "0")) == 0
        with _clearly():
            # A group of its own: decoding a large set takes longer than the timeout of a step.
            waiting = dist.new_group(backend="gloo", timeout=timedelta(seconds=MAKING_S))
        made = make() if early else None
        with _clearly():
            dist.barrier(group=waiting)
        return make() if made is None else made


@contextmanager
def joined(timeout_s: float = TIMEOUT_S) -> Iterator[World]:
    """The processes that torchrun started, from its environment variables; without torchrun this process alone.

    If a process dies, the others end: immediately if its connection closes, after `timeout_s` seconds if it hangs.

    Raises:
        DistributedError: the other processes do not connect.
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
        raise  # destroying the group would wait for processes that have ended
    except BaseException:
        dist.destroy_process_group()
        raise
    else:
        dist.destroy_process_group()


def leave(status: int) -> NoReturn:
    """End this process; immediately if it has lost the other processes of its run.

    Otherwise threads that still wait for them would be terminated, on which the C++ runtime raises SIGABRT.
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
            f"another process of this run ended or does not answer ({error}); look at its output, then run the same"
            " command again: it continues from the last checkpoint"
        ) from error
