"""What a set does not use: counted by reason, with the names of the first few."""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import PurePath

NAMED = 3
"""Names that a report gives for each reason."""


class LeftOut:
    """Counts files, rows and images that a set does not use. Each `reason` is a plural, as in "hidden images"."""

    def __init__(self) -> None:
        self._counts = Counter[str]()
        self._names: dict[str, list[str]] = {}

    def add(self, reason: str, name: str, count: int = 1) -> None:
        """Count `count` more, of which `name` is one."""
        self._counts[reason] += count
        names = self._names.setdefault(reason, [])
        if len(names) < NAMED:
            names.append(name)

    def update(self, more: "LeftOut") -> None:
        """Add the counts of another."""
        self._counts.update(more._counts)
        for reason, names in more._names.items():
            self._names[reason] = [*self._names.get(reason, []), *names][:NAMED]

    def sentence(self) -> str | None:
        """As in "not used: files ending in .heic: 24 (cat/a.heic, cat/b.heic, ...)"; None if all is used."""
        if not self._counts:
            return None
        parts = [f"{reason}: {count:,} ({self._examples(reason)})" for reason, count in self._counts.most_common()]
        return f"not used: {'; '.join(parts)}"

    def _examples(self, reason: str) -> str:
        names = self._names[reason]
        return ", ".join(names) + (", ..." if self._counts[reason] > len(names) else "")


def by_ending(name: str) -> str:
    """The reason for a file whose ending is not one of an image."""
    ending = PurePath(name).suffix.lower()
    return f"files ending in {printable(ending)}" if ending else "files without an ending"


def printable(name: str | PurePath) -> str:
    """A file name for messages: bytes that are not UTF-8 become escapes, as in `caf\\xe9`."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def listed(names: Sequence[str | PurePath], shown: int = 3) -> str:
    """The first names, and the number of the others, for messages."""
    first = ", ".join(map(printable, names[:shown]))
    return first + (f" and {len(names) - shown} more" if len(names) > shown else "")
