"""Memory banks: good sub-networks of a level, with the scores they had (paper, section 4.2)."""

import math
from collections.abc import Sequence

import numpy as np

from elasticvit.training.sampling.settings import Bank
from elasticvit.training.sampling.state import Entry


def capacity_of(bank: Bank, target: float) -> int:
    """How many sub-networks the bank of a level holds, by where the level begins (millions)."""
    return bank.capacity if target < bank.large_from else bank.capacity_large


def exploit_chance(bank: Bank, epoch: int) -> float:
    """q in an epoch (from 0): it rises at the start of the last epoch of every `q_every`, as in the authors' code."""
    return min(1.0, bank.q + bank.q_step * ((epoch + 1) // bank.q_every))


def may_exploit(entries: Sequence[Entry], capacity: int) -> bool:
    """Whether a bank is more than half full."""
    return len(entries) > capacity // 2


def draw(entries: Sequence[Entry], bank: Bank, rng: np.random.Generator) -> Entry:
    """One of a bank's sub-networks, as `bank.draw` says."""
    if bank.draw == "best":
        return best(entries)
    if bank.draw == "uniform":
        return entries[int(rng.integers(len(entries)))]
    scores = np.array([entry.score for entry in entries])
    chances = np.exp(scores - scores.max())
    return entries[int(rng.choice(len(entries), p=chances / chances.sum()))]


def best(entries: Sequence[Entry]) -> Entry:
    """The sub-network with the highest score; the earliest of several."""
    return max(entries, key=lambda entry: entry.score)


def insert(entries: list[Entry], new: Entry, capacity: int) -> bool:
    """Add a sub-network to a bank, or put it in the place of the worst if it is better; whether the bank changed.

    One that is there already only gets its newer score. A score that is no finite number is not taken.
    """
    if not math.isfinite(new.score):
        return False
    for entry in entries:
        if entry.code == new.code:
            entry.score = new.score
            return True
    if len(entries) < capacity:
        entries.append(new)
        return True
    worst = min(range(len(entries)), key=lambda i: entries[i].score)
    if new.score <= entries[worst].score:
        return False
    entries[worst] = new
    return True


def rescore(entries: list[Entry], scores: Sequence[float]) -> None:
    """Give every sub-network its newly measured score; one without a finite score leaves the bank."""
    for entry, score in zip(entries, scores, strict=True):
        entry.score = float(score)
    entries[:] = [entry for entry in entries if math.isfinite(entry.score)]
