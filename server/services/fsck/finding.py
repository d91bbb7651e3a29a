"""What a check found."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """Something that is wrong, what is lost by it, and what to do.

    A remark is nothing wrong: what a killed process left, or what was set aside.
    """

    what: str
    do: str
    is_remark: bool = False

    def __str__(self) -> str:
        return f"{self.what}. {self.do}"
