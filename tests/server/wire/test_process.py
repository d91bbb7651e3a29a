"""A child ends with its parent process, and only with that."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from server.wire.process import exit_text
from tests.device_agent.agent_farm import is_running, wait_until

CHILD = (
    "import time; from server.wire.process import exit_with_parent; exit_with_parent(); print('on', flush=True); {then}"
)
# Starts the child in a thread that ends, then waits for a line or its own end.
PARENT = """
import subprocess, sys, threading
started = []
thread = threading.Thread(target=lambda: started.append(
    subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdout=subprocess.PIPE, text=True)))
thread.start()
thread.join()
child = started[0]
print(child.stdout.readline().strip(), child.pid, flush=True)
sys.stdin.read()
"""


def start(child: str) -> tuple[subprocess.Popen[str], int]:
    """The parent, and the pid of its child, which has called `exit_with_parent`."""
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, child], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    word, pid = parent.stdout.readline().split()
    assert word == "on"
    return parent, int(pid)


@pytest.mark.parametrize("signals", [signal.SIGKILL, signal.SIGTERM])
def test_a_child_ends_with_its_parent_and_not_with_a_thread_of_it(signals: signal.Signals) -> None:
    parent, pid = start(CHILD.format(then="time.sleep(600)"))
    assert is_running(pid), "the thread that started it has ended; the process has not"
    os.kill(pid, signal.SIGUSR2)  # what the kernel sends for the end of a thread
    os.kill(pid, 0)
    assert is_running(pid)
    parent.send_signal(signals)
    parent.communicate()
    wait_until("the end of the child", lambda: not is_running(pid))


@pytest.mark.medium
def test_a_child_that_ignores_sigterm_ends_all_the_same() -> None:
    then = "import signal; import server.wire.process; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
    early = CHILD.replace(
        "exit_with_parent();", "import server.wire.process; server.wire.process.GRACE_SECONDS = 1; exit_with_parent();"
    )
    parent, pid = start(early.format(then=then))
    parent.kill()
    parent.communicate()
    wait_until("the end of the child", lambda: not is_running(pid))


def test_the_text_of_how_a_process_ended() -> None:
    assert [exit_text(code) for code in (0, 3, -9, -40)] == ["status 0", "status 3", "signal SIGKILL", "signal 40"]


@pytest.mark.parametrize("number", sorted({*range(1, 65)} - {32, 33}))
def test_every_signal_has_a_text(number: int) -> None:
    names = {int(known): known.name for known in signal.Signals}
    assert exit_text(-number) == f"signal {names.get(number, number)}"
