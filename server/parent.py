"""A child that ends with its parent, so that a killed supervisor leaves no server, worker or agent behind."""

from __future__ import annotations

import os
import signal
import threading
import time

GRACE_SECONDS = 10.0


def exit_with_parent(poll_seconds: float = 0.5) -> None:
    """Watch in a thread: when the parent is gone, ask this process to stop, and end it if it does not."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(poll_seconds)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(GRACE_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, name="exit-with-parent", daemon=True).start()
