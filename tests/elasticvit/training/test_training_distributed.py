"""Several processes as one: real ones, that talk over sockets."""

import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from elasticvit.data.image_set import digits
from elasticvit.errors import DataError
from elasticvit.training.batches import batches, parts_of
from elasticvit.training.distributed import World, buckets, joined
from elasticvit.training.loop import fresh_supernet, train
from tests.elasticvit.training.one_process import LOST, STOP_AFTER, few_digits, whole_recipe

ROOT = Path(__file__).parents[3]
PATIENCE_S = 240


@dataclass(frozen=True)
class Ended:
    """The exit status of a process and its standard error."""

    status: int
    stderr: str


def _two_processes(mode: str, folder: Path) -> tuple[Ended, Ended]:
    """Both are ended when the first one is."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    command = [sys.executable, "-m", "tests.elasticvit.training.one_process", mode, os.fspath(folder)]
    logs = [folder / f"{rank}.err" for rank in range(2)]
    with logs[0].open("w") as first, logs[1].open("w") as second:
        processes = [
            subprocess.Popen(command, cwd=ROOT, stderr=file, env=env | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
            for rank, file in enumerate((first, second))
        ]
        try:
            processes[0].wait(PATIENCE_S)
            if mode == "trained":
                processes[1].wait(PATIENCE_S)
        finally:
            for process in processes:
                process.kill()
        a, b = (Ended(process.wait(), file.read_text()) for process, file in zip(processes, logs, strict=True))
    return a, b


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes left that trained to the end, and then were stopped."""
    folder = tmp_path_factory.mktemp("together")
    for ended in _two_processes("trained", folder):
        assert ended.status == 0, ended.stderr
    return folder


def _apart(a: dict[str, Tensor], b: dict[str, Tensor], names: set[str]) -> float:
    """The largest difference of any number."""
    return max(float((a[name].double() - b[name].double()).abs().max()) for name in names)


@pytest.mark.medium
def test_two_processes_train_what_one_does_that_takes_both_halves(together: Path) -> None:
    first, second = (torch.load(together / f"{rank}.pt") for rank in range(2))
    alone = train(whole_recipe(ema=None), digits())
    weights = {name for name, _ in alone.named_parameters()}
    assert _apart(first, second, weights) == 0
    assert _apart(first, alone.state_dict(), weights) < 1e-6
    assert _apart(first, fresh_supernet(whole_recipe()).state_dict(), weights) > 1e-3
    # Each process has seen its own half of the images.
    means = {name for name in first if name.endswith("running_mean")}
    assert _apart(first, second, means) > 1e-3


@pytest.mark.medium
def test_processes_refresh_their_banks_alike(together: Path, tmp_path: Path) -> None:
    """In a run of two epochs, scores are those of all images, whichever process has which half."""
    train(whole_recipe(ema=None), few_digits(), checkpoint=tmp_path / "alone.checkpoint")
    banks = [
        torch.load(path)["sampler"]["banks"] for path in (together / "epochs.checkpoint", tmp_path / "alone.checkpoint")
    ]
    shared, alone = ([entry for bank in bank_list for entry in bank] for bank_list in banks)
    assert len(shared) >= 2
    for (code, score), (expected, expected_score) in zip(shared, alone, strict=True):
        assert code == expected and score == pytest.approx(expected_score, abs=1e-5)


@pytest.mark.medium
def test_stopping_one_process_stops_all(together: Path) -> None:
    messages = {(together / f"{rank}.stopped").read_text() for rank in range(2)}
    assert messages == {f"stopped after step {STOP_AFTER} of 8"}
    assert not list(together.glob("*.part"))


@pytest.mark.medium
def test_one_process_goes_on_where_two_stopped(together: Path) -> None:
    """Averages, bank and preference included."""
    steps: list[int] = []
    resumed = train(
        whole_recipe(),
        digits(),
        checkpoint=together / "stopped.checkpoint",
        report=lambda step: steps.append(step.done),
    )
    assert steps == list(range(STOP_AFTER + 1, 9))
    alone = train(whole_recipe(), digits())
    assert _apart(resumed.state_dict(), alone.state_dict(), {name for name, _ in alone.named_parameters()}) < 1e-6


@pytest.mark.medium
@pytest.mark.parametrize("mode", ["killed", pytest.param("silent", marks=pytest.mark.slow)])
def test_a_lost_process_ends_the_others_with_a_sentence(tmp_path: Path, mode: str) -> None:
    first, _ = _two_processes(mode, tmp_path)
    assert first.status == LOST, first.stderr
    assert "another process of this run ended or does not answer" in first.stderr and "run the same" in first.stderr
    assert "Traceback" not in first.stderr


@pytest.mark.slow
def test_torchrun_trains_and_one_process_writes(tmp_path: Path) -> None:
    command = "-m torch.distributed.run --standalone --nproc-per-node 2 -m elasticvit.training digits --out"
    done = subprocess.run(
        [sys.executable, *command.split(), str(tmp_path / "x.safetensors"), "--steps", "2", "--evaluated", "0"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("x.safetensors") == 1
    assert {path.name for path in tmp_path.iterdir()} == {"x.safetensors", "x.train.jsonl"}
    assert len((tmp_path / "x.train.jsonl").read_text().splitlines()) == 2


@pytest.mark.medium
def test_processes_share_out_the_same_images() -> None:
    """For every process count that divides the number of parts."""
    recipe = whole_recipe(accumulate=4, steps=2)
    alone = list(batches(recipe, digits(), World(), 0))
    for size in (2, 4):
        shared = [list(batches(recipe, digits(), World(rank, size), 0)) for rank in range(size)]
        for step, parts in enumerate(alone):
            for i, part in enumerate(parts):
                same = shared[i % size][step][i // size]
                assert torch.equal(part.images, same.images) and torch.equal(part.labels, same.labels)
    # And those of later steps are others.
    assert not torch.equal(alone[0][0].images, alone[1][0].images)


@pytest.mark.medium
def test_a_batch_that_cannot_be_shared_out_is_refused() -> None:
    assert parts_of(whole_recipe(accumulate=2), World(0, 4)) == 4
    assert parts_of(whole_recipe(accumulate=1), World()) == 1
    with pytest.raises(DataError, match="16 images cannot be cut into 6 equal parts"):
        parts_of(whole_recipe(accumulate=2), World(0, 3))


@pytest.mark.medium
def test_gradients_travel_in_buckets() -> None:
    tensors = [torch.zeros(n) for n in (3, 4, 20, 1)] + [torch.zeros(2, dtype=torch.float64)]
    assert [[len(t) for t in bucket] for bucket in buckets(tensors, 8)] == [[3, 4], [20], [1], [2]]
    assert list(buckets([], 8)) == []


@pytest.mark.medium
def test_without_torchrun_a_process_is_alone() -> None:
    with joined() as world:
        assert (world.rank, world.size, world.first) == (0, 1, True)
        assert world.total([1.0, 2.0]) == [1.0, 2.0] and world.share(lambda: 3) == world.in_turn(lambda: 3) == 3
