"""A claimed compute job while it is done: renews its lease, reports its progress, and parks it while it waits."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType

import structlog

from server.clock import Clock
from server.compute.sessions import SessionEnd, SessionOrder, Wait
from server.errors import NotFound, StaleLease
from server.services import claims, jobs, measurements, parked, submissions
from server.services.claims import Claimed
from server.services.parked import Waiting
from server.settings import Settings
from server.store.blobs import Blobs
from server.store.db import Database
from server.store.tables import Job
from server.wire import JobKind, JobStatus, Progress
from server.wire.liveness import Liveness, Pulse

log = structlog.get_logger()
# How soon a cancellation is noticed, whatever the job does.
LOOK_SECONDS = 1.0
# A job that gives no sign of life for this long hangs: its process ends, and another takes the job.
STEP_SECONDS = 1800.0
RENEW_SECONDS = 300.0


class Stopped(Exception):  # noqa: N818 - not an error: the worker was asked to stop
    """The worker is stopping; the job goes back to the queue."""


class Lost(Exception):  # noqa: N818 - not an error: another worker has the job, or it was cancelled
    """The lease is no longer valid; the work is dropped."""


@dataclass(frozen=True)
class Compute:
    """What every job of a worker shares."""

    settings: Settings
    database: Database
    blobs: Blobs
    clock: Clock
    liveness: Liveness = field(default_factory=Liveness)


@dataclass
class Task:
    """A claimed job. Use as a context manager: inside, a thread keeps the lease."""

    compute: Compute
    claimed: Claimed
    stop: threading.Event
    pulse: Pulse | None = None
    _lost: threading.Event = field(default_factory=threading.Event)
    _done: threading.Event = field(default_factory=threading.Event)
    _progress: Progress | None = None
    _thread: threading.Thread | None = None

    @property
    def job(self) -> Job:
        return self.claimed.job

    def __enter__(self) -> Task:
        self._thread = self.compute.liveness.thread(f"renew-{self.job.id}", self._keep)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        assert self._thread is not None
        self._thread.join()

    def check(self) -> None:
        """Call between steps, at least every `STEP_SECONDS`. Raises Stopped, Lost."""
        if self.pulse is not None:
            self.pulse.within(STEP_SECONDS)
        if self._lost.is_set():
            raise Lost
        if self.stop.is_set():
            raise Stopped

    def look(self) -> None:
        """Like `check`, and reads the job from the queue, so that a cancellation is noticed at once.

        Raises Stopped, Lost.
        """
        self.check()
        self._look()
        self.check()

    def say(self, stage: str, done: int = 0, total: int | None = None, detail: str | None = None) -> None:
        """Report progress, which GET /jobs/{id} shows at once. Raises Stopped, Lost."""
        self.check()
        self._progress = Progress(stage=stage, done=done, total=total, detail=detail)
        self._renew()
        self.check()

    def session_end(self, order: SessionOrder) -> SessionEnd | None:
        """How this session ended; None while it is not finished or was never asked for."""
        with self.compute.database.read() as session:
            child = jobs.find_child(session, self.job.id, order.child_key)
            if child is None or not JobStatus(child.status).finished:
                return None
            return SessionEnd(measurements.of_job(session, child.id, order.model_id))

    def park(self, wait: Wait) -> None:
        """Queue the sessions and end the attempt; the job is queued again when they are finished. Call it outside of
        the `with`, since there is no lease afterwards. Raises StaleLease, Finished, and NotFound."""
        settings = self.compute.settings
        is_search = self.job.kind == JobKind.SEARCH
        max_seconds = settings.search_wait_seconds if is_search else settings.calibration_wait_seconds
        with self.compute.database.write() as session:
            now = self.compute.clock()
            job_ids = [
                submissions.measure(
                    session,
                    order.model_id,
                    order.device,
                    order.protocol,
                    now,
                    parent_id=self.job.id,
                    key=order.child_key,
                    priority=order.priority,
                    max_attempts=settings.max_attempts,
                ).id
                for order in wait.sessions
            ]
            waiting = Waiting(job_ids, wait.stage, wait.checkpoint, max_seconds)
            parked.park(session, self.claimed.lease_id, self.claimed.attempt, waiting, now)

    def _keep(self, pulse: Pulse) -> None:
        every_seconds = self.compute.settings.lease_seconds / 3
        renewed_s = time.monotonic()
        while not self._done.wait(min(LOOK_SECONDS, every_seconds)):
            pulse.within(RENEW_SECONDS)
            is_due = time.monotonic() - renewed_s >= every_seconds
            try:
                if is_due:
                    renewed_s = time.monotonic()
                    self._renew()
                else:
                    self._look()
            except Exception:  # the next time may succeed; if none does, the lease runs out and the job is requeued
                with suppress(Exception):
                    log.exception("a lease could not be kept", job=self.job.id)

    def _look(self) -> None:
        with self.compute.database.read() as session:
            now = jobs.get(session, self.job.id)
        holder = (now.lease_id, now.attempts)
        if JobStatus(now.status).finished or holder != (self.claimed.lease_id, self.claimed.attempt):
            self._lost.set()

    def _renew(self) -> None:
        try:
            with self.compute.database.write() as session:
                claims.renew(
                    session,
                    self.claimed.lease_id,
                    self.claimed.attempt,
                    self.compute.clock(),
                    self.compute.settings.lease_seconds,
                    self._progress,
                )
        except (StaleLease, NotFound):
            self._lost.set()
        except Exception:
            # The next renewal may succeed; if none does, the lease runs out and the job is requeued.
            log.exception("a lease could not be renewed", job=self.job.id)
