"""What is reported of networks that predictions chose, against what is true of them."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from elasticvit.accuracy.correction import FLATTEST, Correction
from elasticvit.accuracy.predictor import fit_accuracy
from elasticvit.accuracy.table import AccuracyTable, OnVal, append
from elasticvit.archs.space import PRESETS, Codes
from elasticvit.costs.cost_table import CostTable

SMALL = PRESETS["small"]()
MACS = CostTable.of_macs(SMALL)
FEW, MANY = 60, 2000
EASIER = 0.5
"""Logits by which the images that choose are easier than others."""


def _true(codes: Codes) -> NDArray[np.float64]:
    return np.asarray(1 / (1 + np.exp(-(0.7 + 0.15 * np.log2(MACS.total(codes) / 8e6)))), np.float64)


def _table(rng: np.random.Generator, val_images: int) -> AccuracyTable:
    """40 networks on 60 easy images that choose, and on others."""
    codes = SMALL.sample(rng, 40)
    true = _true(codes)
    odds = true / (1 - true) * np.exp(EASIER)
    top1, val = rng.binomial(FEW, odds / (1 + odds)) / FEW, rng.binomial(max(val_images, 1), true) / max(val_images, 1)
    return AccuracyTable(SMALL, codes, top1, FEW, val, val_images, True if val_images else None)


@pytest.mark.medium
def test_the_reported_accuracy_of_the_best_is_true() -> None:
    """Without images that chose nothing it is not, and says so."""
    everybody = SMALL.sample(np.random.default_rng(9), 2000)
    errors, untold = list[float](), list[float]()
    for seed in range(8):
        predictor = fit_accuracy(_table(np.random.default_rng(seed), MANY))
        best = everybody[int(predictor.predict(everybody).argmax())]
        reported = predictor.accuracy_of(best)
        truth = float(_true(best[None])[0])
        assert reported.source == "predicted" and reported.images == 0 and reported.independent is True
        assert reported.lower is not None and reported.upper is not None and reported.lower < truth < reported.upper
        errors.append(reported.value - truth)
        untold.append(float(predictor.predict(best[None])[0]) - truth)
    assert abs(np.mean(errors)) < 0.02
    assert np.mean(untold) > 0.06


def test_a_table_without_them_says_that_its_images_chose() -> None:
    predictor = fit_accuracy(_table(np.random.default_rng(0), 0))
    code = SMALL.encode(SMALL.largest())
    reported = predictor.accuracy_of(code)
    assert reported.independent is False
    assert reported.value == pytest.approx(float(predictor.predict(code[None])[0]))


def test_the_order_of_networks_stays_that_of_the_choice() -> None:
    rng = np.random.default_rng(0)
    table = _table(rng, MANY)
    shuffled = AccuracyTable(SMALL, table.codes, table.top1, FEW, rng.permutation(table.val), MANY, True)
    codes = SMALL.sample(rng, 200)
    for one in (table, shuffled):
        predictor = fit_accuracy(one)
        assert FLATTEST <= predictor.correction.slope <= 1
        chosen = predictor.predict(codes)
        reported = np.array([predictor.accuracy_of(code).value for code in codes])
        assert np.all(np.diff(reported[np.argsort(chosen)]) >= 0)


def test_an_interval_is_wide_for_few_images_and_for_bad_predictions() -> None:
    def width(images: int, spread: float) -> float:
        reported = Correction(spread=spread, images=images, independent=True).accuracy(0.8)
        assert reported.lower is not None and reported.upper is not None and reported.lower < 0.8 < reported.upper
        return reported.upper - reported.lower

    assert width(60, 0.0) > 2 * width(600, 0.0) > 0
    assert width(600, 0.05) > 0.19 and width(600, 0.0) < 0.07
    assert Correction().accuracy(0.8).lower is None, "nothing is known of the images"


def test_both_numbers_come_back_from_a_file_that_earlier_versions_read(tmp_path: Path) -> None:
    path, table = tmp_path / "a.accuracy.jsonl", _table(np.random.default_rng(0), MANY)
    val = OnVal(table.val.tolist(), MANY, True)
    append(path, SMALL, FEW, table.codes, table.top1, val=val)
    loaded = AccuracyTable.load(path)
    assert loaded.val.tolist() == table.val.tolist()
    assert (loaded.val_images, loaded.val_independent, loaded.images) == (MANY, True, FEW)
    assert fit_accuracy(loaded) == fit_accuracy(table)
    # Earlier versions read format 1, and of every line the code and top1.
    assert path.read_text().splitlines()[0].startswith('{"format": 1, "images": 60, "space": ')


def test_a_table_may_have_them_of_some_networks_only(tmp_path: Path) -> None:
    table = _table(np.random.default_rng(0), MANY)
    some = np.where(np.arange(40) < 20, table.val, np.nan)
    half = AccuracyTable(SMALL, table.codes, table.top1, FEW, some, MANY, True)
    assert half.reported(table.codes[0]) is not None and half.reported(table.codes[39]) is None
    assert half.chosen_by(table.codes[39]) is not None
    assert fit_accuracy(half).accuracy_of(table.codes[39]).independent is True
