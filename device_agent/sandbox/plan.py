"""What the launcher is told, as one word of its command line."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Limits:
    """What one process may use. `memory_bytes` bounds its address space, `processes` all processes of its user."""

    memory_bytes: int
    cpu_seconds: int
    file_bytes: int
    files: int
    processes: int | None


@dataclass(frozen=True)
class Plan:
    """`command` runs in `folder`, the only place where it may write, and ends with the process `parent`.

    `files` are what it reads or runs besides the system's libraries: program, library, model. With `user` and `group`
    it runs as those, and gets descriptors of `files`, because that user may not enter the folders above.
    """

    command: tuple[str, ...]
    folder: str
    files: tuple[str, ...]
    parent: int
    limits: Limits
    landlock: bool
    user: int | None
    group: int | None

    def to_json(self) -> str:
        return json.dumps(asdict(self))


def plan_from_json(text: str) -> Plan:
    """Raises ValueError, KeyError, TypeError if the text is no plan."""
    values = json.loads(text)
    lists = {name: tuple(values[name]) for name in ("command", "files")}
    return Plan(**{**values, **lists, "limits": Limits(**values["limits"])})
