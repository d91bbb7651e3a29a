"""Fits a `LatencyPredictor` to measurements: device rates, nn-Meter's forests, block times, calibration on networks.

The calibration needs errors as large as those on networks that were never measured. So its sums come from
cross-fitting: networks are assigned to folds by their time, and the blocks of a fold are predicted from the rows of the
other folds.

The same sums decide how far the forests are trusted. Where operators take milliseconds, forests halve the error of
device rates; where they take a microsecond, the resolution of profiles, a forest learns mostly noise.
"""

import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from itertools import groupby
from math import log

import numpy as np

from elasticvit.archs.space import Space
from elasticvit.costs.blocks import Block, BlockKind, blocks
from elasticvit.errors import PredictorError
from elasticvit.latency.calibration import Calibration, Statistic, fit_calibration, mean_error, within
from elasticvit.latency.nnmeter import VERSION, BlockForest, train_forest
from elasticvit.latency.predictor import GENERIC_P90_OVER_P50, LatencyPredictor, Milliseconds, Summary, space_blocks
from elasticvit.latency.prior import fit_prior
from elasticvit.latency.rows import BlockRow, WholeSample

FEWEST_MODELS = 8
FEWEST_P90_MODELS = 4
# Of the log of p90 over p50, where no session tells it: a factor of 1.5 in both directions at 90 %.
ASSUMED_P90_SPREAD = log(1.5) / 1.6449
FOLDS = 8
TRUSTS = (1.0, 0.5, 0.25)
# A lower trust is chosen only if it reduces the errors on held-out networks to this fraction.
CLEARLY_BETTER = 0.9

Forests = Mapping[BlockKind, BlockForest]


def fit_predictor(
    space: Space, rows: Sequence[BlockRow], wholes: Sequence[WholeSample], folds: int = FOLDS
) -> LatencyPredictor:
    """Fit a predictor for the members of a space; deterministic but for `summary.seconds`.

    Args:
        rows: blocks inside measured networks, of one device profile.
        wholes: whole networks measured on it, stable sessions only; some may have no rows. Several samples of one
            architecture count as one network, with their medians.
        folds: number of folds of the cross-fitting; with one for each network it is leave-one-out.

    Raises:
        PredictorError: fewer than eight networks, no rows, or a time that is not positive.
    """
    started = time.perf_counter()
    samples = _by_network(wholes)
    _check(rows, samples)
    rows = sorted(rows, key=_as_text)
    forests = _train(rows, hold_out=True)
    overhead_ms = float(np.median([sample.overhead_ms for sample in samples]))
    trust, sums = _best_trust(samples, _cross_fitted_sums(rows, samples, folds))
    distinct = space_blocks(space)
    times = _predict(forests, distinct, trust)
    calibrations = _calibrate(samples, sums)
    residuals = calibrations["p50"].residuals
    return LatencyPredictor(
        space=space,
        block_ms={block.key: float(times[block]) for block in distinct},
        overhead_ms=overhead_ms,
        calibrations=calibrations,
        summary=Summary(
            rows=len(rows),
            models=len(samples),
            within_10=within(residuals),
            mean_error=mean_error(residuals),
            trust=trust,
            block_within_10={kind.value: forest.acc10 for kind, forest in forests.items()},
            rows_sha256=_fingerprint(rows),
            nn_meter=VERSION,
            seconds=time.perf_counter() - started,
            p90_models=sum(sample.p90_ms is not None for sample in samples),
        ),
    )


def _by_network(wholes: Sequence[WholeSample]) -> list[WholeSample]:
    """One sample for each network, fastest first."""
    merged = []
    for _, group in groupby(sorted(wholes, key=lambda s: s.arch.id), key=lambda s: s.arch.id):
        same = list(group)
        p50, overhead = (float(np.median([getattr(s, name) for s in same])) for name in ("p50_ms", "overhead_ms"))
        known = [s.p90_ms for s in same if s.p90_ms is not None]
        p90 = float(np.median(known)) if known else None
        merged.append(WholeSample(same[0].arch, p50, p90, overhead))
    return sorted(merged, key=lambda s: (s.p50_ms, s.arch.id))


