"""A `calibrate` job: measure sub-networks on a device and fit the next version of its latency predictor.

The networks are spread from the smallest of the space to the largest. Each is measured whole, interleaved with the
anchor, and profiled; its operators' times become times of blocks. All usable measurements of the device profile count,
also those of earlier calibrations and of verified searches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from elasticvit.archs.arch import Arch
from elasticvit.archs.space import Codes
from elasticvit.latency.fit import fit_predictor
from elasticvit.latency.predictor import STATISTICS, LatencyPredictor
from elasticvit.latency.probes import choose_probes
from elasticvit.latency.profile import ProfiledOp, profile_to_rows
from elasticvit.latency.rows import BlockRow, WholeSample
from server.compute.exporting.served_supernet import ServedSupernet
from server.compute.exports import ProgressReporter, export_for_timing, ops_of
from server.compute.jobs.tools import Tools
from server.compute.task import Task
from server.errors import InfraError
from server.services import devices, jobs, measurements, predictors
from server.services.measurements import Measured
from server.wire import MeasureProtocol

DEFAULT_COUNT = 20
SEED = 0
CONFIDENCES = tuple(round(0.5 + 0.01 * i, 2) for i in range(50))
PROTOCOL = MeasureProtocol(profile=True)


def calibrate(task: Task, tools: Tools) -> Mapping[str, Any]:
    """The new predictor's id and summary. Raises PredictorError, InfraError."""
    assert task.job.device is not None
    served = tools.supernets.get(task.job.payload["supernet"])
    model_ids = _export(task, tools, served, task.job.payload.get("count") or DEFAULT_COUNT)
    _measure(task, model_ids)
    task.say("fitting")
    with task.compute.database.read() as session:
        profile_id = devices.get(session, task.job.device).profile_id
    predictor = _fit(task, tools, served, profile_id)
    return _keep(task, served, profile_id, predictor)


def _export(task: Task, tools: Tools, served: ServedSupernet, count: int) -> list[str]:
    model_ids = []
    for i, code in enumerate(choose_probes(served.space, count, np.random.default_rng(SEED))):
        task.say("exporting", i, count)
        told = ProgressReporter(task, "exporting", i, count)
        model_ids.append(export_for_timing(task.compute, tools.exporter, served, served.space.decode(code), told).id)
    return model_ids


def _measure(task: Task, model_ids: Sequence[str]) -> None:
    """Measure every model, unstable ones once more; an unfit session is left out later. Raises InfraError."""
    device = task.job.device
    assert device is not None
    wanted = list(enumerate(model_ids))
    for again in ("", "-again"):
        job_ids = [task.measure(model_id, device, f"measure-{i}{again}", PROTOCOL, 0) for i, model_id in wanted]
        done = task.wait(job_ids, f"measuring on {device}")
        with task.compute.database.read() as session:
            rows = [measurements.of_job(session, job.id) for job in done]
        wanted = [item for item, row in zip(wanted, rows, strict=True) if row is None or not row.stable]
        if not wanted:
            return
    if len(wanted) > len(model_ids) // 2:
        errors = {error.detail for job in done if (error := jobs.error(job))}
        said = "; ".join(sorted(errors)) or "their rounds differ too much"
        raise InfraError(f"{len(wanted)} of {len(model_ids)} sessions on '{device}' were unfit: {said}. Leave it idle")


def _fit(task: Task, tools: Tools, served: ServedSupernet, profile_id: str) -> LatencyPredictor:
    with task.compute.database.write() as session:
        reference_ms = measurements.fix_anchor_reference(session, profile_id)
    with task.compute.database.read() as session:
        measured = measurements.rows(session, profile_id, supernet=served.name)
    rows: list[BlockRow] = []
    wholes: list[WholeSample] = []
    for each in measured:
        arch = Arch.from_json(each.arch)
        if not served.space.contains(arch):
            continue
        speed = reference_ms / each.anchor_p50_ms
        whole, mine = _of_session(task, tools, served, arch, each, speed)
        wholes.append(whole)
        rows += mine
        with task.compute.database.write() as session:
            stored = [(row.block.kind.value, row.block.key, row.ms) for row in mine]
            measurements.add_block_rows(session, each.measurement_id, stored)
    return fit_predictor(served.space, rows, wholes)


def _of_session(
    task: Task, tools: Tools, served: ServedSupernet, arch: Arch, each: Measured, speed: float
) -> tuple[WholeSample, list[BlockRow]]:
    p50_ms, p90_ms = each.p50_raw_ms * speed, each.p90_raw_ms * speed
    if not each.ops:
        return WholeSample(arch, p50_ms, p90_ms), []
    profile = [ProfiledOp(op.tag, op.avg_us, op.median_us) for op in each.ops]
    file_ops = ops_of(tools.exporter, served, arch, ProgressReporter(task, "fitting"))
    found = profile_to_rows(arch, profile, file_ops, p50_ms)
    return WholeSample(arch, p50_ms, p90_ms, found.overhead_ms), list(found.rows)


def _keep(task: Task, served: ServedSupernet, profile_id: str, predictor: LatencyPredictor) -> Mapping[str, Any]:
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
            summary=_summary(predictor),
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
    """For each statistic and confidence how far the upper bound lies above the predicted p50, in parts of it.

    The factor is the same for every architecture (errors are relative), so any code tells it.
    """
    code = predictor.space.encode(predictor.space.smallest())[None]
    middle_ms = predictor.predict_ms(code)[0]
    return {
        statistic: {str(c): float(predictor.upper_ms(code, c, statistic)[0] / middle_ms - 1) for c in CONFIDENCES}
        for statistic in STATISTICS
    }


def _summary(predictor: LatencyPredictor) -> dict[str, Any]:
    summary = asdict(predictor.summary)
    return {**summary, "interval_method": {str(c): predictor.interval_method(c) for c in (0.5, 0.8, 0.9, 0.95, 0.99)}}
