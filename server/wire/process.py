"""Parent and child processes: how a child ends with its parent, and how one ended; for the service and for agents."""

from __future__ import annotations

import ctypes
import os
import signal

# prctl(2): the kernel sends this process a signal when the thread that started it ends.
PR_SET_PDEATHSIG = 1
NOTICE = signal.SIGUSR2
GRACE_SECONDS = 10
# Exit statuses, as in sysexits.h: a part of the process is dead or hung; what it needs is away for now.
PART_FAILED, TRY_AGAIN = 70, 75


def exit_with_parent() -> None:
    """Stop this process by SIGTERM as soon as its parent is gone, and end it GRACE_SECONDS later if it still runs.

    Call it early in the main thread; SIGUSR2 and the alarm clock belong to it from then on. The parent may end threads:
    the signal of a thread that ended while its process goes on is ignored. Raises OSError if the kernel refuses.
    """
    parent = os.getppid()

    def stop_if_orphaned(*_: object) -> None:
        if os.getppid() != parent:
            signal.alarm(GRACE_SECONDS)  # not handled, so that it ends the process whatever it is doing
            os.kill(os.getpid(), signal.SIGTERM)

    signal.signal(NOTICE, stop_if_orphaned)
    send_notice_at_parents_end()


def send_notice_at_parents_end() -> None:
    """Have the kernel send NOTICE when the thread that started this process ends, perhaps with its process.

    One is sent at once, because the parent may have ended before the kernel was asked: handle NOTICE before, and look
    whether the parent is still the same. Raises OSError if the kernel refuses.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, int(NOTICE), 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    os.kill(os.getpid(), NOTICE)


def exit_text(returncode: int) -> str:
    """How a process ended, from its return code as of subprocess: the name or number of a signal, or a status."""
    if returncode >= 0:
        return f"status {returncode}"
    try:
        return f"signal {signal.Signals(-returncode).name}"
    except ValueError:  # a real-time signal between SIGRTMIN and SIGRTMAX has no name
        return f"signal {-returncode}"
