"""A `calibrate` job: measure sub-networks on a device and fit the next version of its latency predictor.

The networks are spread from the smallest of the space to the largest. Each is measured whole, interleaved with the
anchor, and profiled; its operators' times become times of blocks. All usable measurements of the device profile count,
also those of earlier calibrations and of verified searches.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
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

Fit = Callable[[Space, Sequence[BlockRow], Sequence[WholeSample]], LatencyPredictor]


def calibrate(task: Task, tools: Tools, fit: Fit = fit_predictor) -> Mapping[str, Any]:
    """The new predictor's id and summary. Raises PredictorError, BadValue, InfraError."""
    assert task.job.device is not None
    served = tools.supernets.get(task.job.payload["supernet"])
    model_ids = _export(task, tools, served, task.job.payload.get("count") or DEFAULT_COUNT)
    unstable = _measure(task, model_ids)
    if len(unstable.model_ids) > len(model_ids) // 2:
        raise InfraError(unstable.message(task.job.device, len(model_ids)))
    task.say("fitting")
    with task.compute.database.read() as session:
        profile_id = devices.get(session, task.job.device).profile_id
    samples = read_samples(task, tools, served, profile_id)
    if samples.networks < FEWEST_MODELS and (unstable.model_ids or samples.skipped):
        message = _too_few(samples, unstable, task.job.device, len(model_ids))
        raise InfraError(message) if unstable.model_ids else PredictorError(message)
    task.say("fitting")
    predictor = fit(served.space, samples.rows, samples.wholes)
    return _keep(task, served, profile_id, predictor, samples.skipped)


def _export(task: Task, tools: Tools, served: ServedSupernet, count: int) -> list[str]:
    model_ids = []
    for i, code in enumerate(choose_probes(served.space, count, np.random.default_rng(SEED))):
        task.say("exporting", i, count)
        progress = ProgressReporter(task, "exporting", i, count)
        arch = served.space.decode(code)
        model_ids.append(export_for_timing(task.compute, tools.exporter, served, arch, progress).id)
    return model_ids


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


def _measure(task: Task, model_ids: Sequence[str]) -> _Unstable:
    """Measure every model until it has a stable session, at most `MEASURE_TRIES` times; what stays without one.

    A job that is tried again keeps the stable sessions of its earlier attempts.
    """
    device = task.job.device
    assert device is not None
    unstable = _Unstable()
    for _ in range(MEASURE_TRIES):
        with task.compute.database.read() as session:
            sessions = _Sessions.of(session, task.job.id)
        pending = [model_id for model_id in model_ids if model_id not in sessions.stable]
        if not pending:
            return _Unstable()
        # The key names the model: the probes of a later attempt may be other files.
        job_ids = [
            task.measure(model_id, device, f"measure-{model_id}-{sessions.unstable[model_id]}", PROTOCOL, 0)
            for model_id in pending
        ]
        finished = task.wait(job_ids, f"measuring on {device}")
        with task.compute.database.read() as session:
            reasons = {job.model_id: reason for job in finished if (reason := _unstable_reason(session, job))}
        unstable = _Unstable([model_id for model_id in pending if model_id in reasons], sorted(set(reasons.values())))
        if not unstable.model_ids:
            break
    return unstable


@dataclass(frozen=True)
class _Sessions:
    """The results of a job's measuring children: the models that have a stable session, and the others' sessions."""

    stable: frozenset[str]
    unstable: Counter[str]

    @classmethod
    def of(cls, session: Session, job_id: str) -> _Sessions:
        finished = [job for job in jobs.children(session, job_id) if JobStatus(job.status).finished and job.model_id]
        unstable = Counter(job.model_id for job in finished if _unstable_reason(session, job) and job.model_id)
        stable = {job.model_id for job in finished if not _unstable_reason(session, job) and job.model_id}
        return cls(frozenset(stable), unstable)


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
