"""A `search` job: choose sub-networks, export them, and with `verify` measure them until the budget is known to hold.

Verification closes the loop. A network that is measured above the budget shows that the predictor is too fast there, so
the bound of the next choice is lowered by the same ratio; up to three rounds. An answer is `verified` only by a stable
measurement of its own file within the budget.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from elasticvit.archs.space import Codes
from elasticvit.latency.predictor import LatencyPredictor, uncalibrated
from elasticvit.search.evolution import Frontier
from elasticvit.search.limits import LimitError
from server.compute.exporting.order import Exporter
from server.compute.exporting.served_supernet import ServedSupernet
from server.compute.exports import ProgressReporter, export_subnet
from server.compute.jobs.choose import choose
from server.compute.jobs.search_result import Answer, ResultWriter, is_stable
from server.compute.jobs.tools import Tools
from server.compute.task import Compute
from server.errors import Infeasible, NoPredictor
from server.services import accuracy_drop, model_latency, predictors
from server.store.tables import Job, Measurement
from server.wire import MeasureProtocol, PredictorRef, SearchModel, SearchRequest

VERIFY_PRIORITY = 10
VERIFY_ROUNDS = 3
# Below the exact ratio, so that the next choice does not land on the bound again.
SHRINK = 0.98
PROTOCOL = MeasureProtocol()
# One session, and one more when that was unstable: the keys of the search's children.
SESSIONS = ("verify", "verify-again")


class SearchTask(Protocol):
    """What a search needs of its task; `server.compute.task.Task` is one."""

    @property
    def compute(self) -> Compute: ...

    @property
    def job(self) -> Job: ...

    def say(self, stage: str, done: int = 0, total: int | None = None, detail: str | None = None) -> None: ...

    def look(self) -> None: ...

    def measured(
        self, model_id: str, device: str, key: str, protocol: MeasureProtocol, priority: int
    ) -> Measurement | None: ...


def search(task: SearchTask, tools: Tools) -> Mapping[str, Any]:
    """The search's result. Raises Infeasible, BadValue, and what an export raises."""
    payload = task.job.payload
    request = SearchRequest.model_validate(payload["request"])
    task.say("searching")
    served = tools.supernets.get(payload["supernet"])
    predictor = _predictor(task.compute, served, payload["predictor_id"], allow_uncalibrated=request.allow_uncalibrated)
    frontier, answers = _Search(task, tools.exporter, request, served, predictor.fitted).answers()
    writer = ResultWriter(request, served, predictor.fitted)
    models = [writer.model(answer) for answer in answers]
    _keep_predictions(task.compute, models, predictor.profile_id)
    note = "; ".join(part for part in (predictor.note, writer.note(answers)) if part) or None
    return writer.result(models, frontier, predictor.ref, note).model_dump(mode="json")


@dataclass(frozen=True)
class _Predictor:
    """What predicts, its reference for the result, the id of its device profile, and a note where it is not the one
    that the search asked for."""

    fitted: LatencyPredictor
    ref: PredictorRef | None = None
    profile_id: str | None = None
    note: str | None = None


def _predictor(
    compute: Compute, served: ServedSupernet, predictor_id: str | None, *, allow_uncalibrated: bool
) -> _Predictor:
    if predictor_id is None:
        return _Predictor(uncalibrated(served.space))
    try:
        with compute.database.read() as session:
            loaded = predictors.load_usable(session, compute.blobs, predictor_id)
    except NoPredictor as error:
        if not allow_uncalibrated:
            raise
        return _Predictor(uncalibrated(served.space), note=error.detail)
    return _Predictor(loaded.fitted, predictors.ref(loaded.row), loaded.row.profile_id, loaded.note)


def _keep_predictions(compute: Compute, models: Sequence[SearchModel], profile_id: str | None) -> None:
    """Write the predictions into the models' manifests; measurements are written there when they are reported."""
    with compute.database.write() as session:
        # In one order for all transactions, since rows stay locked until the end of a transaction.
        for model in sorted(models, key=lambda model: model.model_id):
            for device, latency in model.latency.items():
                model_latency.add_predicted(session, model.model_id, device, profile_id, latency)


@dataclass(frozen=True)
class _Search:
    task: SearchTask
    exporter: Exporter
    request: SearchRequest
    served: ServedSupernet
    predictor: LatencyPredictor

    @property
    def budget_ms(self) -> float:
        return self.request.targets[0].budget.latency_ms

    def answers(self) -> tuple[Frontier, list[Answer]]:
        """The frontier for the budget, and the exported answers, best first; with `verify` measured."""
        frontier = self._choose(self.budget_ms)
        answers = self._export(frontier.best)
        return frontier, self._verify(answers) if self.request.verify else answers

    def _verify(self, answers: Sequence[Answer]) -> list[Answer]:
        """Measure; while an answer is above the budget, choose again below a lower bound."""
        bound_ms = self.budget_ms
        measured: dict[str, Answer] = {}
        for number in range(VERIFY_ROUNDS):
            answers = [self._measure(answer) for answer in answers]
            measured |= {answer.model.id: answer for answer in answers}
            worst_ms = self._worst_ms(answers)
            if worst_ms <= self.budget_ms or number + 1 == VERIFY_ROUNDS:
                break
            bound_ms *= SHRINK * self.budget_ms / worst_ms
            try:
                closer = self._choose(bound_ms)
            except Infeasible:
                break
            answers = self._export(closer.best)
        # Verified answers first; each group stays in order of accuracy.
        ranked = sorted(measured.values(), key=lambda answer: (not answer.verified(self.request), -answer.top1))
        return ranked[: self.request.count]

    def _worst_ms(self, answers: Sequence[Answer]) -> float:
        """The slowest measurement of those that are not verified, 0 without any."""
        latencies_ms = (
            answer.measured_ms(self.request.statistic) for answer in answers if not answer.verified(self.request)
        )
        return max((ms for ms in latencies_ms if ms is not None), default=0.0)

    def _choose(self, bound_ms: float) -> Frontier:
        try:
            return choose(self.request, self.served, self.predictor, bound_ms)
        except LimitError as error:
            raise Infeasible(str(error), smallest_ms=error.smallest_ms, binding=error.binding) from error

    def _export(self, codes: Codes) -> list[Answer]:
        answers = []
        for i, code in enumerate(codes):
            progress = ProgressReporter(self.task, "exporting", i, len(codes))
            arch = self.served.space.decode(code)
            model = export_subnet(
                self.task.compute,
                self.exporter,
                self.served,
                arch,
                "search",
                precision=self.request.precision,
                watch=progress,
            )
            accuracy_drop.check(model, self.request.max_accuracy_drop)
            answers.append(Answer(code, model))
        return answers

    def _measure(self, answer: Answer) -> Answer:
        """The answer with a stable measurement, or with the last of the unstable ones, or none."""
        row: Measurement | None = None
        for key in SESSIONS:
            row = self.task.measured(answer.model.id, self.request.targets[0].device, key, PROTOCOL, VERIFY_PRIORITY)
            if row is not None and is_stable(row, self.request.statistic):
                break
        return Answer(answer.code, answer.model, row)
