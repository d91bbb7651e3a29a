"""A `search` job: choose, export, and where asked measure until the budget is known to hold.

Verification closes the loop. A model that was measured above the budget tells that the predictor is too fast here, so
the bound that the next choice is held to shrinks by what it was missed by; up to three rounds. An answer is only called
verified when a stable measurement of that very file lies within the budget.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from elasticvit.archs.arch import Arch, arch_object
from elasticvit.archs.space import Codes
from elasticvit.costs.flops import macs, params
from elasticvit.latency.predictor import LatencyPredictor, uncalibrated
from elasticvit.search.evolution import Frontier
from elasticvit.search.limits import LimitError
from server.compute.exporting.served_supernet import ServedSupernet
from server.compute.exports import ProgressReporter, export_subnet
from server.compute.jobs.choose import choose
from server.compute.jobs.tools import Tools
from server.compute.task import Task
from server.errors import Infeasible
from server.services import accuracy_drop, measurements, model_latency, models, predictors
from server.store.tables import Measurement, Model
from server.wire import (
    Accuracy,
    Candidate,
    LatencyAnswer,
    MeasureProtocol,
    PredictorRef,
    SearchModel,
    SearchRequest,
    SearchResult,
)

VERIFY_PRIORITY = 10
VERIFY_ROUNDS = 3
# Below the exact ratio, so that the next choice does not land on the bound again.
SHRINK = 0.98
FRONTIER_SHOWN = 50
NOT_PREDICTED = (
    "latencies are predicted for the float32 networks, not for this precision, which is faster where the device has "
    "instructions for it; ask with verify to have the file itself measured. Accuracies are those in float32; the "
    'manifest\'s "top1_change" says what the precision changes'
)


@dataclass(frozen=True)
class Answer:
    """A chosen sub-network, its file, and what was measured of it."""

    code: Codes
    model: Model
    measurement: Measurement | None = None

    def measured_ms(self, statistic: str) -> float | None:
        if self.measurement is None:
            return None
        return self.measurement.p50_ms if statistic == "p50" else self.measurement.p90_ms

    def verified(self, request: SearchRequest) -> bool:
        measured_ms = self.measured_ms(request.statistic)
        if self.measurement is None or measured_ms is None or not self.measurement.stable:
            return False
        return measured_ms <= request.targets[0].budget.latency_ms


def search(task: Task, tools: Tools) -> Mapping[str, Any]:
    """The search's result. Raises Infeasible, BadValue, and what exporting raises."""
    payload = task.job.payload
    request = SearchRequest.model_validate(payload["request"])
    task.say("searching")
    served = tools.supernets.get(payload["supernet"])
    predictor, ref, profile_id = _predictor(task, served, payload["predictor_id"])
    frontier, answers = _answers(task, tools, request, served, predictor)
    look = _Look(request, served, predictor)
    answered = [look.model(answer) for answer in answers]
    _tell(task, answered, profile_id)
    result = SearchResult(
        models=answered,
        frontier=[look.candidate(code) for code in _thinned(frontier.codes)],
        predictor=ref,
        supernet=served.name,
        terms=served.terms,
        note=None if request.precision == "float32" else NOT_PREDICTED,
    )
    return result.model_dump(mode="json")


def _tell(task: Task, answered: Sequence[SearchModel], profile_id: str | None) -> None:
    """What was predicted goes into the models' manifests; what was measured is there already."""
    with task.compute.database.write() as session:
        # In one order, since their rows are locked until the end of the transaction.
        for model in sorted(answered, key=lambda each: each.model_id):
            for device, latency in model.latency.items():
                model_latency.tell_predicted(session, model.model_id, device, profile_id, latency)


def _predictor(
    task: Task, served: ServedSupernet, predictor_id: str | None
) -> tuple[LatencyPredictor, PredictorRef | None, str | None]:
    """The predictor, what answers say of it, and the device profile that it is of."""
    if predictor_id is None:
        return uncalibrated(served.space), None, None
    with task.compute.database.read() as session:
        row = predictors.get(session, predictor_id)
    return predictors.load(task.compute.blobs, row), predictors.ref(row), row.profile_id


