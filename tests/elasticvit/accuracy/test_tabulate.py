"""Tables made by several processes, and the front that is found with one."""

from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from elasticvit.accuracy.best_predicted import best_predicted
from elasticvit.accuracy.evaluate import evaluate, recalibrated
from elasticvit.accuracy.front import Front, Point, front, undominated
from elasticvit.accuracy.intervals import wilson
from elasticvit.accuracy.predictor import fit_accuracy
from elasticvit.accuracy.table import AccuracyTable
from elasticvit.accuracy.tabulate import STEPS, spread, tabulate_file
from elasticvit.accuracy.unfinished_table import UnfinishedTable
from elasticvit.accuracy.value import Accuracy
from elasticvit.cli.app import app
from elasticvit.cli.arguments import find_arch
from elasticvit.costs.flops import macs
from elasticvit.data.image_set import digits
from elasticvit.errors import DataError, PredictorError, StoppedError
from elasticvit.nn.supernet import SuperNet
from elasticvit.nn.supernet_file import Card, load_supernet, save_supernet
from elasticvit.nn.supernet_header import table_path
from elasticvit.progress import Step, silent, unheard
from tests.elasticvit.training.tiny_training import tiny_space

N = 10


def _supernet(folder: Path, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    provenance = {"splits": digits().splits()}
    card = Card("tiny", digits().class_names, "digits", provenance=provenance)
    file = folder / "tiny.safetensors"
    save_supernet(file, SuperNet(tiny_space()), card, calibration=digits().train.images[:64])
    return file


@pytest.fixture(scope="module")
def tabulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = _supernet(tmp_path_factory.mktemp("one"))
    tabulate_file(file, N, 1, silent)
    return file


@pytest.mark.long
@pytest.mark.slow
def test_two_processes_write_what_one_writes_also_after_a_stop(tabulated: Path, tmp_path: Path) -> None:
    file, steps = _supernet(tmp_path), list[Step]()
    calls = iter(range(1000))
    with pytest.raises(StoppedError, match="after evaluating 3 of 10"):
        tabulate_file(file, N, 2, silent, lambda: next(calls) >= 3)
    assert not table_path(file).exists()
    assert tabulate_file(file, N, 2, steps.append) == table_path(file)
    assert table_path(file).read_bytes() == table_path(tabulated).read_bytes()
    assert [step.done for step in steps] == list(range(1, N + 1))
    assert {path.name for path in tmp_path.iterdir()} == {"tiny.safetensors", "tiny.accuracy.jsonl"}


@pytest.mark.medium
def test_accuracies_of_another_supernet_of_the_space_are_not_continued(tabulated: Path, tmp_path: Path) -> None:
    file, messages, calls = _supernet(tmp_path, seed=1), list[str](), iter(range(1000))
    with pytest.raises(StoppedError, match="after evaluating 3 of 10"):
        tabulate_file(file, N, 1, silent, lambda: next(calls) >= 3, say=messages.append)
    unfinished = file.with_name(".tiny.accuracy.jsonl")
    assert unfinished.exists() and messages == []
    _supernet(tmp_path)
    tabulate_file(file, N, 1, silent, say=messages.append)
    assert table_path(file).read_bytes() == table_path(tabulated).read_bytes() and not unfinished.exists()
    (message,) = messages
    assert "another supernet" in message and "starting over" in message


@pytest.mark.medium
def test_an_interrupted_command_exits_with_0_and_resumes(tmp_path: Path) -> None:
    file, command = _supernet(tmp_path), ["tabulate", "--n", "8", "--best", "0"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("elasticvit.training.run.stop_on_signals", lambda: nullcontext(lambda: True))
        result = CliRunner().invoke(app, [*command, str(file)])
    assert result.exit_code == 0 and "after evaluating 0 of 8" in result.output and "to resume" in result.output
    assert CliRunner().invoke(app, [*command, str(file)]).exit_code == 0 and table_path(file).is_file()


@pytest.mark.long
@pytest.mark.slow
def test_the_best_by_prediction_follow_those_of_all_sizes(tabulated: Path, tmp_path: Path) -> None:
    """The same ones also after a stop in their midst, which counts what was known before."""
    file, calls = _supernet(tmp_path), iter(range(1000))
    with pytest.raises(StoppedError, match="after evaluating 4 of 23"):
        tabulate_file(file, N, 1, silent, lambda: next(calls) >= N + 3, best=24)
    tabulate_file(file, N, 1, silent, best=24)
    without, table = AccuracyTable.load(table_path(tabulated)), AccuracyTable.load(table_path(file))
    best = best_predicted(fit_accuracy(without), STEPS, 2, seed=0)
    assert np.array_equal(table.codes[:N], without.codes) and np.array_equal(table.top1[:N], without.top1)
    known = {tuple(code) for code in without.codes.tolist()}
    assert table.codes[N:].tolist() == [code for code in best.tolist() if tuple(code) not in known]
    assert 3 < len(best) <= 24


def test_a_second_writer_is_refused_and_loses_nothing(tmp_path: Path) -> None:
    file = _supernet(tmp_path)
    with UnfinishedTable.open(file, tiny_space(), unheard) as first:
        first.append(
            tiny_space().encode(tiny_space().smallest()), Accuracy.measured(0.5, 10), Accuracy.measured(0.4, 10)
        )
        known = first.path.read_bytes()
        with pytest.raises(PredictorError, match="another process evaluates"):
            tabulate_file(file, N, 1, silent)
        assert first.path.read_bytes() == known
    with UnfinishedTable.open(file, tiny_space(), unheard) as again:
        assert len(again.load().codes) == 1


@pytest.mark.medium
def test_a_table_is_of_networks_recalibrated_by_the_carried_images(tabulated: Path) -> None:
    supernet, table, data = load_supernet(tabulated), AccuracyTable.load(table_path(tabulated)), digits()
    assert np.array_equal(table.codes, spread(tiny_space(), N)) and table.images == len(data.search)
    assert (table.val_images, table.val_independent) == (len(data.val), True)
    for at in (0, 4):
        net = recalibrated(supernet, table.space.decode(table.codes[at]))
        assert evaluate(net, data.scaled(data.search.images), data.search.labels) == table.top1[at]
        assert evaluate(net, data.scaled(data.val.images), data.val.labels) == table.val[at]


@pytest.mark.medium
def test_a_front_is_measured_on_images_that_chose_nothing(tabulated: Path) -> None:
    measured, data = front(tabulated, points=5, candidates=2), digits()
    assert [find_arch(point.arch).id for point in measured.points] == [point.arch_id for point in measured.points]
    sizes, chosen = [point.macs for point in measured.points], [point.search for point in measured.points]
    assert chosen == sorted(set(chosen)) and measured.steps == 5
    assert sizes == sorted(set(sizes)) and len(sizes) >= 1 and sizes[0] == macs(tiny_space().smallest())
    assert measured.images == len(data.val) and len(chosen) == len(sizes)
    net = recalibrated(load_supernet(tabulated), tiny_space().smallest())
    assert measured.points[0].val == evaluate(net, data.scaled(data.val.images), data.val.labels)
    assert measured.independent and measured.points[0].lower == wilson(measured.points[0].val, len(data.val))[0]
    assert measured.points[0].search == evaluate(net, data.scaled(data.search.images), data.search.labels)
    with pytest.raises(DataError, match="2 points or more"):
        front(tabulated, points=1)


@pytest.mark.medium
def test_the_summary_of_a_front() -> None:
    vals = (0.70, 0.80, 0.77, 0.85)
    summary = Front.of([Point(str(i), "{}", 10 * i, 0.0, val, 0.01) for i, val in enumerate(vals, start=1)], 100, 5)
    assert summary.spearman == pytest.approx(0.8)
    assert summary.largest_drop_se == pytest.approx(3.0)
    assert summary.best_minus_smallest == pytest.approx(0.15)
    with pytest.raises(DataError, match="nothing that was found beats the smallest"):
        Front.of(summary.points[:1], 100, 5)


@pytest.mark.medium
def test_a_network_that_a_smaller_one_beats_is_not_of_the_front() -> None:
    search = np.array([0.7, 0.76, 0.75, 0.80, 0.80, 0.74, 0.81])
    assert undominated([1, 2, 5, 3, 4, 6], search) == [1, 3, 6]
