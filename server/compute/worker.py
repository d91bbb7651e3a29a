"""The compute worker: takes searches, exports, calibrations and conversions from the queue and does them in lanes.

A lane is a number of threads for some kinds of jobs. Answers, calibrations and conversions have separate lanes, because
a calibration and a conversion take long, and neither may delay a search. A job that waits for a device is parked and
holds no thread. Networks are exported in a warm process of their own, one at a time for all lanes. A worker that is
asked to stop gives its jobs back; the leases of one that is killed run out. The worker of a supervised home starts by
returning the jobs of its predecessor. Nothing that a job raises ends the thread of a lane.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from types import FrameType
from typing import Any

import structlog
from sqlalchemy.exc import DBAPIError

from elasticvit.errors import ElasticVitError
from server.clock import utc_now
from server.compute.exporting.exporter import ChildExporter, limits_of
from server.compute.presence import mark_presence
from server.compute.sessions import Wait
from server.compute.task import STEP_SECONDS, Compute, Lost, Stopped, Task
from server.errors import DiskFull, Finished, NotFound, ServerError, StaleLease, failure
from server.services import claims, host_calibration, job_ends, jobs, lease_expiry
from server.services.home import prepare
from server.settings import Settings
from server.store.blobs import Blobs
from server.store.db import Database, from_database_error
from server.store.hints import Hints
from server.wire import MAX_DETAIL_CHARS, Failure, JobKind
from server.wire.liveness import Pulse, Watchdog

log = structlog.get_logger()
IDLE_SECONDS = 0.2
REFUSED_SECONDS = 5.0
# To claim a job, which may wait for other writers.
CLAIM_SECONDS = 300.0
Outcome = Mapping[str, Any] | Wait
Execute = Callable[[Task], Outcome]


@dataclass(frozen=True)
class Lane:
    """`threads` threads that do jobs of these kinds, each one job at a time."""

    name: str
    kinds: tuple[JobKind, ...]
    threads: int


def lanes(settings: Settings) -> tuple[Lane, ...]:
    """The lanes of a worker; together they do every kind of compute job."""
    return (
        Lane("answers", (JobKind.SEARCH, JobKind.SUBNET), settings.answer_threads),
        Lane("calibrations", (JobKind.CALIBRATE,), settings.calibration_threads),
        Lane("conversions", (JobKind.CONVERT,), settings.conversion_threads),
    )


def run(settings: Settings, alone: bool = False) -> None:
    """Work until SIGTERM or SIGINT. With `alone` no other worker serves this database: compute jobs that are leased
    belong to a dead predecessor and go back to the queue at once."""
    stop = threading.Event()

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    database = prepare(settings)
    compute = Compute(settings, database, Blobs(settings.blobs_folder), utc_now)
    if alone:
        _free_jobs_of_the_predecessor(database)
    # Threads that spin while they wait make a busy machine many times slower, and disturb measurements on it.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    exporter, converter = ChildExporter(limits_of(settings)), ChildExporter(limits_of(settings), kept=False)
    exporter.start()
    Watchdog(compute.liveness, alive_file=settings.alive_file).start()
    try:
        _run(compute, exporter, converter, stop)
    finally:
        exporter.close()
        converter.close()
    database.close()


def _free_jobs_of_the_predecessor(database: Database) -> None:
    """Raises ServerError."""
    try:
        with database.write() as session:
            lease_expiry.expire(session, jobs.COMPUTE_KINDS, utc_now())
    except DBAPIError as error:
        raise from_database_error(error) from error


def _run(compute: Compute, exporter: ChildExporter, converter: ChildExporter, stop: threading.Event) -> None:
    # Imported late: it takes seconds, and signals are handled from the start.
    from elasticvit.latency.nnmeter import load as load_nn_meter
    from server.compute.executor import execute
    from server.compute.jobs.tools import Tools
    from server.compute.jobs.warm import warm
    from server.compute.supernet_cache import SupernetCache

    # Importing nn-Meter changes HOME for a moment, so it is done while there is only one thread.
    load_nn_meter()
    tools = Tools(SupernetCache(compute), exporter, converter)
    listener = compute.database.hints
    listener.listen()
    threads = lane_threads(compute, lambda task: execute(task, tools), stop, listener)
    upkeep: dict[str, Callable[[Pulse], None]] = {
        "warm": lambda pulse: warm(compute, exporter, stop, pulse),
        "presence": lambda pulse: mark_presence(compute, stop, pulse),
    }
    if compute.settings.expect_host:
        upkeep["keep-calibrated"] = lambda pulse: _keep_calibrated(compute, stop, pulse)
    threads += [compute.liveness.thread(name, run) for name, run in upkeep.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def lane_threads(compute: Compute, execute: Execute, stop: threading.Event, listener: Hints) -> list[threading.Thread]:
    """The threads of all lanes, not started yet; each has a name of its own."""

    def lane_thread(name: str, kinds: tuple[JobKind, ...]) -> threading.Thread:
        wakeup = listener.waiter()
        return compute.liveness.thread(name, lambda pulse: work(compute, name, kinds, execute, stop, wakeup, pulse))

    return [
        lane_thread(f"{lane.name}-{number}", lane.kinds)
        for lane in lanes(compute.settings)
        for number in range(lane.threads)
    ]


def work(
    compute: Compute,
    name: str,
    kinds: tuple[JobKind, ...],
    execute: Execute,
    stop: threading.Event,
    wakeup: threading.Event,
    pulse: Pulse,
) -> None:
    """Claim and do jobs of some kinds until `stop` is set; `wakeup` is set when a job may have been queued. `name` is
    unique in this process."""
    worker_id = f"worker-{socket.gethostname()}-{os.getpid()}-{name}"
    while not stop.is_set():
        wakeup.clear()
        pulse.within(CLAIM_SECONDS)
        try:
            claimed = _claim(compute, worker_id, kinds)
        except BaseException:  # whatever it is: a lane that ended would do no more jobs
            _say_all(lambda: log.exception("the queue does not answer; trying again"))
            stop.wait(2.0)
            continue
        if claimed is None:
            wakeup.wait(IDLE_SECONDS)
        else:
            pulse.within(STEP_SECONDS)
            run_job(Task(compute, claimed, stop, pulse), execute)


def _keep_calibrated(compute: Compute, stop: threading.Event, pulse: Pulse) -> None:
    while not stop.wait(1.0):
        pulse.within(CLAIM_SECONDS)
        try:
            with compute.database.read() as session:
                due = host_calibration.calibration_due(
                    session, compute.blobs, compute.clock(), compute.settings.offline_after
                )
            if due:
                with compute.database.write() as session:
                    host_calibration.submit_calibration(session, compute.clock(), compute.settings.max_attempts)
        except Exception:
            log.exception("could not check whether this machine is calibrated")


def run_job(task: Task, execute: Execute) -> None:
    """Do one job and record how it ended; never raises, whatever the work or the record raises."""
    try:
        _run_job(task, execute)
    except (StaleLease, NotFound, Finished):
        _say_all(lambda: log.warning("job was finished or taken by another worker; dropped", job=task.job.id))
    except BaseException:
        # The work's own errors were taken before: this is the database, the disk or the log.
        _say_all(lambda: log.exception("the end of a job could not be written; its lease runs out", job=task.job.id))


def _run_job(task: Task, execute: Execute) -> None:
    bound = log.bind(job=task.job.id, kind=task.job.kind, attempt=task.claimed.attempt)
    bound.info("job begun")
    try:
        with task:
            outcome = execute(task)
        if isinstance(outcome, Wait):
            task.park(outcome)
            bound.info("job parked", stage=outcome.stage)
        else:
            _finish(task, outcome)
            bound.info("job done")
    except Stopped:
        _release(task)
        bound.info("job given back")
    except Lost:
        bound.warning("job lost: its lease was taken or it was cancelled")
    except (StaleLease, Finished):
        raise
    except (DiskFull, DBAPIError) as error:
        _after_refusal(task, error)
    except ServerError as error:
        _fail(task, error.failure(), error.log, error.final)
    except ElasticVitError as error:
        _fail(task, failure("user", str(error), type(error).__name__))
    except BaseException as error:  # libraries raise more than Exception: SystemExit, panics of Rust
        _say_all(lambda: bound.exception("job failed unexpectedly"))
        detail = f"{type(error).__name__}: {error}"[: MAX_DETAIL_CHARS - 100] + "; the server's log has more"
        _fail(task, failure("infra", detail, type(error).__name__), traceback.format_exc())


def _say_all(say: Callable[[], None]) -> None:
    """Log, where logging itself may fail: the disk may be full."""
    with suppress(Exception):
        say()


def _after_refusal(task: Task, error: DiskFull | DBAPIError) -> None:
    """A full disk or a database that is away is not the job's fault: it is given back, and goes on afterwards."""
    refused = error if isinstance(error, DiskFull) else from_database_error(error)
    if isinstance(refused, DiskFull) or (isinstance(error, DBAPIError) and error.connection_invalidated):
        log.warning("job given back for the time being", job=task.job.id, why=refused.detail)
        task.stop.wait(REFUSED_SECONDS)
        _release(task)
    else:
        _fail(task, refused.failure(), traceback.format_exc())


def _finish(task: Task, result: Mapping[str, Any]) -> None:
    """Write the result. Raises StaleLease."""
    with task.compute.database.write() as session:
        job_ends.finish(session, task.claimed.lease_id, task.claimed.attempt, result, task.compute.clock())


def _fail(task: Task, failure: Failure, trace: str = "", final: bool = False) -> None:
    log.warning("job failed", job=task.job.id, failure=failure.kind, detail=failure.detail)
    with task.compute.database.write() as session:
        job_ends.fail(session, task.claimed.lease_id, task.claimed.attempt, failure, task.compute.clock(), trace, final)


def _release(task: Task) -> None:
    with task.compute.database.write() as session:
        job_ends.release(session, task.claimed.lease_id, task.claimed.attempt, task.compute.clock())


def _claim(compute: Compute, worker_id: str, kinds: tuple[JobKind, ...]) -> claims.Claimed | None:
    with compute.database.read() as session:
        if not claims.waiting(session, kinds, now=compute.clock()):
            return None
    with compute.database.write() as session:
        return claims.claim_compute(session, worker_id, kinds, compute.clock(), compute.settings.lease_seconds)
