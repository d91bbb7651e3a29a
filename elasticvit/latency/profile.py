"""A per-operator profile of a whole network, summed to its blocks: the rows that predictors learn from.

Blocks are learnt from whole networks, not probed alone, since inside a network their weights stream from memory.

XNNPACK reports whole microseconds, rounded down, so an operator of 0.9 µs reads 0, and profiling disturbs caches. The
network's unprofiled median is reliable. So the rounded-off times are restored until the sum equals that median: half a
microsecond for an operator that reads one or more, and equal shares of the remainder, below one microsecond each, for
those that read less. A common factor corrects what is left after that.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from elasticvit.archs.arch import Arch
from elasticvit.costs.blocks import blocks
from elasticvit.errors import PredictorError
from elasticvit.latency.alignment import align
from elasticvit.latency.rows import BlockRow

SMALLEST_COVERAGE = 0.98
# Operators that only relabel memory take no time that could have been rounded off.
_FREE = ("static reshape", "reshape")
# Lower bound of the time of any other operator, however little the operator profile shows.
_LEAST_US = 0.05


@dataclass(frozen=True, slots=True)
class FileOp:
    """An operator of a model file, in order: its builtin name and the index of its block, or None."""

    builtin: str
    block: int | None


class OperatorTime(Protocol):
    """A line of an operator profile: microseconds in one run of the network. The records that agents report fit.

    Attributes:
        tag: the runtime's name of the operator.
        avg_us: the average; on a busy machine far above the typical time.
        median_us: over runs, whole microseconds; None if the profile has no median.
    """

    @property
    def tag(self) -> str: ...

    @property
    def avg_us(self) -> float: ...

    @property
    def median_us(self) -> float | None: ...


def typical_us(op: OperatorTime) -> float:
    """The average, but at most half a microsecond above the median, against a few disturbed runs."""
    return op.avg_us if op.median_us is None else min(op.avg_us, op.median_us + 0.5)


@dataclass(frozen=True, slots=True)
class ProfiledModel:
    """A measured network as rows.

    Attributes:
        rows: one for each block, in order; with `overhead_ms` they sum to the network's p50.
        overhead_ms: time that belongs to no block.
        coverage: fraction (0 to 1) of the profiled time that was attributed to blocks.
        scale: the common factor applied last; far from 1 means that profile and latency disagree.
    """

    rows: tuple[BlockRow, ...]
    overhead_ms: float
    coverage: float
    scale: float


def profile_to_rows(
    arch: Arch, profile: Sequence[OperatorTime], file_ops: Sequence[FileOp], p50_ms: float
) -> ProfiledModel:
    """Attribute a network's median latency to its blocks.

    Args:
        profile: of this network's file.
        file_ops: the operators of that file with their blocks, as the exporter gives them.
        p50_ms: unprofiled median, normalised; the sum of rows and overhead.

    Raises:
        PredictorError: profile and file do not match (the message names the tags without an operator), a block has no
            time, or the median is not positive.
    """
    if not p50_ms > 0:
        raise PredictorError(f"the network's median latency must be positive, got {p50_ms} ms")
    all_blocks = blocks(arch)
    owners = _owners(profile, file_ops, len(all_blocks))
    coverage = _coverage(profile, owners)
    times, scale = _fitted(profile, p50_ms * 1e3)
    sums = [0.0] * len(all_blocks)
    overhead_us = 0.0
    for owner, time_us in zip(owners, times, strict=True):
        if owner is None:
            overhead_us += time_us
        else:
            sums[owner] += time_us
    if empty := [block.key for i, block in enumerate(all_blocks) if i not in owners]:
        raise PredictorError(f"the operator profile has nothing of block {empty[0]}: it is not of this network's file")
    rows = tuple(BlockRow(arch.id, block, us / 1e3) for block, us in zip(all_blocks, sums, strict=True))
    return ProfiledModel(rows, overhead_us / 1e3, coverage, scale)


def _owners(profile: Sequence[OperatorTime], file_ops: Sequence[FileOp], n_blocks: int) -> list[int | None]:
    """The index of the block of every line of the operator profile, or None."""
    if any(op.block is not None and not 0 <= op.block < n_blocks for op in file_ops):
        raise PredictorError(f"the file's operators name blocks beyond the {n_blocks} of this architecture")
    places = align([op.tag for op in profile], [op.builtin for op in file_ops])
    return [None if place is None else file_ops[place].block for place in places]


def _coverage(profile: Sequence[OperatorTime], owners: Sequence[int | None]) -> float:
    total = sum(typical_us(op) for op in profile)
    lost = [(typical_us(op), op.tag) for op, owner in zip(profile, owners, strict=True) if owner is None]
    coverage = 1 - sum(us for us, _ in lost) / total if total > 0 else 0.0
    if coverage < SMALLEST_COVERAGE:
        worst = ", ".join(dict.fromkeys(repr(tag) for _, tag in sorted(lost, reverse=True)[:8]))
        raise PredictorError(
            f"only {coverage:.0%} of the profiled time belongs to known blocks, of at least {SMALLEST_COVERAGE:.0%};"
            f" no operator of the file was found for {worst or 'anything'}"
        )
    return coverage


def _fitted(profile: Sequence[OperatorTime], target_us: float) -> tuple[list[float], float]:
    """Times that sum to the target, and the common factor applied after restoring rounded-off times."""
    free = [op.tag.lower().startswith(_FREE) for op in profile]
    read = [
        typical_us(op) if is_free else max(typical_us(op), _LEAST_US) for op, is_free in zip(profile, free, strict=True)
    ]
    long = [us >= 1 for us in read]
    missing = max(target_us - sum(read), 0.0)
    half = min(0.5, missing / max(sum(long), 1))
    short = sum(not is_long and not is_free for is_long, is_free in zip(long, free, strict=True))
    share = min((missing - half * sum(long)) / max(short, 1), 1.0)
    times = [
        us + (half if is_long else 0.0 if is_free else max(min(share, 1 - us), 0.0))
        for us, is_long, is_free in zip(read, long, free, strict=True)
    ]
    scale = target_us / sum(times)
    return [us * scale for us in times], scale
