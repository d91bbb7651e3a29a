"""The command that starts another one inside a sandbox."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from device_agent.sandbox import bubblewrap
from device_agent.sandbox.plan import Limits, Plan

Files = Literal["landlock", "bubblewrap", "none"]
# Isolated and without site-packages: a start costs some 20 ms. The package itself is found by the path that is given.
_START = (
    "import sys; sys.path.append(sys.argv[1]); "
    "from device_agent.sandbox.launch import main; sys.exit(main(sys.argv[2:]))"
)
_ROOT = str(Path(__file__).resolve().parents[2])
# Nothing else of the agent's environment is passed on: it may hold tokens.
_PASSED = ("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "TZ")


@dataclass(frozen=True)
class User:
    uid: int
    gid: int


@dataclass(frozen=True)
class Sandbox:
    """What keeps a benchmark from the files of others, its user (None: the agent's), and its memory."""

    memory_bytes: int
    files: Files = "none"
    user: User | None = None

    @property
    def summary(self) -> str:
        """Such as `landlock+user+rlimits`."""
        parts = [self.files] if self.files != "none" else []
        return "+".join([*parts, *(["user"] if self.user else []), "rlimits"])

    def give(self, folder: Path) -> None:
        """Let the benchmark write in a folder of the agent. Raises OSError."""
        if self.user is not None:
            os.chown(folder, self.user.uid, self.user.gid)

    def let_read(self, file: Path) -> None:
        """Let the benchmark read a file of the agent; the folders above it still keep others out. Raises OSError."""
        if self.user is not None and not (mode := file.stat().st_mode) & 0o004:
            file.chmod(mode | 0o004)


def launch_command(
    sandbox: Sandbox, command: Sequence[str], folder: str, files: Sequence[str], limits: Limits
) -> list[str]:
    """`command` in `folder`, where alone it may write; `files` are program, library and model. It ends with the
    process that calls this."""
    words = list(command)
    if sandbox.files == "bubblewrap" and (bwrap := bubblewrap.program()):
        words = bubblewrap.wrapped(bwrap, command, folder, files)
    plan = Plan(
        command=tuple(words),
        folder=folder,
        files=tuple(files),
        parent=os.getpid(),
        limits=limits,
        landlock=sandbox.files == "landlock",
        user=sandbox.user.uid if sandbox.user else None,
        group=sandbox.user.gid if sandbox.user else None,
    )
    return [sys.executable, "-I", "-S", "-c", _START, _ROOT, *plan.words()]


def environment() -> dict[str, str]:
    """What of the agent's environment a benchmark gets."""
    return {name: os.environ[name] for name in _PASSED if name in os.environ}
