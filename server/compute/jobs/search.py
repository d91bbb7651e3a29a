"""A `search` job: choose sub-networks, export them, and with `verify` measure them until the budget is known to hold.

Verification closes the loop. A network that is measured above the budget shows that the predictor is too fast there, so
the bound of the next choice is lowered by the same ratio; up to three rounds. An answer is `verified` only by a stable
measurement of its own file within the budget.

    begin ──► a round is chosen and exported ──► all its files are measured? ──no──► parked, with the rounds so far
                       ▲                                   │ yes                        │ measured: a later attempt
                       │                                   ▼                            │ goes on here
                       └────────── another round ◄── is one needed? ◄───────────────────┘
                                                           │ no
                                                           ▼
                                                        result

What is known of the rounds is a frozen `SearchRounds`, which is the checkpoint; measurements are found as the job's
children.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from elasticvit.archs.space import Codes
from elasticvit.latency.predictor import LatencyPredictor, uncalibrated
from elasticvit.search.evolution import Frontier
from elasticvit.search.limits import LimitError
from server.compute.exporting.order import Exporter
from server.compute.exporting.served_supernet import ServedSupernet
from server.compute.exports import ProgressReporter, export_subnet
from server.compute.jobs.choose import choose
from server.compute.jobs.search_result import Answer, ResultWriter, is_stable, thinned
from server.compute.jobs.search_rounds import Chosen, SearchRounds
from server.compute.jobs.tools import Tools
from server.compute.sessions import SessionEnd, SessionOrder, Wait
from server.compute.task import Compute
from server.errors import Infeasible, NoPredictor
from server.services import accuracy_drop, model_latency, models, predictors
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

    def session_end(self, order: SessionOrder) -> SessionEnd | None: ...


def search(task: SearchTask, tools: Tools) -> Mapping[str, Any] | Wait:
    """The search's result, or the sessions that it waits for. Raises Infeasible, BadValue, Conflict, and what an export
    raises."""
    payload = task.job.payload
    request = SearchRequest.model_validate(payload["request"])
    task.say("searching")
    served = tools.supernets.get(payload["supernet"])
    predictor = _predictor(task.compute, served, payload["predictor_id"], allow_uncalibrated=request.allow_uncalibrated)
    rounds = _Search(task, tools.exporter, request, served, predictor.fitted).rounds()
    if isinstance(rounds, Wait):
        return rounds
    frontier, answers = rounds
    writer = ResultWriter(request, served, predictor.fitted)
    found = [writer.model(answer) for answer in answers]
    _keep_predictions(task.compute, found, predictor.profile_id)
    note = "; ".join(part for part in (predictor.note, writer.note(answers)) if part) or None
    return writer.result(found, frontier, predictor.ref, note).model_dump(mode="json")


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
    def device(self) -> str:
        return self.request.targets[0].device

    @property
    def budget_ms(self) -> float:
        return self.request.targets[0].budget.latency_ms

    def rounds(self) -> tuple[Codes, list[Answer]] | Wait:
        """The frontier for the budget, and the answers, best first; with `verify` measured, or to be measured first."""
        rounds = SearchRounds.from_checkpoint(self.served.space, self.task.job.checkpoint) or self._begin()
        while self.request.verify:
            measured = self._measured(rounds.newest)
            if missing := tuple(answer for answer in measured if isinstance(answer, SessionOrder)):
                return Wait(missing, f"measuring on {self.device}", rounds.to_json())
            following = self._following(rounds, [answer for answer in measured if isinstance(answer, Answer)])
            if following is None:
                break
            rounds = following
        return rounds.frontier, self._ranked(rounds)

    def _begin(self) -> SearchRounds:
        frontier = self._choose(self.budget_ms)
        return SearchRounds(thinned(frontier.codes), self.budget_ms, (self._export(frontier.best),))

    def _following(self, rounds: SearchRounds, answers: Sequence[Answer]) -> SearchRounds | None:
        """The rounds with one more below a lower bound, because of these answers of the last one; None if the budget is
        kept, or nothing closer is left to try."""
        worst_ms = self._worst_ms(answers)
        if worst_ms <= self.budget_ms or len(rounds.chosen) == VERIFY_ROUNDS:
            return None
        bound_ms = rounds.bound_ms * SHRINK * self.budget_ms / worst_ms
        try:
            closer = self._choose(bound_ms)
        except Infeasible:
            return None
        return replace(rounds, bound_ms=bound_ms, chosen=(*rounds.chosen, self._export(closer.best)))

    def _ranked(self, rounds: SearchRounds) -> list[Answer]:
        """The answers of all rounds, without `verify` as they were chosen."""
        if not self.request.verify:
            return [self._answer(chosen, None) for chosen in rounds.newest]
        measured = [answer for answer in self._measured(rounds.all) if isinstance(answer, Answer)]
        found = list({answer.model.id: answer for answer in measured}.values())
        # Verified answers first; each group stays in the order of the choice. What is reported of their accuracy comes
        # from images that choose nothing, so it does not order them either.
        chosen_by = self.served.accuracy.predict(np.stack([answer.code for answer in found]))
        order = sorted(range(len(found)), key=lambda i: (not found[i].verified(self.request), -float(chosen_by[i])))
        return [found[i] for i in order[: self.request.count]]

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

    def _export(self, codes: Codes) -> tuple[Chosen, ...]:
        chosen = []
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
            chosen.append(Chosen(tuple(int(choice) for choice in code), model.id))
        return tuple(chosen)

    def _measured(self, chosen: Sequence[Chosen]) -> list[Answer | SessionOrder]:
        """Each with a stable measurement, or with its last one, or none if that failed; or the session that it still
        needs."""
        return [self._measured_or_missing(one) for one in chosen]

    def _measured_or_missing(self, chosen: Chosen) -> Answer | SessionOrder:
        row: Measurement | None = None
        for key in SESSIONS:
            order = SessionOrder(chosen.model_id, self.device, key, PROTOCOL, VERIFY_PRIORITY)
            end = self.task.session_end(order)
            if end is None:
                return order
            row = end.measurement
            if row is not None and is_stable(row, self.request.statistic):
                break
        return self._answer(chosen, row)

    def _answer(self, chosen: Chosen, row: Measurement | None) -> Answer:
        with self.task.compute.database.read() as session:
            model = models.get(session, chosen.model_id)
        return Answer(np.array(chosen.code, np.int8), model, row)