def _answers(
    task: Task, tools: Tools, request: SearchRequest, served: ServedSupernet, predictor: LatencyPredictor
) -> tuple[Frontier, list[Answer]]:
    budget_ms = bound_ms = request.targets[0].budget.latency_ms
    frontier = _choose(request, served, predictor, bound_ms)
    answers = _export(task, tools, request, served, frontier.best)
    if not request.verify:
        return frontier, answers
    found: dict[str, Answer] = {}
    for number in range(VERIFY_ROUNDS):
        answers = _measure(task, answers, f"verify-{number}")
        found |= {answer.model.id: answer for answer in answers}
        missed = [a.measured_ms(request.statistic) for a in answers if not a.verified(request)]
        worst_ms = max((ms for ms in missed if ms is not None), default=0.0)
        if worst_ms <= budget_ms or number + 1 == VERIFY_ROUNDS:
            break
        bound_ms *= SHRINK * budget_ms / worst_ms
        try:
            closer = _choose(request, served, predictor, bound_ms)
        except Infeasible:
            break
        answers = _export(task, tools, request, served, closer.best)
    # Those that were shown to fit first; each group stays in order of accuracy.
    ranked = sorted(found.values(), key=lambda a: (not a.verified(request), -(a.model.accuracy["value"] or 0.0)))
    return frontier, ranked[: request.count]


def _choose(request: SearchRequest, served: ServedSupernet, predictor: LatencyPredictor, bound_ms: float) -> Frontier:
    try:
        return choose(request, served, predictor, bound_ms)
    except LimitError as error:
        raise Infeasible(str(error), smallest_ms=error.smallest_ms, binding=error.binding) from error


def _export(task: Task, tools: Tools, request: SearchRequest, served: ServedSupernet, codes: Codes) -> list[Answer]:
    answers = []
    for i, code in enumerate(codes):
        told = ProgressReporter(task, "exporting", i, len(codes))
        arch = served.space.decode(code)
        model = export_subnet(
            task.compute, tools.exporter, served, arch, "search", precision=request.precision, watch=told
        )
        accuracy_drop.check(model, request.max_accuracy_drop)
        answers.append(Answer(code, model))
    return answers


def _measure(task: Task, answers: Sequence[Answer], key: str) -> list[Answer]:
    """Measure each answer once; one whose session was unstable once more."""
    assert task.job.device is not None
    measured: list[Answer] = []
    for i, answer in enumerate(answers):
        row: Measurement | None = None
        for again in ("", "-again"):
            job_id = task.measure(
                answer.model.id, task.job.device, f"{key}-{i}{again}", MeasureProtocol(), VERIFY_PRIORITY
            )
            task.wait([job_id], f"measuring on {task.job.device}")
            with task.compute.database.read() as session:
                row = measurements.of_job(session, job_id)
            if row is not None and row.stable:
                break
        measured.append(Answer(answer.code, answer.model, row))
    return measured


def _thinned(codes: Codes) -> Codes:
    """At max_drop so many members of a frontier, its ends among them."""
    if len(codes) <= FRONTIER_SHOWN:
        return codes
    kept: Codes = codes[np.unique(np.linspace(0, len(codes) - 1, FRONTIER_SHOWN).round().astype(int))]
    return kept


@dataclass(frozen=True)
class _Look:
    """Puts codes and answers into the words of the wire."""

    request: SearchRequest
    served: ServedSupernet
    predictor: LatencyPredictor

    def model(self, answer: Answer) -> SearchModel:
        latency = self._latency(answer.code)
        if answer.measurement is not None:
            raw = answer.measurement.p50_raw_ms if self.request.statistic == "p50" else answer.measurement.p90_raw_ms
            latency = latency.model_copy(
                update={
                    "measured_ms": answer.measured_ms(self.request.statistic),
                    "measured_raw_ms": raw,
                    "verified": answer.verified(self.request),
                }
            )
        seen = self.candidate(answer.code).model_copy(update={"latency": {self._device: latency}})
        return SearchModel(
            **{name: getattr(seen, name) for name in Candidate.model_fields if name != "accuracy"},
            accuracy=Accuracy.model_validate(answer.model.accuracy),
            precision=answer.model.precision or "float32",
            terms=answer.model.manifest.get("terms"),
            model_id=answer.model.id,
            size_bytes=answer.model.size_bytes,
            download_url=f"/models/{answer.model.id}/download",
        )

    def candidate(self, code: Codes) -> Candidate:
        arch: Arch = self.served.space.decode(code)
        return Candidate(
            arch=arch_object(arch),
            arch_id=arch.id,
            macs=macs(arch),
            params=params(arch),
            accuracy=models.wire_accuracy(self.served.accuracy.accuracy_of(code)),
            latency={self._device: self._latency(code)},
        )

    @property
    def _device(self) -> str:
        return self.request.targets[0].device

    def _latency(self, code: Codes) -> LatencyAnswer:
        confidence, statistic = self.request.confidence, self.request.statistic
        lower, upper = self.predictor.interval_ms(code[None], confidence, statistic)
        return LatencyAnswer(
            predicted_ms=float(self.predictor.predict_ms(code[None], statistic)[0]),
            lower_ms=float(lower[0]),
            upper_ms=float(upper[0]),
            confidence=confidence,
            statistic=statistic,
            calibrated=self.predictor.calibrated,
        )
