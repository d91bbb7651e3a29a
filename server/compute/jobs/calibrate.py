"""A `calibrate` job: measure sub-networks on a device and fit the next version of its latency predictor.

The networks are spread from the smallest of the space to the largest. Each is measured whole, interleaved with the
anchor, and profiled; its operators' times become times of blocks. All usable measurements of the device profile count,
also those of earlier calibrations and of verified searches.

The steps: export the networks; measure those without a stable session, again and again up to `MEASURE_TRIES` times;
fit. While sessions are measured the job is parked, and goes on from `_Tries`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from sqlmodel import Session

from elasticvit.archs.space import Codes, Space
from elasticvit.errors import PredictorError
from elasticvit.latency.fit import FEWEST_MODELS, fit_predictor
from elasticvit.latency.predictor import STATISTICS, LatencyPredictor
from elasticvit.latency.probes import choose_probes
from elasticvit.latency.rows import BlockRow, WholeSample
from server.compute.exporting.served_supernet import ServedSupernet
from server.compute.exports import ProgressReporter, export_for_timing
from server.compute.jobs.samples import Samples, SkippedSession, read_samples
from server.compute.jobs.tools import Tools
from server.compute.sessions import SessionOrder, Wait
from server.compute.task import Task
from server.errors import InfraError
from server.services import devices, jobs, measurements, predictors
from server.store.tables import Job
from server.wire import JobStatus, MeasureProtocol

DEFAULT_COUNT = 20
SEED = 0
CONFIDENCES = tuple(round(0.5 + 0.01 * i, 2) for i in range(50))
PROTOCOL = MeasureProtocol(profile=True)
MEASURE_TRIES = 4
REASONS_NAMED = 3
NOT_MEASURED = "they were not measured"

Fit = Callable[[Space, Sequence[BlockRow], Sequence[WholeSample]], LatencyPredictor]


@dataclass(frozen=True)
class _Tries:
    """The checkpoint: the exported networks, and how often this attempt had those without a stable session measured."""

    model_ids: tuple[str, ...]
    tries: int = 0

    def to_json(self) -> dict[str, Any]:
        return {"model_ids": list(self.model_ids), "tries": self.tries}

    @classmethod
    def from_checkpoint(cls, checkpoint: Mapping[str, Any] | None) -> _Tries | None:
        return None if checkpoint is None else cls(tuple(checkpoint["model_ids"]), checkpoint["tries"])


def calibrate(task: Task, tools: Tools, fit: Fit = fit_predictor) -> Mapping[str, Any] | Wait:
    """The new predictor's id and summary, or the sessions that it waits for. Raises PredictorError, BadValue,
    InfraError."""
    assert task.job.device is not None
    served = tools.supernets.get(task.job.payload["supernet"])
    count = task.job.payload.get("count") or DEFAULT_COUNT
    tries = _Tries.from_checkpoint(task.job.checkpoint) or _Tries(_export(task, tools, served, count))
    with task.compute.database.read() as session:
        sessions = _Sessions.of(session, task.job.id)
    missing = [model_id for model_id in tries.model_ids if model_id not in sessions.stable]
    if missing and tries.tries < MEASURE_TRIES:
        orders = tuple(_order(task.job.device, model_id, sessions) for model_id in missing)
        return Wait(orders, f"measuring on {task.job.device}", replace(tries, tries=tries.tries + 1).to_json())
    unstable = _Unstable(missing, sorted({sessions.reasons.get(model_id, NOT_MEASURED) for model_id in missing}))
    return _fit(task, tools, served, unstable, len(tries.model_ids), fit)


def _order(device: str, model_id: str, sessions: _Sessions) -> SessionOrder:
    """The next session of a network. Its key counts the sessions so far, also those of earlier attempts."""
    key = f"measure-{model_id}-{sessions.unstable[model_id]}"
    return SessionOrder(model_id, device, key, PROTOCOL, priority=0)


def _fit(
    task: Task, tools: Tools, served: ServedSupernet, unstable: _Unstable, count: int, fit: Fit
) -> Mapping[str, Any]:
    assert task.job.device is not None
    if len(unstable.model_ids) > count // 2:
        raise InfraError(unstable.message(task.job.device, count))
    task.say("fitting")
    with task.compute.database.read() as session:
        profile_id = devices.get(session, task.job.device).profile_id
    samples = read_samples(task, tools, served, profile_id)
    if samples.networks < FEWEST_MODELS and (unstable.model_ids or samples.skipped):
        message = _too_few(samples, unstable, task.job.device, count)
        raise InfraError(message) if unstable.model_ids else PredictorError(message)
    task.say("fitting")
    predictor = fit(served.space, samples.rows, samples.wholes)
    return _keep(task, served, profile_id, predictor, samples.skipped)


def _export(task: Task, tools: Tools, served: ServedSupernet, count: int) -> tuple[str, ...]:
    model_ids = []
    for i, code in enumerate(choose_probes(served.space, count, np.random.default_rng(SEED))):
        task.say("exporting", i, count)
        progress = ProgressReporter(task, "exporting", i, count)
        arch = served.space.decode(code)
        model_ids.append(export_for_timing(task.compute, tools.exporter, served, arch, progress).id)
    return tuple(model_ids)


@dataclass(frozen=True)
class _Unstable:
    """The networks that have no stable session, and why their last sessions failed or were unstable."""

    model_ids: Sequence[str] = ()
    reasons: Sequence[str] = ()

    def message(self, device: str, count: int) -> str:
        return (
            f"{len(self.model_ids)} of {count} networks have no stable session on '{device}' after {MEASURE_TRIES} "
            f"tries each: {_joined(self.reasons)}. Leave the device idle and calibrate again"
        )


@dataclass(frozen=True)
class _Sessions:
    """The finished measuring children of a job, also of earlier attempts: the models that have a stable session, how
    many sessions of the others are not stable, and why the last of them is not."""

    stable: frozenset[str]
    unstable: Counter[str]
    reasons: Mapping[str, str]

    @classmethod
    def of(cls, session: Session, job_id: str) -> _Sessions:
        stable: set[str] = set()
        unstable: Counter[str] = Counter()
        reasons: dict[str, str] = {}
        for job in jobs.children(session, job_id):
            if job.model_id is None or not JobStatus(job.status).finished:
                continue
            reason = _unstable_reason(session, job)
            if reason is None:
                stable.add(job.model_id)
            else:
                unstable[job.model_id] += 1
                reasons[job.model_id] = reason
        return cls(frozenset(stable), unstable, reasons)


def _unstable_reason(session: Session, job: Job) -> str | None:
    """Why a finished measuring job has no stable session; None if it has one."""
    measurement = measurements.of_job(session, job.id)
    if measurement is None:
        error = jobs.error(job)
        return error.detail if error else f"its session was {job.status}"
    return None if measurement.stable else measurement.unstable_reason or "its rounds differ too much"


def _too_few(samples: Samples, unstable: _Unstable, device: str, count: int) -> str:
    message = f"a latency predictor needs {FEWEST_MODELS} measured networks, there are {samples.networks}"
    if unstable.model_ids:
        message += f"; {unstable.message(device, count)}"
    if samples.skipped:
        named = [f"{skipped.measurement}: {skipped.reason}" for skipped in samples.skipped]
        message += f"; {len(named)} sessions were skipped: {_joined(named)}"
    return message


def _joined(reasons: Sequence[str]) -> str:
    more = len(reasons) - REASONS_NAMED
    return "; ".join(reasons[:REASONS_NAMED]) + (f"; and {more} more" if more > 0 else "")


def _keep(
    task: Task,
    served: ServedSupernet,
    profile_id: str,
    predictor: LatencyPredictor,
    skipped: Sequence[SkippedSession],
) -> Mapping[str, Any]:
    assert task.job.device is not None
    task.check()
    with task.compute.database.write() as session:
        row = predictors.create(
            session,
            task.compute.blobs,
            profile_id=profile_id,
            device=task.job.device,
            supernet=served.name,
            data=predictor.to_json().encode(),
            smallest=_end(predictor, predictor.smallest_upper_ms(0.9)[1]),
            largest=_end(predictor, predictor.largest_upper_ms(0.9)[1]),
            interval=_widths(predictor),
            summary=_summary(predictor, skipped),
            now=task.compute.clock(),
            job_id=task.job.id,
        )
        return {"predictor_id": row.id, "version": row.version, "summary": row.summary}


def _end(predictor: LatencyPredictor, code: Codes) -> dict[str, Any]:
    arch = predictor.space.decode(code)
    return {
        "predicted_ms": float(predictor.predict_ms(code[None])[0]),
        "upper_ms": float(predictor.upper_ms(code[None], 0.9)[0]),
        "confidence": 0.9,
        "arch_id": arch.id,
    }


def _widths(predictor: LatencyPredictor) -> dict[str, dict[str, float]]:
    """For each statistic and confidence how far the upper bound lies above the predicted p50, as a fraction of it.

    The fraction is the same for every architecture, since errors are relative.
    """
    code = predictor.space.encode(predictor.space.smallest())[None]
    p50_ms = predictor.predict_ms(code)[0]
    return {
        statistic: {str(c): float(predictor.upper_ms(code, c, statistic)[0] / p50_ms - 1) for c in CONFIDENCES}
        for statistic in STATISTICS
    }


def _summary(predictor: LatencyPredictor, skipped: Sequence[SkippedSession]) -> dict[str, Any]:
    return {
        **asdict(predictor.summary),
        "interval_method": {str(c): predictor.interval_method(c) for c in (0.5, 0.8, 0.9, 0.95, 0.99)},
        "skipped_sessions": [asdict(session) for session in skipped],
    }
