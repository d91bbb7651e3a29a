"""Finished reports on disk until the server has them: nothing measured is lost when server or agent go away."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import structlog
from pydantic import ValidationError

from device_agent.errors import Refused, StaleLease
from device_agent.files import remove_parts, write_whole
from server.wire import Failure, Report, Reported

log = structlog.get_logger()

Send = Callable[[Report], Reported]


class Spool:
    """One file a report, sent in the order in which they were put; shared by all devices of an agent."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        remove_parts(folder)

    def put(self, report: Report) -> None:
        """Keep a report until it is delivered. Raises OSError where the disk does not take it."""
        with self._lock:
            number = max((int(path.stem) for path in self._waiting()), default=0) + 1
            write_whole(self._folder / f"{number:08d}.json", report.model_dump_json().encode())

    def flush(self, send: Send) -> None:
        """Send what waits, oldest first; stops at the first that cannot go now. Raises what `send` raises for that.

        A stale report is dropped; a refused one is set aside, and the server is told so in its place, so that the job
        does not wait for it. A file that cannot be read is set aside.
        """
        with self._lock:
            for path in self._waiting():
                report = _read(path)
                if report is not None:
                    _deliver(path, report, send)

    def _waiting(self) -> list[Path]:
        return sorted(path for path in self._folder.glob("*.json") if path.stem.isascii() and path.stem.isdigit())


def _read(path: Path) -> Report | None:
    try:
        return Report.model_validate_json(path.read_bytes())
    except (ValidationError, OSError) as error:
        aside = _set_aside(path, "corrupt")
        log.error("a spooled report cannot be read and is set aside", file=str(aside), error=str(error)[:300])
        return None


def _deliver(path: Path, report: Report, send: Send) -> None:
    try:
        reported = send(report)
    except StaleLease as error:
        log.warning("a report came too late and is dropped", lease=report.lease_id, reason=str(error))
    except Refused as error:
        _tell_refused(path, report, send, str(error))
        return
    else:
        log.info("report delivered", lease=report.lease_id, job=reported.job_id, status=reported.status.value)
    path.unlink(missing_ok=True)


def _tell_refused(path: Path, report: Report, send: Send, reason: str) -> None:
    failure = Failure(kind="infra", detail=f"the server refused the agent's report: {reason}"[:4000])
    instead = Report(lease_id=report.lease_id, attempt=report.attempt, outcome="failed", failure=failure)
    try:
        send(instead)
    except (StaleLease, Refused) as error:
        log.warning("the server does not want to hear of it either", lease=report.lease_id, reason=str(error))
    aside = _set_aside(path, "refused")
    log.error("the server refused a report; it is set aside", file=str(aside), reason=reason)


def _set_aside(path: Path, why: str) -> Path:
    """Give a file a name that is free and that the spool does not look at."""
    number = 0
    while (aside := path.with_name(f"{path.stem}-{number}.{why}")).exists():
        number += 1
    return path.rename(aside)
