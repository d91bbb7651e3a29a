"""Which sandbox is used where, and how much memory a benchmark gets."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from device_agent.errors import SettingsError
from device_agent.sandbox import bubblewrap, landlock
from device_agent.sandbox.choice import Choice, Mode, choose
from device_agent.sandbox.memory import MOST_BYTES, default_limit_bytes, oom_kills

GIGABYTE = 1 << 30
TRUE = Path("/bin/true").resolve()  # knows --version


def choice(work: Path, mode: Mode = "auto", user: str = "", program: Path = TRUE) -> Choice:
    return choose(mode, user, GIGABYTE, program, TRUE, work)


@pytest.fixture
def no_landlock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(landlock, "version", lambda: 0)


@pytest.fixture
def no_bubblewrap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bubblewrap, "program", lambda: None)


@pytest.mark.medium
@pytest.mark.skipif(not landlock.version(), reason="this kernel has no Landlock")
def test_the_strongest_that_works_is_used(tmp_path: Path) -> None:
    user = "nobody" if os.geteuid() == 0 else ""
    found = choice(tmp_path, user=user)
    assert found.sandbox.summary == ("landlock+user+rlimits" if user else "landlock+rlimits")
    assert found.gaps == () and list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("no_landlock", "no_bubblewrap")
def test_what_is_missing_is_told(tmp_path: Path) -> None:
    found = choice(tmp_path)
    assert found.sandbox.summary == "rlimits"
    assert found.gaps == ("landlock: the kernel has none", "bubblewrap: it is not installed")
    with pytest.raises(SettingsError, match=r"'required'.*bubblewrap"):
        choice(tmp_path, mode="required")


@pytest.mark.medium
def test_a_program_that_does_not_run_in_it_runs_without(tmp_path: Path) -> None:
    found = choice(tmp_path, program=Path("/bin/false").resolve())
    assert found.sandbox.summary == "rlimits" and found.gaps != ()


def test_it_can_be_switched_off(tmp_path: Path) -> None:
    assert choice(tmp_path, mode="off", user="nobody").sandbox.summary == "rlimits"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_an_unknown_user_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="ELASTICVIT_AGENT_BENCH_USER"):
        choice(tmp_path, user="no-such-user")


def machine(folder: Path, groups: str, **limits: str) -> tuple[Path, Path]:
    """A /proc and a /sys/fs/cgroup, of a machine of 8 GB."""
    proc, cgroups = folder / "proc", folder / "cgroup"
    (proc / "self").mkdir(parents=True)
    (proc / "meminfo").write_text(f"MemTotal:       {8 * GIGABYTE // 1024} kB\nMemFree: 1 kB\n")
    (proc / "self/cgroup").write_text(groups)
    for path, value in limits.items():
        file = cgroups / path.replace("__", "/").replace("DOT", ".")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(value + "\n")
    return proc, cgroups


@pytest.mark.parametrize(
    ("groups", "limits", "expected"),
    [
        ("", {}, MOST_BYTES),
        ("0::/a/b\n", {"a__memoryDOTmax": str(2 * GIGABYTE), "a__b__memoryDOTmax": "max"}, GIGABYTE),
        ("0::/\n", {"memoryDOTmax": str(2 * GIGABYTE)}, GIGABYTE),
        ("4:memory:/a\n0::/\n", {"memory__a__memoryDOTlimit_in_bytes": str(2 * GIGABYTE)}, GIGABYTE),
        ("4:memory:/not/seen\n", {"memory__memoryDOTlimit_in_bytes": str(2 * GIGABYTE)}, GIGABYTE),
        ("4:memory:/a\n", {"memory__a__memoryDOTlimit_in_bytes": "9223372036854771712"}, MOST_BYTES),
    ],
)
def test_memory_is_at_most_half(tmp_path: Path, groups: str, limits: dict[str, str], expected: int) -> None:
    assert default_limit_bytes(*machine(tmp_path, groups, **limits)) == expected


def test_kills_for_want_of_memory_are_counted(tmp_path: Path) -> None:
    assert oom_kills(tmp_path) is None
    (tmp_path / "vmstat").write_text("oom_kill_disable 1\noom_kill 7\n")
    assert oom_kills(tmp_path) == 7
