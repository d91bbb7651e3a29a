"""A worker says that it is alive, so that /readyz sees one that is stopped or stuck, on whatever machine."""

from __future__ import annotations

import threading

import structlog

from server.compute.task import Compute
from server.services import presence
from server.wire.liveness import Pulse

log = structlog.get_logger()
WRITE_SECONDS = 300.0


def mark_presence(compute: Compute, stop: threading.Event, pulse: Pulse) -> None:
    """Until `stop`, every `heartbeat_seconds`."""
    me, failed = presence.Member.of_this_process("worker"), False
    while not stop.is_set():
        pulse.within(compute.settings.heartbeat_seconds + WRITE_SECONDS)
        try:
            with compute.database.write() as session:
                presence.mark(session, me, compute.clock())
            failed = False
        except Exception:  # the next time may succeed
            if not failed:
                log.exception("cannot tell that this worker is alive; trying again")
            failed = True
        stop.wait(compute.settings.heartbeat_seconds)
