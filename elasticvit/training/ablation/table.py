"""A table in Markdown, and how its numbers are written."""

from dataclasses import dataclass

from elasticvit.training.ablation.statistics import Mean


@dataclass(frozen=True)
class Table:
    """A titled Markdown table."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def __str__(self) -> str:
        lines = [self.head, tuple("---" for _ in self.head), *self.rows]
        return f"**{self.title}**\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines)


def shown(mean: Mean, digits: int = 1, sign: bool = False) -> str:
    """A mean with its 95 % interval; one value alone has none."""
    value = f"{mean.value:{'+' if sign else ''}.{digits}f}".replace("-", "−")
    return value if mean.n == 1 else f"{value} ± {mean.half:.{digits}f}"
