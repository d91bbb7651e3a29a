"""The answers of a search as they are sent: the models with their latencies, and the frontier."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from elasticvit.archs.arch import Arch, arch_object
from elasticvit.archs.space import Codes
from elasticvit.costs.flops import macs, params
from elasticvit.latency.predictor import LatencyPredictor
from server.compute.exporting.served_supernet import ServedSupernet
from server.services import p90
from server.services.models import download_url, wire_accuracy
from server.store.tables import Measurement, Model
from server.wire import (
    Accuracy,
    Candidate,
    LatencyAnswer,
    PredictorRef,
    SearchModel,
    SearchRequest,
    SearchResult,
    Statistic,
)

MAX_FRONTIER = 50
NOT_PREDICTED = (
    "latencies are predicted for the float32 networks, not for this precision, which is faster where the device has "
    "instructions for it; ask with verify to have the file itself measured. Accuracies are those in float32; the "
    'manifest\'s "top1_change" says what the precision changes'
)


def is_stable(measurement: Measurement, statistic: Statistic) -> bool:
    """Whether a measurement can be relied on in this statistic. Where it is not known, it cannot."""
    return measurement.stable if statistic == "p50" else bool(measurement.p90_stable)


@dataclass(frozen=True)
class Answer:
    """A chosen sub-network, its file, and the measurement of that file."""

    code: Codes
    model: Model
    measurement: Measurement | None = None

    def measured_ms(self, statistic: Statistic) -> float | None:
        """At the anchor's reference speed; None without a measurement, before the device profile has one, and for a p90
        of too few samples."""
        if self.measurement is None:
            return None
        return self.measurement.p50_ms if statistic == "p50" else p90.reported_ms(self.measurement)

    def measured_raw_ms(self, statistic: Statistic) -> float | None:
        """As timed."""
        if self.measurement is None:
            return None
        return self.measurement.p50_raw_ms if statistic == "p50" else p90.reported_raw_ms(self.measurement)

    def instability(self, statistic: Statistic) -> str | None:
        """Why the measurement is not stable in this statistic; None if it is, and without one."""
        if self.measurement is None or is_stable(self.measurement, statistic):
            return None
        reason = self.measurement.unstable_reason if statistic == "p50" else self.measurement.p90_unstable_reason
        return reason or "its rounds differ too much"

    def verified(self, request: SearchRequest) -> bool:
        """Whether a stable measurement of this very file lies within the budget."""
        measured_ms = self.measured_ms(request.statistic)
        if self.measurement is None or measured_ms is None or not is_stable(self.measurement, request.statistic):
            return False
        return self.measurement.model_id == self.model.id and measured_ms <= request.targets[0].budget.latency_ms


@dataclass(frozen=True)
class ResultWriter:
    """Describes codes and answers of one search for the wire."""

    request: SearchRequest
    served: ServedSupernet
    predictor: LatencyPredictor

    def result(
        self,
        models: Sequence[SearchModel],
        frontier: Codes,
        predictor: PredictorRef | None,
        note: str | None = None,
    ) -> SearchResult:
        """`frontier` are the codes (m, D) to show."""
        return SearchResult(
            models=list(models),
            frontier=[self.candidate(code) for code in frontier],
            predictor=predictor,
            supernet=self.served.name,
            terms=self.served.terms,
            note=note,
        )

    def note(self, answers: Sequence[Answer]) -> str | None:
        """What a reader of the figures has to know; None if there is nothing."""
        notes = [] if self.request.precision == "float32" else [NOT_PREDICTED]
        notes += [
            f"model {answer.model.id} is not verified, because its measurement was disturbed ({reason}): "
            f"search again while {self._device} does nothing else"
            for answer in answers
            if (reason := answer.instability(self.request.statistic)) is not None
        ]
        return "; ".join(notes) or None

    def model(self, answer: Answer) -> SearchModel:
        latency = self._latency(answer.code)
        if answer.measurement is not None:
            latency = latency.model_copy(
                update={
                    "measured_ms": answer.measured_ms(self.request.statistic),
                    "measured_raw_ms": answer.measured_raw_ms(self.request.statistic),
                    "verified": answer.verified(self.request),
                }
            )
        candidate = self.candidate(answer.code).model_copy(update={"latency": {self._device: latency}})
        return SearchModel(
            **{name: getattr(candidate, name) for name in Candidate.model_fields if name != "accuracy"},
            accuracy=Accuracy.model_validate(answer.model.accuracy),
            precision=answer.model.precision or "float32",
            terms=answer.model.manifest.get("terms"),
            model_id=answer.model.id,
            size_bytes=answer.model.size_bytes,
            download_url=download_url(answer.model),
        )

    def candidate(self, code: Codes) -> Candidate:
        arch: Arch = self.served.space.decode(code)
        return Candidate(
            arch=arch_object(arch),
            arch_id=arch.id,
            macs=macs(arch),
            params=params(arch),
            accuracy=wire_accuracy(self.served.accuracy.accuracy_of(code)),
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


def thinned(codes: Codes) -> Codes:
    """At most `MAX_FRONTIER` evenly spaced members (m, D) of a frontier (n, D), with both ends."""
    if len(codes) <= MAX_FRONTIER:
        return codes
    kept: Codes = codes[np.unique(np.linspace(0, len(codes) - 1, MAX_FRONTIER).round().astype(int))]
    return kept