def _check(rows: Sequence[BlockRow], samples: Sequence[WholeSample]) -> None:
    if len(samples) < FEWEST_MODELS:
        raise PredictorError(
            f"a latency predictor needs {FEWEST_MODELS} measured networks, there are {len(samples)}: measure"
            f" {FEWEST_MODELS - len(samples)} more on this device profile"
        )
    if len({row.arch_id for row in rows}) < FEWEST_MODELS // 2:
        raise PredictorError(f"a latency predictor needs operator profiles of at least {FEWEST_MODELS // 2} networks")
    times = [row.ms for row in rows]
    times += [ms for sample in samples for ms in (sample.p50_ms, sample.p90_ms) if ms is not None]
    if not (np.isfinite(times).all() and min(times) > 0):
        raise PredictorError("measured times must be positive and finite; exclude the session that has others")


def _train(rows: Sequence[BlockRow], hold_out: bool) -> Forests:
    prior = fit_prior(rows)
    return {
        kind: train_forest(kind, [row for row in rows if row.block.kind is kind], prior.predict_ms, hold_out)
        for kind in BlockKind
    }


def _predict(forests: Forests, distinct: Sequence[Block], trust: float) -> dict[Block, float]:
    times: dict[Block, float] = {}
    for kind, forest in forests.items():
        own = [block for block in distinct if block.kind is kind]
        times |= dict(zip(own, forest.predict_ms(own, trust).tolist(), strict=True))
    return times


def _cross_fitted_sums(rows: Sequence[BlockRow], samples: Sequence[WholeSample], folds: int) -> Milliseconds:
    """Sum over blocks and overhead of every network, each without its own fold's rows, for each of `TRUSTS`: shape
    (trusts, n)."""
    sums = np.zeros((len(TRUSTS), len(samples)))
    for fold in _folds(len(samples), folds):
        held_out = {samples[i].arch.id for i in fold}
        forests = _train([row for row in rows if row.arch_id not in held_out], hold_out=False)
        overhead_ms = float(np.median([s.overhead_ms for s in samples if s.arch.id not in held_out]))
        distinct = list(dict.fromkeys(b for i in fold for b in blocks(samples[i].arch)))
        for level, trust in enumerate(TRUSTS):
            times = _predict(forests, distinct, trust)
            for i in fold:
                sums[level, i] = overhead_ms + sum(times[block] for block in blocks(samples[i].arch))
    return sums


def _best_trust(samples: Sequence[WholeSample], sums: Milliseconds) -> tuple[float, Milliseconds]:
    """The trust with the smallest spread of log errors, full unless a lower one is clearly better; and its sums."""
    errors = np.log(sums) - np.log([sample.p50_ms for sample in samples])
    spread = np.mean(np.abs(errors - np.median(errors, axis=1, keepdims=True)), axis=1)
    level = int(np.flatnonzero(spread * CLEARLY_BETTER <= spread.min())[0])
    return TRUSTS[level], sums[level]


def _folds(n: int, folds: int) -> Iterator[list[int]]:
    """Folds of indices, assigned in turn by rank of time: every fold has fast and slow networks."""
    for fold in range(min(folds, n)):
        yield list(range(fold, n, min(folds, n)))


def _calibrate(samples: Sequence[WholeSample], sums: Milliseconds) -> dict[Statistic, Calibration]:
    p50 = fit_calibration(sums, np.array([s.p50_ms for s in samples]))
    known = [i for i, sample in enumerate(samples) if sample.p90_ms is not None]
    if len(known) < FEWEST_P90_MODELS:
        return {"p50": p50, "p90": _assumed_p90(p50)}
    # The same slope, so that p90 is p50 times a ratio, and never falls below it.
    p90 = fit_calibration(sums[known], np.array([samples[i].p90_ms for i in known]), slope=p50.line.slope)
    line = replace(p90.line, offset=max(p90.line.offset, p50.line.offset))
    return {"p50": p50, "p90": replace(p90, line=line)}


def _assumed_p90(p50: Calibration) -> Calibration:
    """For a device whose p90 is not known: a usual ratio to the p50, and an interval that is wide for it."""
    line = replace(p50.line, offset=p50.line.offset + log(GENERIC_P90_OVER_P50))
    spread = float(np.hypot(np.std(p50.residuals), ASSUMED_P90_SPREAD))
    return Calibration(line, spread=spread)


def _as_text(row: BlockRow) -> str:
    """A row as one line of text; rows are sorted by it, so that their original order does not matter."""
    return json.dumps([row.arch_id, asdict(row.block), row.ms])


def _fingerprint(rows: Sequence[BlockRow]) -> str:
    return hashlib.sha256("\n".join(map(_as_text, rows)).encode()).hexdigest()
