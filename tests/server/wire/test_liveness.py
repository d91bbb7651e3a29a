"""A thread that is dead or hung ends its process, which names it; one that works on, or is over, does not."""

from __future__ import annotations

import math
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from server.wire.liveness import Liveness, Pulse, Watchdog
from server.wire.process import PART_FAILED

PATIENCE_SECONDS = 30.0


def test_a_pulse_that_is_late_is_named() -> None:
    liveness = Liveness()
    slow, calm, over = (liveness.pulse(name) for name in ("slow", "calm", "over"))
    calm.within(math.inf)
    with over:
        pass
    over.within(-1)
    slow.within(1000)
    assert liveness.wrong() == []
    slow.within(-5)
    assert liveness.wrong() == ["slow is 5 s late"]
    liveness.add_seconds(60)
    assert liveness.wrong() == [], "the process was stopped meanwhile"


def test_a_thread_that_died_is_named_with_its_error_and_one_that_returned_is_not() -> None:
    liveness = Liveness()

    def die(_pulse: Pulse) -> None:
        raise KeyError("x")

    threads = [liveness.thread("dies", die), liveness.thread("returns", lambda _pulse: None)]
    for thread in threads:
        thread.start()
        thread.join()
    assert liveness.wrong() == ["dies died of KeyError: 'x'"]


def test_the_watchdog_ends_the_process_once() -> None:
    liveness, ended = Liveness(), threading.Event()
    watchdog = Watchdog(liveness, ended.set)
    watchdog.start()
    assert not ended.wait(0.1)
    liveness.pulse("slow", within_seconds=-1)
    assert ended.wait(PATIENCE_SECONDS)


@pytest.mark.medium
def test_a_health_check_sees_the_file_of_a_process_that_works_grow_old_when_it_does_not(tmp_path: Path) -> None:
    liveness, ended, alive = Liveness(), threading.Event(), tmp_path / "alive"
    watchdog = Watchdog(liveness, ended.set, alive)
    watchdog.start()
    deadline_s = time.monotonic() + PATIENCE_SECONDS
    while not alive.exists():
        assert time.monotonic() < deadline_s
        time.sleep(0.05)
    liveness.pulse("slow", within_seconds=-1)
    assert ended.wait(PATIENCE_SECONDS)
    touched_ns = alive.stat().st_mtime_ns
    time.sleep(1.5)
    assert alive.stat().st_mtime_ns == touched_ns


@pytest.mark.medium
@pytest.mark.parametrize("fault", ["raise RuntimeError('no luck')", "pulse.within(0.1); time.sleep(600)"])
def test_a_process_with_a_dead_or_hung_thread_ends_with_a_line_that_names_it(fault: str) -> None:
    code = (
        "import time; from server import logs; from server.wire.liveness import Liveness, Watchdog\n"
        f"def work(pulse): {fault}\n"
        "logs.configure('info'); liveness = Liveness(); liveness.thread('the sweeper', work).start()\n"
        "Watchdog(liveness).start(); time.sleep(600)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False
    )
    assert ended.returncode == PART_FAILED
    assert "a part of it is dead or hung" in ended.stderr and "the sweeper" in ended.stderr
