"""Who may read a home folder: its user alone, or with ELASTICVIT_SHARE_HOME its group too; tokens only ever its user.

Modes that are wider are mended at every start: older versions made files that everybody could read.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from server.settings import Settings

TOKENS = ("admin.token*", "agents/*/agent.token*")
FILES = ("farm.db", "farm.db-*", "farm.db.before-*", "logs/*")


@dataclass(frozen=True)
class Wide:
    """A path that more users may read or write than should."""

    path: Path
    mode: int
    private: int

    def __str__(self) -> str:
        return f"{self.path} had mode {self.mode:04o}, which lets other users of this machine in"


def too_wide(settings: Settings) -> Iterator[Wide]:
    """What is not private in a home folder. A folder for everybody, such as /tmp, is left as it is."""
    group = 0o770 if settings.share_home else 0o700
    for path, allowed in _allowed(settings.home, group):
        try:
            mode = stat.S_IMODE(path.lstat().st_mode)
            if path.is_symlink() or mode & stat.S_ISVTX or path.is_dir() != (path == settings.home):
                continue
        except OSError:
            continue  # gone meanwhile
        if mode & 0o777 & ~allowed:
            yield Wide(path, mode, mode & ~0o777 | mode & allowed)


def mend(settings: Settings) -> list[str]:
    """Take the rights away; returns a sentence for each path."""
    sentences = []
    for wide in too_wide(settings):
        try:
            wide.path.chmod(wide.private)
            sentences.append(f"{wide}: it is now {wide.private:04o}")
        except OSError as error:
            sentences.append(f"{wide}, and that cannot be changed ({error.strerror}): let its owner do so")
    return sentences


def _allowed(home: Path, group: int) -> Iterator[tuple[Path, int]]:
    """Paths with the rights that they may have at most."""
    yield home, group
    for pattern in TOKENS:
        yield from ((path, 0o600) for path in home.glob(pattern))
    for pattern in FILES:
        yield from ((path, group & 0o666) for path in home.glob(pattern))
