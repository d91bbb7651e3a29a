"""Latency of any member of a space on one device profile, as an interval; search compares its upper bound to budgets.

A predictor is data: predicted milliseconds of every block of its space, and the calibration from a sum of blocks to the
time of a whole network. It is stored as self-contained JSON, without the forests behind it (they are refitted from the
rows, deterministically). `elasticvit.latency.fit` makes one from measurements.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from math import log
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elasticvit.archs.space import Codes, Space
from elasticvit.costs.blocks import Block
from elasticvit.costs.cost_table import CostTable
from elasticvit.errors import ElasticVitError, PredictorError
from elasticvit.latency.calibration import Calibration, Line, Statistic
from elasticvit.latency.features import work_rows

Milliseconds = NDArray[np.float64]
FORMAT = 1
STATISTICS: tuple[Statistic, ...] = ("p50", "p90")
# An estimate without measurements: a recent phone core, one thread, float32. Picoseconds for a dense MAC, a depthwise
# MAC, a byte of weights, a byte of activations, a grid position. With them the published networks are within a factor
# of 2.2 of the authors' Pixel 1, 4 and 6. The interval is a factor of three in both directions at 90 %.
GENERIC_PICOSECONDS = (70.0, 120.0, 50.0, 80.0, 0.0)
GENERIC_SPREAD = log(3.0) / 1.6449
GENERIC_P90_OVER_P50 = 1.1


@dataclass(frozen=True)
class Summary:
    """The data behind a predictor, and its errors.

    Attributes:
        rows, models: numbers of measured block rows and whole networks that it was fitted to.
        within_10, mean_error: on whole networks left out of the fit: the fraction (0 to 1) predicted within ±10 %, and
            the mean relative error; None without measurements.
        trust: the exponent with which nn-Meter's forests correct device rates; 1 is full trust.
        block_within_10: the fraction of held-out blocks within ±10 % by kind, computed by nn-Meter; None for a kind
            with too few blocks for a forest, which device rates alone predict.
        rows_sha256: hash of the rows, which identifies the data.
        nn_meter: version of nn-Meter.
        seconds: duration of the fit.
        p90_models: number of the networks whose p90 was known; None in predictors of older versions.
    """

    rows: int = 0
    models: int = 0
    within_10: float | None = None
    mean_error: float | None = None
    trust: float | None = None
    block_within_10: Mapping[str, float | None] = field(default_factory=dict)
    rows_sha256: str = ""
    nn_meter: str = ""
    seconds: float = 0.0
    p90_models: int | None = None


@dataclass(frozen=True)
class LatencyPredictor:
    """Latency of the members of `space`, milliseconds at the anchor's reference speed.

    Attributes:
        block_ms: predicted time of every block of the space, by `Block.key`.
        overhead_ms: time of a network that belongs to no block.
        calibrations: from block sums to whole networks, for each statistic.
    """

    space: Space
    block_ms: Mapping[str, float] = field(repr=False)
    overhead_ms: float
    calibrations: Mapping[Statistic, Calibration] = field(repr=False)
    summary: Summary = Summary()

    @property
    def calibrated(self) -> bool:
        """Whether it was fitted to measurements of the device."""
        return not self.calibrations["p50"].spread

    @cached_property
    def cost_table(self) -> CostTable:
        """Block times as a cost table."""
        return CostTable.build(self.space, self._times)

    def predict_ms(self, codes: Codes, statistic: Statistic = "p50") -> Milliseconds:
        """Predicted latency of codes (n, D), shape (n,)."""
        return self._calibration(statistic).predict(self._sums(codes))

    def interval_ms(
        self, codes: Codes, confidence: float, statistic: Statistic = "p50"
    ) -> tuple[Milliseconds, Milliseconds]:
        """Lower and upper bound of the latency with that confidence (0.5 to 0.99), milliseconds, shapes (n,).

        Raises:
            PredictorError: a confidence outside 0.5 to 0.99.
        """
        middle = self.predict_ms(codes, statistic)
        factor = self._calibration(statistic).factor(confidence)
        return middle / factor, middle * factor

    def upper_ms(self, codes: Codes, confidence: float, statistic: Statistic = "p50") -> Milliseconds:
        """The upper bound alone, milliseconds, shape (n,); budgets limit it."""
        return self.interval_ms(codes, confidence, statistic)[1]

    def interval_method(self, confidence: float, statistic: Statistic = "p50") -> str:
        """The method behind the interval: "conformal", "student-t" (too few networks) or "assumed" (uncalibrated, or
        too few networks with a known p90)."""
        return self._calibration(statistic).method(confidence)

    def smallest_upper_ms(self, confidence: float, statistic: Statistic = "p50") -> tuple[float, Codes]:
        """The smallest upper bound in the space, exact, and the code (D,) that has it."""
        _, code = self.cost_table.smallest()
        return float(self.upper_ms(code[None], confidence, statistic)[0]), code

    def largest_upper_ms(self, confidence: float, statistic: Statistic = "p50") -> tuple[float, Codes]:
        """The largest upper bound in the space, exact, and the code (D,) that has it."""
        _, code = CostTable.build(self.space, lambda distinct: -self._times(distinct)).smallest()
        return float(self.upper_ms(code[None], confidence, statistic)[0]), code

    def to_json(self) -> str:
        """Everything needed to predict, to the last bit."""
        return json.dumps(
            {
                "format": FORMAT,
                "space": json.loads(self.space.to_json()),
                "block_ms": dict(self.block_ms),
                "overhead_ms": self.overhead_ms,
                "calibrations": {name: asdict(calibration) for name, calibration in self.calibrations.items()},
                "summary": asdict(self.summary),
            },
            sort_keys=True,
            separators=(",", ":"),
        )

    @classmethod
    def from_json(cls, text: str) -> "LatencyPredictor":
        """Read what `to_json` wrote. Raises `PredictorError`."""
        try:
            data = json.loads(text)
            if data["format"] != FORMAT:
                raise PredictorError(
                    f"this predictor has format {data['format']}, this version reads {FORMAT}; refit it"
                )
            predictor = cls(
                space=Space.from_json(data["space"]),
                block_ms=data["block_ms"],
                overhead_ms=float(data["overhead_ms"]),
                calibrations={name: _calibration(data["calibrations"][name]) for name in STATISTICS},
                summary=Summary(**data["summary"]),
            )
            _ = predictor.cost_table
        except PredictorError:
            raise
        except (ElasticVitError, KeyError, TypeError, ValueError) as error:
            raise PredictorError(f"not a latency predictor: {error!r}; refit it from its measurements") from error
        return predictor

    def _sums(self, codes: Codes) -> Milliseconds:
        return self.overhead_ms + self.cost_table.total(codes)

    def _times(self, distinct: Sequence[Block]) -> Milliseconds:
        try:
            return np.array([self.block_ms[block.key] for block in distinct], np.float64)
        except KeyError as error:
            raise PredictorError(
                f"this predictor has no time for block {error}; it is for space {self.space.name!r}"
            ) from None

    def _calibration(self, statistic: Statistic) -> Calibration:
        try:
            return self.calibrations[statistic]
        except KeyError:
            raise PredictorError(f"statistic must be one of {', '.join(STATISTICS)}, got {statistic!r}") from None


def space_blocks(space: Space) -> list[Block]:
    """Every distinct block of a space, in a stable order."""
    collected: list[Block] = []

    def collect(distinct: Sequence[Block]) -> Milliseconds:
        collected.extend(distinct)
        return np.zeros(len(distinct))

    CostTable.build(space, collect)
    return collected


def uncalibrated(space: Space) -> LatencyPredictor:
    """An estimate without measurements, from generic rates of a phone core, with a wide interval.

    Its `calibrated` is False; results based on it must say so.
    """
    distinct = space_blocks(space)
    times = work_rows(distinct) @ np.array(GENERIC_PICOSECONDS) / 1e9
    middle = Calibration(Line(0.0), spread=GENERIC_SPREAD)
    return LatencyPredictor(
        space=space,
        block_ms={block.key: float(ms) for block, ms in zip(distinct, times, strict=True)},
        overhead_ms=0.0,
        calibrations={"p50": middle, "p90": replace(middle, line=Line(log(GENERIC_P90_OVER_P50)))},
    )


def _calibration(data: Mapping[str, Any]) -> Calibration:
    return Calibration(Line(**data["line"]), tuple(data["residuals"]), float(data["spread"]))
