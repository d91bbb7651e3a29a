"""One measuring session: rounds of anchor and model, interleaved, so that drift of the device affects both alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from device_agent.bench.result import BenchResult
from device_agent.cancellation import Cancellation
from device_agent.errors import BadModel, InfraFault, SessionTooLong, Unfinished
from server.wire import DeviceDescription, MeasurementSession, MeasureProtocol, OpTime, Progress, Round

Conditions = dict[str, Any]
ReportProgress = Callable[[Progress], None]


@dataclass(frozen=True)
class Files:
    """The files of a lease on this machine: complete, and not to be changed."""

    model: Path
    anchor: Path | None


# Runs the benchmark once on a file; the second argument asks for the operator profile. Raises WorkError.
RunBench = Callable[[Path, bool], BenchResult]


@dataclass(frozen=True)
class Measured:
    """The results of all rounds without profiling, and the operator profile if the protocol asks for one."""

    models: tuple[BenchResult, ...]
    anchors: tuple[BenchResult, ...]
    profile: list[OpTime] | None


def measure(
    protocol: MeasureProtocol, files: Files, bench: RunBench, cancellation: Cancellation, progress: ReportProgress
) -> Measured:
    """Measure all rounds, then the operator profile. The first run that fails ends the session.

    Raises BadModel, DeviceFault, InfraFault, Cancelled.
    """
    models: list[BenchResult] = []
    anchors: list[BenchResult] = []
    for number in range(protocol.rounds):
        progress(Progress(stage="measuring", done=number, total=protocol.rounds))
        if files.anchor is not None:
            anchors.append(_bench_anchor(bench, files.anchor))
        cancellation.check()
        models.append(bench(files.model, False) if models else _bench_first(bench, files.model))
        cancellation.check()
    progress(Progress(stage="measuring", done=protocol.rounds, total=protocol.rounds))
    profile = _profile(bench, files.model) if protocol.profile else None
    return Measured(models=tuple(models), anchors=tuple(anchors), profile=profile)


def session(measured: Measured, device: DeviceDescription, conditions: Conditions) -> MeasurementSession:
    """What is reported: the raw samples of every round. Single figures are the model's: medians, and peak memory."""
    models = measured.models
    anchors = measured.anchors or (None,) * len(models)
    accelerated = [result.fully_accelerated for result in models if result.fully_accelerated is not None]
    runs = [result.bench_run() for result in models]
    return MeasurementSession(
        device=device,
        rounds=[
            Round(model=run, anchor=anchor.bench_run() if anchor else None)
            for run, anchor in zip(runs, anchors, strict=True)
        ],
        profile=measured.profile,
        conditions=conditions,
        peak_rss_kb=max((result.peak_rss_kb for result in models if result.peak_rss_kb is not None), default=None),
        fully_accelerated=all(accelerated) if accelerated else None,
        init_ms=_median([run.init_ms for run in runs]),
        first_ms=_median([run.first_ms for run in runs]),
        emulated=device.kind == "emulated",
    )


def check_length(protocol: MeasureProtocol, files: Files, limit_seconds: float) -> None:
    """Raises SessionTooLong if the protocol cannot be kept within `limit_seconds`, however fast the model is."""
    least_seconds = protocol.rounds * (1 if files.anchor is None else 2) * 2 * protocol.min_secs  # half is warming up
    if least_seconds > limit_seconds:
        raise SessionTooLong(
            f"this protocol takes at least {least_seconds:g} s, and a session may take {limit_seconds:g} s on this "
            "device: lower rounds or min_secs"
        )


def _bench_first(bench: RunBench, model: Path) -> BenchResult:
    """The first run of a model. The anchor has just run, so a crash here or a run without end is the model's."""
    try:
        return bench(model, False)
    except Unfinished as error:
        raise BadModel(str(error), log=error.log) from error


def _bench_anchor(bench: RunBench, anchor: Path) -> BenchResult:
    """An anchor that cannot be measured is no fault of the user who sent the model."""
    try:
        return bench(anchor, False)
    except BadModel as error:
        raise InfraFault(f"the anchor cannot be measured: {error}", log=error.log) from error


def _profile(bench: RunBench, model: Path) -> list[OpTime]:
    ops = bench(model, True).op_times()
    if ops is None:
        raise InfraFault("android_bench returned no operator profile: use android_bench and agent of the same version")
    return ops


def _median(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None
