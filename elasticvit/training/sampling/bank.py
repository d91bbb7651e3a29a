"""Memory banks: good sub-networks of a level with their scores (paper, section 4.2)."""

import math
from collections.abc import Sequence

import numpy as np

from elasticvit.training.sampling.settings import Bank
from elasticvit.training.sampling.state import Entry


def capacity_of(bank: Bank, target: float) -> int:
    """Capacity of the bank of a level, by the level's lower bound (millions)."""
    return bank.capacity if target < bank.large_from else bank.capacity_large


def exploit_chance(bank: Bank, epoch: int) -> float:
    """q in an epoch (from 0): it rises at the start of the last epoch of every `q_every`, as in the authors' code."""
    return min(1.0, bank.q + bank.q_step * ((epoch + 1) // bank.q_every))


def may_exploit(entries: Sequence[Entry], capacity: int) -> bool:
    """Whether a bank is more than half full."""
    return len(entries) > capacity // 2


def draw(entries: Sequence[Entry], bank: Bank, rng: np.random.Generator) -> Entry:
    """A sub-network sampled from a bank by the rule `bank.draw`."""
    if bank.draw == "best":
        return best(entries)
    if bank.draw == "uniform":
        return entries[int(rng.integers(len(entries)))]
    scores = np.array([entry.score for entry in entries])
    chances = np.exp(scores - scores.max())
    return entries[int(rng.choice(len(entries), p=chances / chances.sum()))]


def best(entries: Sequence[Entry]) -> Entry:
    """The sub-network with the highest score; the first of equals."""
    return max(entries, key=lambda entry: entry.score)


def insert(entries: list[Entry], new: Entry, capacity: int) -> bool:
    """Add a sub-network to a bank, or replace the worst one if it is better; returns whether the bank changed.

    A sub-network that is in the bank gets its new score. Scores that are not finite are ignored.
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
    """Set the new score of every sub-network; those without a finite score are removed."""
    for entry, score in zip(entries, scores, strict=True):
        entry.score = float(score)
    entries[:] = [entry for entry in entries if math.isfinite(entry.score)]
