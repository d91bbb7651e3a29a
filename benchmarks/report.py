"""Formatting of figures: requirements with their results, and shares as bars."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Literal

from elasticvit.processor import processor_names

_BAR = 40


@dataclass(frozen=True, slots=True)
class Requirement:
    """A figure and its requirement: `at least`, `above` or `at most` the bound. A goal may be missed."""

    name: str
    value: float
    relation: Literal["at least", "above", "at most"]
    bound: float
    goal: bool = False

    @property
    def met(self) -> bool:
        if self.relation == "at least":
            return self.value >= self.bound
        return self.value > self.bound if self.relation == "above" else self.value <= self.bound

    def figure(self) -> dict[str, object]:
        """For JSON: the value is rounded, `met` is of the value as measured."""
        return {**asdict(self), "value": round(self.value, 3), "met": self.met}


def bars(amounts: Mapping[str, float], unit: str) -> list[str]:
    """A line for each amount, largest first: name, amount, share of the sum and a bar of that length."""
    total = sum(amounts.values())
    width = max(map(len, amounts))
    lines = []
    for name, amount in sorted(amounts.items(), key=lambda item: -item[1]):
        share = amount / total if total else 0.0
        lines.append(f"{name:<{width}} {amount:9.1f} {unit} {100 * share:5.1f} % {'#' * round(_BAR * share)}".rstrip())
    return lines


def processor() -> str:
    """The processor's name from the kernel; ratios between networks depend on the processor."""
    names = processor_names()
    return f"{names[0]}, {len(names)} cores" if names else "unknown"
