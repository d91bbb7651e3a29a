"""One lease from beginning to end: files, measuring, and the report; the lease is renewed meanwhile."""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

import structlog

from device_agent.bench.session import Files
from device_agent.cancellation import Cancellation
from device_agent.devices.device import Device
from device_agent.errors import AgentError, Cancelled, InfraFault, ServerAway, StaleLease, WorkError
from device_agent.logs import log_end
from device_agent.uplink.api import Server
from device_agent.uplink.cache import Cache, CorruptDownload
from device_agent.uplink.registration import Intervals
from server.wire import BlobRef, Failure, Lease, LeaseRenewal, Progress, Report
from server.wire.measurements import MAX_LOG_CHARS

log = structlog.get_logger()

RETRY_SECONDS = 1.0


class Renewal:
    """Renews a lease in a thread inside the `with`; sets `cancellation` when the lease is gone, as a renewal tells."""

    def __init__(self, server: Server, lease: Lease, every_seconds: float, cancellation: Cancellation) -> None:
        self._server = server
        self._lease = lease
        self._every_seconds = every_seconds
        self._cancellation = cancellation
        self._over = threading.Event()
        self._progress = Progress(stage="measuring", total=lease.protocol.rounds)
        self.lost = False

    def progress(self, progress: Progress) -> None:
        """What the next renewal sends; sending at once would disturb the measurement."""
        self._progress = progress

    def __enter__(self) -> Self:
        threading.Thread(target=self._run, name=f"renew-{self._lease.lease_id}", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()

    def _run(self) -> None:
        wait_seconds = 0.0  # the first at once: the job counts as running from then on
        while not self._over.wait(wait_seconds):
            wait_seconds = self._renew()

    def _renew(self) -> float:
        """Seconds until the next one."""
        body = LeaseRenewal(attempt=self._lease.attempt, progress=self._progress)
        try:
            self._server.renew(self._lease.lease_id, body)
        except StaleLease as error:
            if not self._over.is_set():
                self.lost = True
                self._over.set()
                self._cancellation.set(f"the lease is gone: {error}")
        except AgentError as error:
            log.warning("the lease could not be renewed", lease=self._lease.lease_id, reason=str(error))
            return min(RETRY_SECONDS, self._every_seconds)
        except Exception:  # a thread that ends here would lose the lease
            log.exception("unexpected fault while a lease was renewed", lease=self._lease.lease_id)
            return min(RETRY_SECONDS, self._every_seconds)
        return self._every_seconds


def run_lease(
    lease: Lease, device: Device, server: Server, cache: Cache, intervals: Intervals, stop: Cancellation
) -> Report | None:
    """Work on a lease; the report, or None if the lease was lost, so that no report is accepted. Raises nothing."""
    cancellation = Cancellation(stop)
    with Renewal(server, lease, intervals.renew, cancellation) as renewal:
        try:
            return _measure(lease, device, cache, intervals.lease, cancellation, renewal)
        except Cancelled as error:
            log.warning("work dropped", job=lease.job_id, reason=str(error))
            return None if renewal.lost else failed(lease, error)
        except WorkError as error:
            log.warning("work failed", job=lease.job_id, kind=error.kind, reason=str(error))
            return failed(lease, error)
        except Exception as error:  # an unexpected fault must not leave the job waiting until its lease runs out
            log.exception("work failed unexpectedly", job=lease.job_id)
            return failed(lease, InfraFault(f"the agent failed ({type(error).__name__}: {error}): read its log"))


def failed(lease: Lease, error: WorkError) -> Report:
    """The report of a failed attempt, with the end of the log, at most `MAX_LOG_CHARS` characters."""
    failure: Failure = error.failure()
    log_text = log_end(error.log, MAX_LOG_CHARS)
    return Report(lease_id=lease.lease_id, attempt=lease.attempt, outcome="failed", failure=failure, log=log_text)


def _measure(
    lease: Lease,
    device: Device,
    cache: Cache,
    lease_seconds: float,
    cancellation: Cancellation,
    renewal: Renewal,
) -> Report:
    name = device.describe().name
    if lease.device != name:
        raise InfraFault(
            f"a lease for device '{lease.device}' was given to '{name}': use server and agent of one version"
        )
    begin_s = time.monotonic()
    with ExitStack() as stack:
        model = _fetch(lease.model, cache, stack, lease_seconds, cancellation)
        anchor = _fetch(lease.anchor, cache, stack, lease_seconds, cancellation) if lease.anchor else None
        log.info("measuring", job=lease.job_id, device=name, model=lease.model.sha256[:12], attempt=lease.attempt)
        session = device.measure(lease, Files(model=model, anchor=anchor), cancellation, renewal.progress)
    log.info("measured", job=lease.job_id, seconds=round(time.monotonic() - begin_s, 1))
    return Report(lease_id=lease.lease_id, attempt=lease.attempt, outcome="measured", session=session)


def _fetch(blob: BlobRef, cache: Cache, stack: ExitStack, retry_seconds: float, cancellation: Cancellation) -> Path:
    """A file of the lease, held until the stack ends. A download that fails is repeated for the length of a lease, one
    with damaged bytes once."""
    deadline_s = time.monotonic() + retry_seconds
    corrupt = 0
    while True:
        try:
            return stack.enter_context(cache.hold(blob, cancellation))
        except CorruptDownload:
            corrupt += 1
            if corrupt > 1:
                raise
        except WorkError:
            raise
        except ServerAway as error:
            if time.monotonic() > deadline_s:
                raise InfraFault(f"{blob.url} could not be fetched: {error}") from error
        except AgentError as error:
            raise InfraFault(f"{blob.url} could not be fetched: {error}") from error
        cancellation.check()
        cancellation.wait(min(RETRY_SECONDS, retry_seconds))
