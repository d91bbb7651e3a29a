"""Predictors against synthetic devices, whose truth is known: additive block costs, noise, and a ratio to the whole."""

import json
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest

from elasticvit.archs.arch import Arch
from elasticvit.archs.space import PRESETS, Codes, Space
from elasticvit.costs.blocks import Block, BlockKind, blocks
from elasticvit.costs.cost_table import CostTable
from elasticvit.errors import PredictorError
from elasticvit.latency.features import work
from elasticvit.latency.fit import fit_predictor
from elasticvit.latency.predictor import LatencyPredictor, uncalibrated
from elasticvit.latency.probes import choose_probes
from elasticvit.latency.rows import BlockRow, WholeSample

SMALL = PRESETS["small"]()
RATIO, OVERHEAD_MS, P90 = 1.07, 0.02, 1.15


def _block_ms(block: Block) -> float:
    """A device unlike any linear model: tiles of 32 channels, a slow depthwise path, weights from memory."""
    w = work(block)
    tiles = -(-block.width_out // 32) * 32 / block.width_out
    rate = {BlockKind.ATTENTION: 1.4, BlockKind.HEAD: 0.8}.get(block.kind, 1.0)
    return rate * (5e-8 * w.dense_macs * tiles + 2e-7 * w.depthwise_macs + 1e-7 * w.weight_bytes) + 1e-3


def _truth_ms(arch: Arch) -> float:
    return RATIO * sum(map(_block_ms, blocks(arch))) + OVERHEAD_MS


def _measure(codes: Codes, rng: np.random.Generator, noise: float = 0.02) -> tuple[list[BlockRow], list[WholeSample]]:
    rows, wholes = [], []
    for code in codes:
        arch = SMALL.decode(code)
        p50 = _truth_ms(arch) * float(np.exp(rng.normal(0, noise)))
        rows += [BlockRow(arch.id, b, RATIO * _block_ms(b) * float(np.exp(rng.normal(0, 0.05)))) for b in blocks(arch)]
        wholes.append(WholeSample(arch, p50, p50 * P90 * float(np.exp(abs(rng.normal(0, noise)))), OVERHEAD_MS))
    return rows, wholes


@cache
def _predictor() -> LatencyPredictor:
    rng = np.random.default_rng(11)
    return fit_predictor(SMALL, *_measure(choose_probes(SMALL, 16, rng), rng))


def _held_out(n: int = 200) -> tuple[Codes, np.ndarray[tuple[int], np.dtype[np.float64]]]:
    rng = np.random.default_rng(12)
    codes = np.concatenate([choose_probes(SMALL, n // 2, rng), SMALL.sample(rng, n // 2)])
    return codes, np.array([_truth_ms(SMALL.decode(code)) for code in codes])


@pytest.mark.medium
def test_sixteen_networks_are_enough_to_predict_the_others_within_ten_percent() -> None:
    codes, truth = _held_out()
    for statistic, factor in (("p50", 1.0), ("p90", P90)):
        errors = _predictor().predict_ms(codes, statistic) / (factor * truth) - 1  # type: ignore[arg-type]
        assert np.mean(np.abs(errors) < 0.1) > 0.95
        assert np.mean(np.abs(errors)) < 0.04


@pytest.mark.medium
def test_intervals_hold_networks_never_measured() -> None:
    codes, truth = _held_out()
    lower, upper = _predictor().interval_ms(codes, 0.9)
    assert np.all(lower < upper)
    assert np.mean((lower <= truth) & (truth <= upper)) >= 0.85


@pytest.mark.medium
def test_p90_is_above_p50_and_more_confidence_above_less() -> None:
    codes, _ = _held_out()
    predictor = _predictor()
    assert np.all(predictor.predict_ms(codes, "p90") > predictor.predict_ms(codes, "p50"))
    uppers = np.array([predictor.upper_ms(codes, confidence) for confidence in (0.5, 0.8, 0.9, 0.95, 0.99)])
    assert np.all(np.diff(uppers, axis=0) >= 0) and np.all(uppers[-1] > uppers[0])
    assert (predictor.interval_method(0.9), predictor.interval_method(0.99)) == ("conformal", "student-t")


@pytest.mark.medium
def test_the_summary_describes_the_training_data() -> None:
    summary = _predictor().summary
    assert summary.models == 16
    assert summary.rows > 16 * 20
    assert summary.within_10 is not None and summary.within_10 > 0.9
    assert summary.mean_error is not None and summary.mean_error < 0.05
    assert summary.trust == 1.0
    assert set(summary.block_within_10) == {kind.value for kind in BlockKind}
    # Six first convolutions are all the space has: too few for a forest, which the summary shows.
    assert summary.block_within_10["first_conv"] is None
    assert len(summary.rows_sha256) == 64


@pytest.mark.medium
def test_json_gives_the_same_predictor_to_the_last_bit() -> None:
    codes, _ = _held_out()
    predictor = _predictor()
    again = LatencyPredictor.from_json(predictor.to_json())
    assert again.to_json() == predictor.to_json()
    assert again.predict_ms(codes).tolist() == predictor.predict_ms(codes).tolist()
    for ours, theirs in zip(
        again.interval_ms(codes, 0.9, "p90"), predictor.interval_ms(codes, 0.9, "p90"), strict=True
    ):
        assert ours.tolist() == theirs.tolist()
    assert again.summary == predictor.summary and again.calibrated


@pytest.mark.medium
def test_the_same_rows_in_another_order_give_the_same_predictor() -> None:
    rng = np.random.default_rng(11)
    rows, wholes = _measure(choose_probes(SMALL, 16, rng), rng)
    again = json.loads(fit_predictor(SMALL, rows[::-1], wholes[::-1]).to_json())
    first = json.loads(_predictor().to_json())
    for text in (again, first):
        del text["summary"]["seconds"]
    assert again == first


@pytest.mark.medium
def test_the_extremes_are_exact() -> None:
    predictor = _predictor()
    smallest, code = predictor.smallest_upper_ms(0.9)
    largest, large_code = predictor.largest_upper_ms(0.9)
    assert smallest == predictor.upper_ms(code[None], 0.9)[0]
    assert largest == predictor.upper_ms(large_code[None], 0.9)[0]
    codes = np.concatenate(
        [SMALL.sample(np.random.default_rng(3), 5000), choose_probes(SMALL, 50, np.random.default_rng(3))]
    )
    uppers = predictor.upper_ms(codes, 0.9)
    assert smallest <= uppers.min() * (1 + 1e-12) and largest >= uppers.max() * (1 - 1e-12)
    times = CostTable.build(SMALL, lambda priced: np.array([predictor.block_ms[block.key] for block in priced]))
    assert times.smallest()[1].tolist() == code.tolist()


def test_a_sum_over_blocks_is_what_the_table_gives() -> None:
    codes, _ = _held_out(20)
    predictor = _predictor()
    sums = [predictor.overhead_ms + sum(predictor.block_ms[b.key] for b in blocks(SMALL.decode(c))) for c in codes]
    assert predictor.predict_ms(codes) == pytest.approx(predictor.calibrations["p50"].predict(np.array(sums)))


@pytest.mark.parametrize("n", [0, 1, 7])
def test_too_few_networks_are_refused_with_how_many_are_missing(n: int) -> None:
    rng = np.random.default_rng(1)
    rows, wholes = _measure(SMALL.sample(rng, n), rng)
    with pytest.raises(PredictorError, match=f"measure {8 - n} more"):
        fit_predictor(SMALL, rows, wholes)


def test_one_network_measured_often_is_one_network() -> None:
    rng = np.random.default_rng(1)
    rows, wholes = _measure(np.repeat(SMALL.sample(rng, 1), 20, axis=0), rng)
    with pytest.raises(PredictorError, match="measure 7 more"):
        fit_predictor(SMALL, rows, wholes)


@pytest.mark.medium
@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan"), float("inf")])
def test_times_that_cannot_be_are_refused(bad: float) -> None:
    rng = np.random.default_rng(1)
    rows, wholes = _measure(SMALL.sample(rng, 8), rng)
    with pytest.raises(PredictorError, match="positive"):
        fit_predictor(SMALL, [*rows, BlockRow("x", rows[0].block, bad)], wholes)
    with pytest.raises(PredictorError, match="profiles"):
        fit_predictor(SMALL, [], wholes)


def test_unknown_statistics_and_confidences_are_refused() -> None:
    codes = SMALL.sample(np.random.default_rng(0), 1)
    with pytest.raises(PredictorError, match="p50, p90"):
        _predictor().predict_ms(codes, "p99")  # type: ignore[arg-type]
    with pytest.raises(PredictorError, match="confidence"):
        _predictor().interval_ms(codes, 0.3)


@pytest.mark.medium
@pytest.mark.parametrize("name", PRESETS)
def test_an_estimate_without_measurements_is_marked_and_wide(name: str) -> None:
    space: Space = PRESETS[name]()
    predictor = LatencyPredictor.from_json(uncalibrated(space).to_json())
    assert not predictor.calibrated
    assert predictor.interval_method(0.9) == "assumed"
    assert predictor.summary.models == 0 and predictor.summary.within_10 is None
    codes = space.sample(np.random.default_rng(0), 3)
    lower, upper = predictor.interval_ms(codes, 0.9)
    assert upper / lower == pytest.approx(9, rel=1e-3)


def _without(key: str) -> Callable[[dict[str, object]], object]:
    return lambda data: data.pop(key)


@pytest.mark.parametrize(
    "spoil",
    [*map(_without, ("format", "space", "block_ms", "calibrations")), lambda data: data.update(format=99)],
)
def test_damaged_json_is_refused(spoil: Callable[[dict[str, object]], object]) -> None:
    data = json.loads(uncalibrated(SMALL).to_json())
    spoil(data)
    with pytest.raises(PredictorError):
        LatencyPredictor.from_json(json.dumps(data))


def test_a_predictor_that_lacks_blocks_of_its_space_is_refused() -> None:
    data = json.loads(uncalibrated(SMALL).to_json())
    data["block_ms"].popitem()
    with pytest.raises(PredictorError, match="has no time for block"):
        LatencyPredictor.from_json(json.dumps(data))
    for text in ("", "[]", "{", "null"):
        with pytest.raises(PredictorError):
            LatencyPredictor.from_json(text)


@pytest.mark.parametrize("name", PRESETS)
def test_probes_span_the_space(name: str) -> None:
    space: Space = PRESETS[name]()
    probes = choose_probes(space, 16, np.random.default_rng(0))
    assert np.all(space.valid(probes))
    assert len({code.tobytes() for code in probes}) == 16
    assert space.decode(probes[0]) == space.smallest() and space.decode(probes[-1]) == space.largest()
    assert probes.tolist() == choose_probes(space, 16, np.random.default_rng(0)).tolist()
    with pytest.raises(PredictorError, match="at least 2"):
        choose_probes(space, 1, np.random.default_rng(0))
