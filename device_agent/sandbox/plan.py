"""What the launcher is given, as words of its command line."""

from __future__ import annotations

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

    def words(self) -> list[str]:
        """NAME=VALUE for what is set, then "--" and the command: the launcher reads that without any module."""
        values = {"folder": self.folder, "parent": self.parent, "user": self.user, "group": self.group}
        values |= {"landlock": 1 if self.landlock else None, **asdict(self.limits)}
        words = [f"{name}={value}" for name, value in values.items() if value is not None]
        return [*words, *(f"file={path}" for path in self.files), "--", *self.command]
