"""Which parts of a sandbox this machine has: found once at the start of the agent, by trying."""

from __future__ import annotations

import os
import pwd
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from device_agent.errors import SettingsError
from device_agent.sandbox import bubblewrap, landlock
from device_agent.sandbox.command import Sandbox, User, launch_command
from device_agent.sandbox.plan import Limits

Mode = Literal["auto", "required", "off"]
CHECK_SECONDS = 20
_CHECK_LIMITS = Limits(1 << 30, cpu_seconds=CHECK_SECONDS, file_bytes=1 << 20, files=64, processes=None)


@dataclass(frozen=True)
class Choice:
    """The sandbox to use, and why it has not all parts (empty if it has)."""

    sandbox: Sandbox
    gaps: tuple[str, ...]


def choose(mode: Mode, user_name: str, memory_bytes: int, program: Path, library: Path, work: Path) -> Choice:
    """The strongest sandbox in which `program --version` runs here.

    Raises SettingsError if `mode` is "required" and no part keeps the files of others from it, or if there is no such
    user.
    """
    if mode == "off":
        return Choice(Sandbox(memory_bytes), ("files: ELASTICVIT_AGENT_SANDBOX is off",))
    gaps: list[str] = []
    user = _user(user_name, library, gaps)
    for candidate in _candidates(memory_bytes, user, gaps):
        problem = _problem(candidate, program, library, work)
        if problem is None:
            break
        gaps.append(f"{candidate.summary}: {problem}")
    else:
        candidate = Sandbox(memory_bytes)
    if mode == "required" and candidate.files == "none":
        raise SettingsError(
            f"ELASTICVIT_AGENT_SANDBOX is 'required' and this machine has none ({'; '.join(gaps)}): use a kernel with "
            "Landlock, install bubblewrap, or set it to 'auto'"
        )
    return Choice(candidate, tuple(gaps))


def _candidates(memory_bytes: int, user: User | None, gaps: list[str]) -> Iterator[Sandbox]:
    """The strongest first."""
    if landlock.version():
        if user is not None:
            yield Sandbox(memory_bytes, "landlock", user)
        yield Sandbox(memory_bytes, "landlock")
    else:
        gaps.append("landlock: the kernel has none")
    if bubblewrap.program():
        yield Sandbox(memory_bytes, "bubblewrap")
    else:
        gaps.append("bubblewrap: it is not installed")
    if user is not None:
        yield Sandbox(memory_bytes, "none", user)


def _user(name: str, library: Path, gaps: list[str]) -> User | None:
    """The user that benchmarks run as, None to stay the agent's."""
    if os.geteuid() != 0 or not name:
        return None
    try:
        entry = pwd.getpwuid(int(name)) if name.isdigit() else pwd.getpwnam(name)
        user = User(entry.pw_uid, entry.pw_gid)
    except KeyError:
        if not name.isdigit():
            raise SettingsError(
                f"there is no user '{name}': name one in ELASTICVIT_AGENT_BENCH_USER, or leave it empty"
            ) from None
        user = User(int(name), int(name))
    if not library.stat().st_mode & 0o004:
        gaps.append(f"user: {library} may not be read by others")
        return None
    return user if user.uid != 0 else None


def _problem(sandbox: Sandbox, program: Path, library: Path, work: Path) -> str | None:
    """Why a sandbox cannot be used here, None if it can."""
    with tempfile.TemporaryDirectory(prefix="check-", dir=work) as folder:
        sandbox.give(Path(folder))
        files = [str(program), str(library)]
        command = launch_command(sandbox, [str(program), "--version"], folder, files, _CHECK_LIMITS)
        return _failure(command)


def _failure(command: Sequence[str]) -> str | None:
    try:
        ended = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=CHECK_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if ended.returncode == 0:
        return None
    lines = ended.stderr.decode(errors="replace").strip().splitlines()
    return lines[-1][:300] if lines else f"status {ended.returncode}"
