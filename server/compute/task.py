"""A claimed compute job while it is done: renews its lease, reports its progress, and waits for its measurements."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from types import TracebackType

import structlog

from server.clock import Clock
from server.errors import NotFound, StaleLease
from server.services import claims, jobs, measurements, submissions
from server.services.claims import Claimed
from server.services.storable import digest
from server.settings import Settings
from server.store.blobs import Blobs
from server.store.db import Database
from server.store.tables import Job, Measurement
from server.wire import JobStatus, MeasureProtocol, Progress
from server.wire.liveness import Liveness, Pulse

log = structlog.get_logger()
POLL_SECONDS = 0.1
# A job that is not heard of for so long hangs: its process ends, and another takes the job.
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
    """A claimed job. Use as a context manager: inside, a thread renews the lease."""

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
        """Like `check`, and reads the job from the queue, so that a cancellation is noticed before the next renewal.

        Raises Stopped, Lost.
        """
        self.check()
        with self.compute.database.read() as session:
            now = jobs.get(session, self.job.id)
        if JobStatus(now.status).finished or (now.lease_id, now.attempts) != (
            self.claimed.lease_id,
            self.claimed.attempt,
        ):
            self._lost.set()
        self.check()

    def say(self, stage: str, done: int = 0, total: int | None = None, detail: str | None = None) -> None:
        """Report progress, which GET /jobs/{id} shows at once. Raises Stopped, Lost."""
        self.check()
        self._progress = Progress(stage=stage, done=done, total=total, detail=detail)
        self._renew()
        self.check()

    def measure(self, model_id: str, device: str, key: str, protocol: MeasureProtocol, priority: int) -> str:
        """Queue a measuring session as this job's child; returns the child's id.

        The child is unique by key, model, device and protocol: a later attempt of this job finds the session of the
        same file, and never that of another one.
        """
        with self.compute.database.write() as session:
            return submissions.measure(
                session,
                model_id,
                device,
                protocol,
                self.compute.clock(),
                parent_id=self.job.id,
                key=child_key(key, model_id, device, protocol),
                priority=priority,
                max_attempts=self.compute.settings.max_attempts,
            ).id

    def measured(
        self, model_id: str, device: str, key: str, protocol: MeasureProtocol, priority: int
    ) -> Measurement | None:
        """The measurement of this model by one session, queued like `measure` and waited for; None when the session
        failed or was cancelled. Raises Stopped, Lost."""
        job_id = self.measure(model_id, device, key, protocol, priority)
        self.wait([job_id], f"measuring on {device}")
        with self.compute.database.read() as session:
            return measurements.of_job(session, job_id, model_id)

    def wait(self, job_ids: Iterable[str], stage: str) -> list[Job]:
        """The jobs once all are finished, in their order. Raises Stopped, Lost."""
        job_ids = list(job_ids)
        reported = -1
        while True:
            with self.compute.database.read() as session:
                rows = [jobs.get(session, job_id) for job_id in job_ids]
            finished = sum(JobStatus(job.status).finished for job in rows)
            if finished != reported:
                self.say(stage, finished, len(rows))
                reported = finished
            if finished == len(rows):
                return rows
            self.check()
            time.sleep(POLL_SECONDS)

    def _keep(self, pulse: Pulse) -> None:
        every_seconds = self.compute.settings.lease_seconds / 3
        while not self._done.wait(every_seconds):
            self._renew()
            pulse.within(every_seconds + RENEW_SECONDS)

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


def child_key(key: str, model_id: str, device: str, protocol: MeasureProtocol) -> str:
    """`KEY:MODEL:HASH`, the hash of device and protocol. Children of older databases have the plain key; they stay as
    they are and are not taken for a session of any model."""
    conditions = digest({"device": device, "protocol": protocol.model_dump(mode="json")})
    return f"{key}:{model_id}:{conditions[:16]}"
