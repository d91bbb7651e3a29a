"""The compute worker: takes searches, exports and calibrations from the queue and does them, one of a lane at a time.

Answers, calibrations and conversions have a lane each, because a calibration mostly waits for a device and a conversion
takes long, and neither must hold up a search. Networks are exported in a process of their own, which is kept warm. A
worker that is asked to stop gives its jobs back; one that is killed loses its leases, and the queue does the
rest. Workers of a supervised home start by giving back what their predecessors held.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import traceback
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any

import structlog
from sqlalchemy.exc import DBAPIError

from elasticvit.errors import ElasticVitError
from server.clock import utc_now
from server.compute.exporting.exporter import ChildExporter, limits_of
from server.compute.task import Compute, Lost, Stopped, Task
from server.errors import Finished, NotFound, ServerError, StaleLease
from server.services import host_calibration, jobs
from server.services.home import prepare
from server.settings import Settings
from server.store.blobs import Blobs
from server.wakeup import WakeupListener
from server.wire import Failure, JobKind

log = structlog.get_logger()
LANES: Mapping[str, tuple[JobKind, ...]] = {
    "answers": (JobKind.SEARCH, JobKind.SUBNET),
    "calibrations": (JobKind.CALIBRATE,),
    "conversions": (JobKind.CONVERT,),
}
IDLE_SECONDS = 0.2
Execute = Callable[[Task], Mapping[str, Any]]


def run(settings: Settings, alone: bool = False) -> None:
    """Work until SIGTERM or SIGINT. `alone` says that no other worker serves this database, so that whatever compute
    is leased belongs to a dead predecessor and goes back to the queue at once."""
    stop = threading.Event()

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    database = prepare(settings)
    compute = Compute(settings, database, Blobs(settings.blobs_folder), utc_now)
    if alone:
        with database.write() as session:
            jobs.expire(session, jobs.COMPUTE_KINDS, utc_now())
    # Threads that spin while they wait make a busy machine many times slower, and disturb what is measured on it.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    exporter, converter = ChildExporter(limits_of(settings)), ChildExporter(limits_of(settings), kept=False)
    exporter.start()
    try:
        _run(compute, exporter, converter, stop)
    finally:
        exporter.close()
        converter.close()
    database.close()


def _run(compute: Compute, exporter: ChildExporter, converter: ChildExporter, stop: threading.Event) -> None:
    # Imported late: it takes seconds, and signals should be answered from the first moment on.
    from elasticvit.latency.nnmeter import load as load_nn_meter
    from server.compute.executor import Executor
    from server.compute.jobs.warm import warm

    settings = compute.settings
    # Importing nn-Meter changes HOME for a moment, so it is done while there is one thread.
    load_nn_meter()
    executor = Executor(compute, exporter, converter)
    listener = WakeupListener(settings.url)
    lanes = [
        threading.Thread(target=work, args=(compute, lane, kinds, executor.execute, stop, listener.waiter()), name=lane)
        for lane, kinds in LANES.items()
    ]
    lanes.append(threading.Thread(target=warm, args=(compute, exporter, stop), name="warm"))
    if settings.expect_host:
        lanes.append(threading.Thread(target=_keep_calibrated, args=(compute, stop), name="keep-calibrated"))
    for lane in lanes:
        lane.start()
    for lane in lanes:
        lane.join()
    listener.close()


def work(
    compute: Compute,
    lane: str,
    kinds: tuple[JobKind, ...],
    execute: Execute,
    stop: threading.Event,
    woken: threading.Event,
) -> None:
    """Claim and do jobs of some kinds until told to stop; `woken` says that it is worth looking again."""
    worker_id = f"worker-{socket.gethostname()}-{os.getpid()}-{lane}"
    while not stop.is_set():
        woken.clear()
        try:
            claimed = _claim(compute, worker_id, kinds)
        except (DBAPIError, ServerError):
            log.exception("the queue does not answer; trying again")
            stop.wait(2.0)
            continue
        if claimed is None:
            woken.wait(IDLE_SECONDS)
        else:
            run_job(Task(compute, claimed, stop), execute)


def _keep_calibrated(compute: Compute, stop: threading.Event) -> None:
    while not stop.wait(1.0):
        try:
            with compute.database.read() as session:
                due = host_calibration.calibration_due(session, compute.clock(), compute.offline_after)
            if due:
                with compute.database.write() as session:
                    host_calibration.submit_calibration(session, compute.clock(), compute.settings.max_attempts)
        except (DBAPIError, ServerError):
            log.exception("could not look whether this machine is calibrated")


def run_job(task: Task, execute: Execute) -> None:
    """Do one job and say how it ended; never raises."""
    bound = log.bind(job=task.job.id, kind=task.job.kind, attempt=task.claimed.attempt)
    bound.info("job begun")
    try:
        try:
            with task:
                result = execute(task)
            task_end(task, result)
            bound.info("job done")
        except Stopped:
            _release(task)
            bound.info("job given back")
        except Lost:
            bound.warning("job lost: its lease was taken or it was cancelled")
        except ServerError as error:
            _fail(task, error.failure(), error.log, error.final)
        except ElasticVitError as error:
            _fail(task, Failure(kind="user", detail=str(error)))
        except Exception as error:
            bound.exception("job failed unexpectedly")
            detail = f"{type(error).__name__}: {error}; the server's log has more"
            _fail(task, Failure(kind="infra", detail=detail[:4000]), traceback.format_exc())
    except (StaleLease, NotFound, Finished):
        bound.warning("job was finished or taken meanwhile; its result is dropped")
    except DBAPIError:
        bound.exception("the end of the job could not be written; its lease will run out")


def task_end(task: Task, result: Mapping[str, Any]) -> None:
    """Write the result. Raises StaleLease."""
    with task.compute.database.write() as session:
        jobs.finish(session, task.claimed.lease_id, task.claimed.attempt, result, task.compute.clock())


def _fail(task: Task, failure: Failure, trace: str = "", final: bool = False) -> None:
    log.warning("job failed", job=task.job.id, failure=failure.kind, detail=failure.detail)
    with task.compute.database.write() as session:
        jobs.fail(session, task.claimed.lease_id, task.claimed.attempt, failure, task.compute.clock(), trace, final)


def _release(task: Task) -> None:
    with task.compute.database.write() as session:
        jobs.release(session, task.claimed.lease_id, task.claimed.attempt, task.compute.clock())


def _claim(compute: Compute, worker_id: str, kinds: tuple[JobKind, ...]) -> jobs.Claimed | None:
    with compute.database.read() as session:
        if not jobs.waiting(session, kinds):
            return None
    with compute.database.write() as session:
        return jobs.claim_compute(session, worker_id, kinds, compute.clock(), compute.settings.lease_seconds)
