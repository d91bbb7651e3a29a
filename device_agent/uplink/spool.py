"""Finished reports on disk until the server has them: nothing measured is lost when the server or the agent dies."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog
from pydantic import ValidationError

from device_agent.errors import Refused, ServerFault, StaleLease
from device_agent.files import remove_parts, write_whole
from server.wire import MAX_DETAIL_CHARS, Failure, Report, Reported

log = structlog.get_logger()

Send = Callable[[Report], Reported]
# A report is set aside after this many server errors over this time: it would never be accepted.
MAX_FAULTS = 20
FAULT_SECONDS = 3600.0


@dataclass(frozen=True)
class Faults:
    """How often the server failed on a report, and when it first did, in seconds of the spool's clock."""

    count: int
    first_s: float


class Spool:
    """One file per report, sent in the order in which they were put; shared by all devices of an agent.

    While a report is being sent, other threads send the ones after it: no report waits for another one's answer.
    """

    def __init__(self, folder: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder = folder
        self._clock = clock
        self._lock = threading.Lock()  # for the fields below, never held while a file is written or sent
        self._written: set[int] = set()
        self._sent: set[Path] = set()
        self._faults: dict[Path, Faults] = {}
        remove_parts(folder)

    def put(self, report: Report) -> Path:
        """Keep a report until it is delivered, in the file that is returned. Raises OSError if it cannot be written."""
        number = self._reserve_number()
        path = self._folder / f"{number:08d}.json"
        try:
            write_whole(path, report.model_dump_json().encode())
        finally:
            with self._lock:
                self._written.discard(number)
        return path

    def flush(self, send: Send) -> None:
        """Send all reports that no other thread is sending, oldest first; stop at the first that cannot be sent now.

        A stale report is dropped. A refused one is set aside, and the job is reported as failed in its place, so that
        it does not wait. A file that cannot be read is set aside. A report on which the server fails does not hold up
        those after it; it is tried again, and set aside after `MAX_FAULTS` times over `FAULT_SECONDS`. Raises what
        `send` raises otherwise.
        """
        fault: ServerFault | None = None
        for path in self._waiting():
            with self._taken(path) as taken:
                report = _read(path) if taken and path.exists() else None
                if report is None:
                    continue
                try:
                    _deliver(path, report, send)
                    self._faults.pop(path, None)
                except ServerFault as error:
                    if not self._set_aside_if_hopeless(path, report, error):
                        fault = error
        if fault is not None:
            raise fault

    def _set_aside_if_hopeless(self, path: Path, report: Report, error: ServerFault) -> bool:
        """Count a failure of the server on a report; whether the report was set aside for it."""
        before = self._faults.get(path, Faults(0, self._clock()))
        faults = Faults(before.count + 1, before.first_s)
        if faults.count < MAX_FAULTS or self._clock() - faults.first_s < FAULT_SECONDS:
            self._faults[path] = faults
            return False
        self._faults.pop(path, None)
        aside = _set_aside(path, "failed")
        log.error(
            "the server fails on a report; it is set aside. Rename it to its number and .json to have it sent again",
            file=str(aside),
            lease=report.lease_id,
            failures=faults.count,
            reason=str(error),
        )
        return True

    def _reserve_number(self) -> int:
        with self._lock:
            waiting = (int(path.stem) for path in self._waiting())
            number = max((*waiting, *self._written), default=0) + 1
            self._written.add(number)
            return number

    @contextmanager
    def _taken(self, path: Path) -> Iterator[bool]:
        """Whether this thread may send a file; no other one may inside the `with`."""
        with self._lock:
            free = path not in self._sent
            if free:
                self._sent.add(path)
        try:
            yield free
        finally:
            if free:
                with self._lock:
                    self._sent.discard(path)

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
        _report_refused(path, report, send, str(error))
        return
    else:
        log.info("report delivered", lease=report.lease_id, job=reported.job_id, status=reported.status.value)
    path.unlink(missing_ok=True)


def _report_refused(path: Path, report: Report, send: Send, reason: str) -> None:
    failure = Failure(kind="infra", detail=f"the server refused the agent's report: {reason}"[:MAX_DETAIL_CHARS])
    instead = Report(lease_id=report.lease_id, attempt=report.attempt, outcome="failed", failure=failure)
    try:
        send(instead)
    except (StaleLease, Refused) as error:
        log.warning("the server refused the report of the failure, too", lease=report.lease_id, reason=str(error))
    aside = _set_aside(path, "refused")
    log.error("the server refused a report; it is set aside", file=str(aside), reason=reason)


def _set_aside(path: Path, why: str) -> Path:
    """Rename a complete file to a free name that the spool ignores."""
    number = 0
    while (aside := path.with_name(f"{path.stem}-{number}.{why}")).exists():
        number += 1
    return path.rename(aside)
