"""The contract with nn-Meter 2.0: that it is used, and that its faults stay behind the adapter."""

import logging
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest

from elasticvit.costs.blocks import Block, BlockKind, ffn, first_conv
from elasticvit.errors import PredictorError
from elasticvit.latency.features import FEATURE_NAMES, features
from elasticvit.latency.nnmeter import VERSION, kernel_name, load, train_forest
from elasticvit.latency.prior import fit_prior
from elasticvit.latency.rows import BlockRow

FFNS = [ffn(side, width, ratio) for side in (4, 8, 14) for width in (32, 48, 64, 96) for ratio in (2, 3, 4, 5)]


def _ms(block: Block) -> float:
    """A device where a wide block costs 1.5 times what its size suggests."""
    return 1e-7 * block.side_in**2 * block.width_in**2 * block.mlp_ratio * (1.5 if block.width_in > 50 else 1.0)


def test_the_version_that_this_was_written_for() -> None:
    assert version("nn-meter") == VERSION == load().version


@pytest.mark.medium
def test_its_training_function_is_what_trains() -> None:
    """What comes back is what `build_predictor_by_data` returned: called here directly, it gives the same forest."""
    rows = [BlockRow("a", block, _ms(block)) for block in FFNS]
    baseline = fit_prior(rows).predict_ms
    forest = train_forest(BlockKind.FFN, rows, baseline)
    meter = load()
    assert meter.build_predictor_by_data.__module__.startswith("nn_meter.builder")
    name = kernel_name(BlockKind.FFN)
    ratios = [_ms(block) for block in FFNS] / baseline(FFNS)
    data = {
        str(i): {"model": "m", "config": {"block": block}, "latency": meter.latency(float(ratio), 0.0)}
        for i, (block, ratio) in enumerate(zip(FFNS, ratios, strict=True))
    }
    _, acc10, _ = meter.build_predictor_by_data(name, {name: data}, "elasticvit")
    direct, _, _ = meter.build_predictor_by_data(name, {name: data}, "elasticvit", final_predictor=True)
    assert forest.acc10 == acc10
    assert (
        forest.forest.predict([features(b) for b in FFNS]).tolist()
        == direct.predict([features(b) for b in FFNS]).tolist()
    )


@pytest.mark.medium
def test_a_forest_learns_what_the_baseline_cannot() -> None:
    rows = [BlockRow("a", block, _ms(block)) for block in FFNS]
    baseline = fit_prior(rows).predict_ms
    forest = train_forest(BlockKind.FFN, rows, baseline)
    truth = np.array([_ms(block) for block in FFNS])
    assert np.abs(forest.predict_ms(FFNS) / truth - 1).mean() < 0.5 * np.abs(baseline(FFNS) / truth - 1).mean()
    assert forest.blocks == len(FFNS)
    assert forest.acc10 is not None and forest.acc10 > 0.7


@pytest.mark.medium
def test_training_twice_gives_the_same_forest() -> None:
    rows = [BlockRow("a", block, _ms(block)) for block in FFNS]
    baseline = fit_prior(rows).predict_ms
    one, other = (train_forest(BlockKind.FFN, rows, baseline).predict_ms(FFNS) for _ in range(2))
    assert one.tolist() == other.tolist()


def test_few_blocks_are_left_to_the_baseline() -> None:
    """Repeated rows of one block are one block."""
    block = first_conv(64, 8)
    forest = train_forest(BlockKind.FIRST_CONV, [BlockRow("a", block, 0.1)] * 20, lambda blocks: np.ones(len(blocks)))
    assert (forest.forest, forest.acc10, forest.blocks) == (None, None, 1)
    assert forest.predict_ms([block]).tolist() == [1.0]


def test_rows_of_another_kind_are_refused() -> None:
    with pytest.raises(PredictorError, match="another kind"):
        train_forest(BlockKind.CONV, [BlockRow("a", FFNS[0], 0.1)], lambda blocks: np.ones(len(blocks)))


@pytest.mark.medium
@pytest.mark.parametrize("kind", BlockKind)
def test_every_block_kind_has_a_parser(kind: BlockKind) -> None:
    """A kernel name with "conv" or "fc" in it would draw nn-Meter's own features."""
    before = list(sys.path)
    parser = load().extract_feature.get_feature_parser(kernel_name(kind))
    sys.path[:] = before
    assert type(parser).__module__ == "elasticvit.latency.nnmeter"
    assert len(parser.get_feature_by_config({"block": FFNS[0]})) == len(FEATURE_NAMES) == len(features(FFNS[0]))


@pytest.mark.medium
def test_training_prints_nothing_and_leaves_sys_path_alone(capfd: pytest.CaptureFixture[str]) -> None:
    load()  # an import happens once, and pkg_resources extends the path
    before = list(sys.path)
    rows = [BlockRow("a", block, _ms(block)) for block in FFNS]
    train_forest(BlockKind.FFN, rows, fit_prior(rows).predict_ms)
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")
    assert sys.path == before
    assert not any(type(handler) is logging.StreamHandler for handler in logging.getLogger("nn-Meter").handlers)


PROGRAM = """
import os
from pathlib import Path
from elasticvit.latency.nnmeter import load
load()
assert os.environ["HOME"] == {home!r}
import sys
for name in ("torch", "tensorflow", "onnx"):
    assert name not in sys.modules, name
"""


@pytest.mark.medium
def test_importing_it_leaves_nothing_in_the_home_folder(tmp_path: Path) -> None:
    """In a process of its own, since an import happens once; a hostile registry there is not read."""
    home = tmp_path / "home"
    registry = home / ".nn_meter" / "config" / "registry.yaml"
    registry.parent.mkdir(parents=True)
    registry.write_text("{broken: [")
    before = sorted(home.rglob("*"))
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(home=str(home))],
        env={"HOME": str(home), "TMPDIR": str(temporary), "PATH": "/usr/bin:/bin"},
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (done.stdout, done.stderr) == ("", "")
    assert sorted(home.rglob("*")) == before
    assert registry.read_text() == "{broken: ["
    assert list(temporary.iterdir()) == []
