"""Predictors on real phones' block latencies (the authors' tables), if these are present.

Set ELASTICVIT_SHARED_DATA to the folder that holds `phone-latency-tables`.
"""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from elasticvit.archs.arch import Arch
from elasticvit.archs.published import PUBLISHED
from elasticvit.archs.space import PRESETS
from elasticvit.costs.blocks import blocks
from elasticvit.latency.fit import fit_predictor
from elasticvit.latency.predictor import uncalibrated
from elasticvit.latency.probes import choose_probes
from elasticvit.latency.rows import BlockRow, WholeSample

FOLDER = Path(os.environ.get("ELASTICVIT_SHARED_DATA", "")) / "phone-latency-tables"
PHONES = ("pixel1", "pixel4", "pixel6")
PAPER = PRESETS["paper"]()

pytestmark = pytest.mark.skipif(
    not (os.environ.get("ELASTICVIT_SHARED_DATA") and FOLDER.is_dir()),
    reason="ELASTICVIT_SHARED_DATA does not name a folder with phone-latency-tables",
)


def _table(phone: str) -> dict[str, float]:
    table: dict[str, float] = json.loads((FOLDER / f"{phone}_lut_ln_v3.json").read_text())
    return table


def _whole_ms(table: dict[str, float], arch: Arch) -> float:
    return sum(table[block.key] for block in blocks(arch))


@pytest.mark.parametrize("phone", PHONES)
def test_sixteen_networks_calibrate_a_phone(phone: str) -> None:
    table, rng = _table(phone), np.random.default_rng(0)
    archs = [PAPER.decode(code) for code in choose_probes(PAPER, 16, rng)]
    rows = [BlockRow(a.id, b, table[b.key] * float(np.exp(rng.normal(0, 0.05)))) for a in archs for b in blocks(a)]
    wholes = [WholeSample(a, _whole_ms(table, a), 1.1 * _whole_ms(table, a)) for a in archs]
    predictor = fit_predictor(PAPER, rows, wholes)
    codes = np.concatenate([PAPER.sample(rng, 200), choose_probes(PAPER, 100, rng)])
    truth = np.array([_whole_ms(table, PAPER.decode(code)) for code in codes])
    assert np.mean(np.abs(predictor.predict_ms(codes) / truth - 1) < 0.1) > 0.95
    lower, upper = predictor.interval_ms(codes, 0.9)
    assert np.mean((lower <= truth) & (truth <= upper)) > 0.75


@pytest.mark.parametrize("phone", PHONES)
def test_the_estimate_without_measurements_is_within_its_interval(phone: str) -> None:
    table, predictor = _table(phone), uncalibrated(PAPER)
    factor = predictor.calibrations["p50"].factor(0.9)
    for arch in map(PAPER.adopt, PUBLISHED.values()):
        ratio = predictor.predict_ms(PAPER.encode(arch)[None])[0] / _whole_ms(table, arch)
        assert 1 / 2.2 < ratio < 2.2 < factor
