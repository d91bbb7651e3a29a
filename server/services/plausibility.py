"""Which latencies a device can have: bounds from physics, and from the anchor that every session measures.

An agent is trusted with its own devices, not with everything: one wrong session would spoil a predictor for all. What
no device can do is refused. What is only hard to believe is stored, is not stable, and is not used.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from server.errors import BadValue
from server.services.statistics import Figures
from server.wire import MAX_LATENCY_MS, MeasurementSession

# No inference is faster: calling the interpreter alone takes longer.
FASTEST_MS = 1e-4
# Multiply-accumulates a second that no thread exceeds. The matrix units of Apple's processors reach about 2 float32
# TFLOPS (Remke and Breuer 2024, "Hello SME!"), 1e12 MACs/s; two AVX-512 units at 6 GHz 2e11. In int8, Intel's AMX does
# 1024 MACs a cycle and core (Optimization Reference Manual, TDPBSSD), 4e12 at 4 GHz. Both have room for what comes.
MACS_PER_SECOND = {"float32": 4e12}
QUANTISED_MACS_PER_SECOND = 4e13
# How much more or less time each MAC of a model may take than one of the anchor, on the same device in the same
# session. Networks of the shipped spaces were 0.7 to 2.2 in float32; small ones are slower, int8 is up to 10 faster.
DOUBTFUL_RATIO, IMPOSSIBLE_RATIO = 10.0, 100.0
QUANTISED_FACTOR = 10.0
# How far the anchor may be from its reference on the same device profile: busy and throttled devices are slower.
DOUBTFUL_SPEED, IMPOSSIBLE_SPEED = 3.0, 10.0
# This number of samples is never all equal on a clock that counts nanoseconds.
FEWEST_EQUAL = 30


@dataclass(frozen=True)
class Expectation:
    """What is known of a session apart from its report; None where it is not known.

    `reference_ms` is the anchor's p50 on this device profile.
    """

    threads: int
    precision: str | None
    macs: int | None
    anchor_macs: int | None
    reference_ms: float | None


def check(figures: Figures, expected: Expectation) -> None:
    """Raises BadValue for latencies that no device can have."""
    for reason in _impossible(figures, expected):
        raise BadValue(
            f"latencies that a device cannot have are refused: {reason}. Check the clock of the device and the agent"
        )


def doubts(session: MeasurementSession, figures: Figures, expected: Expectation) -> list[str]:
    """Why the figures of a session are hard to believe, although a device could have them."""
    return [
        *_equal_samples(session),
        *_out_of_proportion(figures, expected, DOUBTFUL_RATIO),
        *_odd_speed(figures, expected),
    ]


def _impossible(figures: Figures, expected: Expectation) -> Iterator[str]:
    yield from _out_of_range("model", figures.p50_raw_ms, expected.macs, expected.precision, expected.threads)
    if figures.p90_raw_ms > MAX_LATENCY_MS:
        yield f"a p90 of {figures.p90_raw_ms:.3g} ms is above {MAX_LATENCY_MS:g} ms"
    if figures.anchor_p50_ms is None:
        return
    yield from _out_of_range("anchor", figures.anchor_p50_ms, expected.anchor_macs, "float32", expected.threads)
    yield from _out_of_proportion(figures, expected, IMPOSSIBLE_RATIO)
    if expected.reference_ms is not None and figures.anchor_p50_ms < expected.reference_ms / IMPOSSIBLE_SPEED:
        yield (
            f"the anchor took {figures.anchor_p50_ms:.3g} ms, and takes {expected.reference_ms:.3g} ms on this device "
            "profile"
        )


def _out_of_range(what: str, p50_raw_ms: float, macs: int | None, precision: str | None, threads: int) -> Iterator[str]:
    rate = MACS_PER_SECOND.get(precision or "", QUANTISED_MACS_PER_SECOND) * threads
    least_ms = max(FASTEST_MS, (macs or 0) / rate * 1e3)
    if not least_ms <= p50_raw_ms <= MAX_LATENCY_MS:
        yield f"the {what}'s p50 of {p50_raw_ms:.3g} ms is not within {least_ms:.3g} and {MAX_LATENCY_MS:g} ms"


def _out_of_proportion(figures: Figures, expected: Expectation, factor: float) -> Iterator[str]:
    """The time of a MAC in the model against that in the anchor; slower ones may take the anchor's time in addition,
    since small models are mostly overhead."""
    if figures.anchor_p50_ms is None or not expected.macs or not expected.anchor_macs:
        return
    factor *= 1.0 if expected.precision == "float32" else QUANTISED_FACTOR
    by_macs_ms = figures.anchor_p50_ms * expected.macs / expected.anchor_macs
    least_ms, most_ms = by_macs_ms / factor, by_macs_ms * factor + figures.anchor_p50_ms
    if not least_ms <= figures.p50_raw_ms <= most_ms:
        yield (
            f"beside an anchor of {figures.anchor_p50_ms:.3g} ms, a model of {expected.macs} MACs takes {least_ms:.3g} "
            f"to {most_ms:.3g} ms, not {figures.p50_raw_ms:.3g} ms"
        )


def _odd_speed(figures: Figures, expected: Expectation) -> Iterator[str]:
    if figures.anchor_p50_ms is None or expected.reference_ms is None:
        return
    speed = expected.reference_ms / figures.anchor_p50_ms
    if not 1 / DOUBTFUL_SPEED <= speed <= DOUBTFUL_SPEED:
        yield (
            f"the anchor took {figures.anchor_p50_ms:.3g} ms, more than {DOUBTFUL_SPEED:g} times off the "
            f"{expected.reference_ms:.3g} ms of this device profile"
        )


def _equal_samples(session: MeasurementSession) -> Iterator[str]:
    """A clock that does not count, or figures that were made up."""
    models = [measured.model.samples_ns for measured in session.rounds]
    anchors = [measured.anchor.samples_ns for measured in session.rounds if measured.anchor is not None]
    for what, runs in (("model", models), ("anchor", anchors)):
        if _all_equal(runs):
            yield f"all samples of the {what} are equal, which no clock of a device shows"


def _all_equal(runs: Sequence[Sequence[int]]) -> bool:
    return sum(map(len, runs)) >= FEWEST_EQUAL and len({sample for run in runs for sample in run}) == 1
