"""What a process may do after the launcher: with programs of the system in place of the benchmark."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from device_agent.sandbox import landlock
from device_agent.sandbox.choice import choose
from device_agent.sandbox.command import Files, Sandbox, User, launch_command
from device_agent.sandbox.launch import EXIT_LAUNCH
from device_agent.sandbox.plan import Limits
from tests.device_agent.agent_farm import is_running, wait_until

LIMITS = Limits(memory_bytes=10**9, cpu_seconds=60, file_bytes=10**6, files=64, processes=None)
NOBODY = User(65534, 65534)
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "work"
    path.mkdir()
    return path


def sandboxes() -> list[Sandbox]:
    """Those that this machine can have."""
    programs = (Path("/bin/true").resolve(), Path("/bin/true").resolve())
    kinds: list[Files] = ["landlock"] if landlock.version() else []
    found = choose("auto", "", 10**9, *programs, Path("/tmp"))
    kinds += ["bubblewrap"] if found.sandbox.files == "bubblewrap" or _bubblewrap_works() else []
    users = [None, NOBODY] if os.geteuid() == 0 else [None]
    return [Sandbox(10**9, kind, user) for kind in kinds for user in users if kind == "landlock" or user is None]


def _bubblewrap_works() -> bool:
    try:
        return subprocess.run(["bwrap", "--ro-bind", "/", "/", "true"], check=False, timeout=20).returncode == 0
    except OSError:
        return False


def run(sandbox: Sandbox, command: Sequence[str], folder: Path, *files: Path) -> subprocess.CompletedProcess[str]:
    """A folder is given to one process; here it serves for several."""
    for file in files:
        (folder / file.name).unlink(missing_ok=True)
    sandbox.give(folder)
    program = str(Path(command[0]).resolve())
    launched = launch_command(sandbox, [program, *command[1:]], str(folder), [program, *map(str, files)], LIMITS)
    return subprocess.run(launched, capture_output=True, text=True, check=False, timeout=60)


every_sandbox = pytest.mark.parametrize("sandbox", sandboxes(), ids=lambda sandbox: sandbox.summary)


@pytest.mark.medium
@every_sandbox
def test_only_named_files_can_be_read(sandbox: Sandbox, folder: Path, tmp_path: Path) -> None:
    model, token = tmp_path / "model", tmp_path / "token"
    model.write_text("a model")
    token.write_text("a secret")
    assert run(sandbox, ["/bin/cat", str(model)], folder, model).stdout == "a model"
    refused = run(sandbox, ["/bin/cat", str(model), str(token)], folder, model)
    assert refused.returncode == 1 and "a secret" not in refused.stdout + refused.stderr
    environment = run(sandbox, ["/bin/cat", f"/proc/{os.getpid()}/environ"], folder)
    assert environment.returncode == 1 and environment.stdout == ""


@pytest.mark.medium
@every_sandbox
def test_only_the_folder_can_be_written(sandbox: Sandbox, folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir(mode=0o777)
    other.chmod(0o777)
    words = f"echo 1 > here; cat here; rm here; echo 2 > again; echo 3 > {other}/there"
    ended = run(sandbox, ["/bin/sh", "-c", words.replace("cat here", "read x < here; echo $x")], folder)
    assert ended.stdout == "1\n" and ended.returncode != 0
    assert (folder / "again").read_text() == "2\n" and list(other.iterdir()) == []


@pytest.mark.medium
@every_sandbox
def test_no_connection_leaves_it(sandbox: Sandbox, folder: Path) -> None:
    if sandbox.files == "landlock" and landlock.version() < 4:
        pytest.skip("this kernel's Landlock knows no network")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0)
        connect = ["/bin/bash", "-c", f"echo > /dev/tcp/127.0.0.1/{listener.getsockname()[1]}"]
        assert run(sandbox, connect, folder).returncode != 0
        with pytest.raises(BlockingIOError):
            listener.accept()
        assert run(Sandbox(10**9), connect, folder).returncode == 0
        listener.accept()[0].close()


@pytest.mark.medium
def test_the_limits_hold(folder: Path) -> None:
    words = "ulimit -v; ulimit -c; ulimit -n; ulimit -t; read score < /proc/self/oom_score_adj; echo $score"
    ended = run(Sandbox(10**9), ["/bin/sh", "-c", words], folder)
    assert ended.stdout.split() == [str(10**9 // 1024), "0", "64", "60", "1000"]
    status = run(Sandbox(10**9), ["/bin/cat", "/proc/self/status"], folder).stdout
    assert "NoNewPrivs:\t1" in status


@pytest.mark.medium
def test_a_file_that_grows_too_large_ends_it(folder: Path) -> None:
    ended = run(Sandbox(10**9), ["/bin/dd", "if=/dev/zero", "of=large", "bs=1M", "count=2"], folder)
    assert ended.returncode == -25  # SIGXFSZ, which Python itself ignores
    assert (folder / "large").stat().st_size == 10**6


@pytest.mark.medium
@as_root
def test_another_user_reads_what_lies_in_a_private_folder(folder: Path, tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    model = tmp_path / "model"
    model.write_text("a model")
    model.chmod(0o600)
    sandbox = Sandbox(10**9, "none", NOBODY)
    assert run(sandbox, ["/bin/cat", str(model)], folder, model).returncode == 1
    sandbox.let_read(model)
    assert run(sandbox, ["/bin/cat", str(model)], folder, model).stdout == "a model"
    assert run(sandbox, ["/usr/bin/id", "-u"], folder).stdout == "65534\n"
    assert run(sandbox, ["/usr/bin/id", "-G"], folder).stdout == "65534\n"


@pytest.mark.medium
def test_what_does_not_start_says_why(folder: Path) -> None:
    ended = run(Sandbox(10**9), ["/nowhere/program"], folder)
    assert ended.returncode == EXIT_LAUNCH
    assert ended.stderr.startswith("sandbox: error: ") and "/nowhere/program" in ended.stderr


@pytest.mark.medium
def test_it_ends_with_the_agent(folder: Path) -> None:
    code = (
        "import subprocess, sys\n"
        "from tests.device_agent.sandbox.test_sandbox_launch import LIMITS, Sandbox, launch_command\n"
        "command = launch_command(Sandbox(10**9), ['/bin/sleep', '600'], sys.argv[1], [], LIMITS)\n"
        "print(subprocess.Popen(command).pid, flush=True)\n"
        "sys.stdin.read()\n"
    )
    agent = subprocess.Popen(
        [sys.executable, "-c", code, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert agent.stdout is not None
    pid = int(agent.stdout.readline())
    wait_until("the program", lambda: b"sleep" in Path(f"/proc/{pid}/cmdline").read_bytes())
    agent.kill()
    agent.communicate()
    wait_until("its end", lambda: not is_running(pid))
