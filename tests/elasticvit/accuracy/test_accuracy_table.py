"""The table of evaluated sub-networks on disk, and what is concluded from it."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import spearmanr

from elasticvit.accuracy.predictor import BENDS, CAPACITY_FLOOR, fit_accuracy
from elasticvit.accuracy.table import AccuracyTable, append
from elasticvit.archs.space import PRESETS, Codes, Space
from elasticvit.costs.cost_table import CostTable
from elasticvit.errors import PredictorError
from tests.elasticvit.training.tiny_training import tiny_space
from tests.small_disk import small_disk

SMALL = PRESETS["small"]()
MACS = CostTable.of_macs(SMALL)
IMAGES = 1000


def _true(codes: Codes, gain: float = 0.6) -> NDArray[np.float64]:
    """Saturating, mostly size, a little depth and resolution."""
    size = np.log2(MACS.total(codes) / 8e6)
    return np.asarray(1 / (1 + np.exp(-(2 + gain * (size + 0.2 * codes[:, 0] + 0.2 * codes[:, 22])))), np.float64)


def _table(n: int, gain: float = 0.6, seed: int = 0) -> AccuracyTable:
    rng = np.random.default_rng(seed)
    codes = SMALL.sample(rng, n)
    return AccuracyTable(SMALL, codes, rng.binomial(IMAGES, _true(codes, gain)) / IMAGES, IMAGES)


def test_a_table_comes_back_from_its_file(tmp_path: Path) -> None:
    path, table = tmp_path / "deep" / "digits.accuracy.jsonl", _table(20)
    append(path, SMALL, IMAGES, table.codes[:12], table.top1[:12])
    append(path, SMALL, IMAGES, table.codes[12:], table.top1[12:])
    loaded = AccuracyTable.load(path)
    assert loaded.space == SMALL and loaded.images == IMAGES
    assert loaded.codes.tolist() == table.codes.tolist() and loaded.top1.tolist() == table.top1.tolist()
    append(path, SMALL, IMAGES, table.codes[:1], [0.5])
    again = AccuracyTable.load(path)
    assert len(again.top1) == 20 and again.top1[0] == 0.5


@pytest.mark.parametrize("cut", [1, 5, 30])
def test_a_line_cut_off_by_a_crash_is_left_out_and_then_replaced(tmp_path: Path, cut: int) -> None:
    path, table = tmp_path / "t.jsonl", _table(3)
    append(path, SMALL, IMAGES, table.codes, table.top1)
    path.write_bytes(path.read_bytes()[:-cut])
    assert len(AccuracyTable.load(path).top1) == 2
    append(path, SMALL, IMAGES, table.codes[2:], table.top1[2:])
    assert AccuracyTable.load(path).top1.tolist() == table.top1.tolist()


def test_a_file_of_another_space_or_other_images_is_not_mixed_in(tmp_path: Path) -> None:
    path, table = tmp_path / "t.jsonl", _table(3)
    append(path, SMALL, IMAGES, table.codes, table.top1)
    for space, images in ((PRESETS["small"](20), IMAGES), (SMALL, 2 * IMAGES)):
        with pytest.raises(PredictorError, match="another space"):
            append(path, space, images, table.codes, table.top1)
    assert len(AccuracyTable.load(path).top1) == 3


@pytest.mark.parametrize("text", ["", "{}", "{}\n", "nonsense\n", '{"format": 2}\n', "[1]\n"])
def test_files_that_are_no_tables_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "t.jsonl"
    with pytest.raises(PredictorError, match="no accuracy table"):
        AccuracyTable.load(path)
    path.write_text(text)
    with pytest.raises(PredictorError):
        AccuracyTable.load(path)


@pytest.mark.parametrize("index", [-1, 3, 128, 200, 10**30, 0.5, "0", None])
def test_a_code_that_is_not_in_the_space_is_refused(tmp_path: Path, index: object) -> None:
    """Also one that 8 bits cannot hold, or that would count from the end."""
    path, table = tmp_path / "t.jsonl", _table(3)
    append(path, SMALL, IMAGES, table.codes, table.top1)
    with path.open("a") as file:
        file.write(json.dumps({"code": [index] + [0] * 28, "top1": 0.5}) + "\n")
    with pytest.raises(PredictorError, match="is not an accuracy table"):
        AccuracyTable.load(path)


@pytest.mark.parametrize("resolutions", [[], [64, 32], list(range(16, 1025))])
def test_a_table_of_what_is_no_space_is_refused(tmp_path: Path, resolutions: list[int]) -> None:
    space = json.loads(SMALL.to_json()) | {"resolutions": resolutions}
    path = tmp_path / "t.jsonl"
    path.write_text(json.dumps({"format": 1, "images": IMAGES, "space": space}) + "\n")
    with pytest.raises(PredictorError, match="is not an accuracy table"):
        AccuracyTable.load(path)


def test_values_that_cannot_be_are_refused() -> None:
    codes = SMALL.sample(np.random.default_rng(0), 2)
    for top1 in ([0.5, 1.2], [0.5, float("nan")], [0.5]):
        with pytest.raises(PredictorError):
            AccuracyTable(SMALL, codes, np.array(top1), IMAGES)


def test_others_are_predicted_from_a_few_dozen() -> None:
    predictor = fit_accuracy(_table(48))
    codes = SMALL.sample(np.random.default_rng(9), 1000)
    predicted, truth = predictor.predict(codes), _true(codes)
    assert np.mean(np.abs(predicted - truth)) < 0.015
    assert spearmanr(predicted, truth).statistic > 0.9
    summary = predictor.summary
    assert summary.mae < 0.6 * summary.mae_mean and summary.spearman > 0.8
    assert (summary.subnets, summary.images) == (48, IMAGES)
    assert not summary.capacity_floor


def test_size_may_be_worth_more_and_more() -> None:
    """As where the largest network is taught in every step; a straight line would answer too little for it."""
    rng = np.random.default_rng(0)
    ends = np.stack([SMALL.encode(SMALL.smallest()), SMALL.encode(SMALL.largest())])
    codes = np.concatenate([ends, SMALL.sample(rng, 200)])
    size = np.log2(CostTable.of_macs(SMALL).total(codes))
    fraction = (size - size[0]) / (size[1] - size[0])
    top1 = 0.6 + 0.05 * fraction + 0.2 * np.maximum(fraction - 0.7, 0)
    predictor = fit_accuracy(AccuracyTable(SMALL, codes, top1, IMAGES))
    assert predictor.predict(codes[:2]) == pytest.approx(top1[:2], abs=0.01)
    assert max(predictor.bends) > 0.05 and min(predictor.bends) >= 0
    straight = replace(predictor, bends=(0.0,) * BENDS)
    assert np.all(straight.predict(codes[1:2]) < predictor.predict(codes[1:2]) - 0.02)


@pytest.mark.medium
@pytest.mark.parametrize("gain", [0.6, 0.0, -0.3])
def test_a_larger_choice_is_never_predicted_worse(gain: float) -> None:
    """Whatever the data say; where they say otherwise, the summary shows it."""
    predictor = fit_accuracy(_table(32, gain))
    codes = SMALL.sample(np.random.default_rng(9), 300)
    for position, size in enumerate(SMALL.sizes):
        larger = codes.copy()
        larger[:, position] = np.minimum(larger[:, position] + 1, size - 1)
        changed = SMALL.valid(larger) & (larger != codes).any(axis=1)
        assert np.all(predictor.predict(larger[changed]) > predictor.predict(codes[changed]))
    assert predictor.slope >= CAPACITY_FLOOR
    if gain < 0:
        assert predictor.summary.capacity_floor
        assert predictor.summary.mae_free < predictor.summary.mae


@pytest.mark.medium
def test_accuracies_that_are_all_alike_can_be_fitted() -> None:
    codes = SMALL.sample(np.random.default_rng(0), 8)
    for value in (0.0, 0.97, 1.0):
        predictor = fit_accuracy(AccuracyTable(SMALL, codes, np.full(8, value), 100))
        assert np.allclose(predictor.predict(codes), value, atol=0.02)
        assert predictor.summary.capacity_floor and predictor.summary.spearman == 0.0


def test_the_same_table_gives_the_same_predictor() -> None:
    assert fit_accuracy(_table(20)) == fit_accuracy(_table(20))


@pytest.mark.parametrize("n", [0, 1, 7])
def test_too_few_are_refused_with_how_many_are_missing(n: int) -> None:
    with pytest.raises(PredictorError, match=f"evaluate {8 - n} more"):
        fit_accuracy(_table(n))


@pytest.mark.medium
@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_can_be_fitted(name: str) -> None:
    space: Space = PRESETS[name]()
    codes = space.sample(np.random.default_rng(0), 8)
    predicted = fit_accuracy(AccuracyTable(space, codes, np.linspace(0.5, 0.6, 8), 500)).predict(codes)
    assert predicted.shape == (8,) and np.all((predicted > 0) & (predicted < 1))


def test_one_place_spells_the_name_of_a_table() -> None:
    root = Path(__file__).parents[3]
    packages = ("elasticvit", "server", "device_agent", "android_bench", "benchmarks")
    files = [file for package in packages for file in (root / package).rglob("*.py")]
    spelling = [file for file in files if '.accuracy.jsonl"' in file.read_text("utf-8")]
    assert spelling == [root / "elasticvit" / "nn" / "supernet_header.py"]


def test_a_table_that_cannot_be_written_ends_with_a_sentence(tmp_path: Path) -> None:
    space = tiny_space()
    codes = space.sample(np.random.default_rng(0), 50)
    with small_disk(100), pytest.raises(PredictorError, match=r"cannot write the accuracy table .*File too large"):
        append(tmp_path / "a.accuracy.jsonl", space, 10, codes, [0.5] * 50)
