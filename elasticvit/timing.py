"""Latencies measured in turns: every round times each contestant once, so that all of them see the same machine.

The speed of a machine drifts by a third within minutes, so only ratios of times of the same rounds may be compared. The
order of a round is random: no contestant always finds the caches as the same neighbour leaves them. On one thread the
clock is that thread's CPU time, which on an idle core is the latency and on a busy one leaves out the turns of other
processes; on several threads it is the wall clock.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray

from elasticvit.errors import ExportError

Samples = NDArray[np.float64]
Timings = dict[str, Samples]
Run = Callable[[], object]
OnRound = Callable[[int, int], None]
"""Called after every round that counts, with the rounds done and their total."""
RUNS_IN_TURN = 3
RESAMPLES = 2000


def no_report(_done: int, _total: int) -> None:
    """Report nothing."""


def interleave(
    contestants: Mapping[str, Run],
    rounds: int,
    *,
    warm_up: int = 1,
    threads: int = 1,
    runs_in_turn: int = 1,
    on_round: OnRound = no_report,
) -> Timings:
    """Milliseconds of one run of every contestant in every round, shape (rounds,) each.

    Args:
        warm_up: rounds before those that count.
        threads: number of threads that a contestant uses; decides the clock.
        runs_in_turn: runs of a contestant in each of its turns. With one run its data is cold, as in an application
            that does other things in between. Of several, the first does not count and the fastest of the others does.
    """
    names, rng = list(contestants), np.random.default_rng(0)
    times = np.empty((warm_up + rounds, len(names)))
    clock = time.thread_time_ns if threads == 1 else time.perf_counter_ns
    for turn in range(warm_up + rounds):
        for i in rng.permutation(len(names)):
            runs = [_elapsed_ms(contestants[names[i]], clock) for _ in range(runs_in_turn)]
            times[turn, i] = min(runs[1:] or runs)
        if turn >= warm_up:
            on_round(turn + 1 - warm_up, rounds)
    return {name: times[warm_up:, i].copy() for i, name in enumerate(names)}


def measure_ms(
    files: Mapping[str, bytes | Path], rounds: int, threads: int = 1, on_round: OnRound = no_report
) -> Timings:
    """Milliseconds of one inference of each .tflite file with warm caches, shape (rounds,) each.

    Raises:
        ExportError: LiteRT does not run a file.
    """
    runs = {name: litert_run(data, threads, name=name) for name, data in files.items()}
    return interleave(runs, rounds, threads=threads, runs_in_turn=RUNS_IN_TURN, on_round=on_round)


def litert_run(model: bytes | Path, threads: int = 1, *, seed: int = 0, name: str = "the file") -> Run:
    """A function that runs one inference of a .tflite file on random inputs: floats 0 to 1, integers 0 to 255.

    Raises:
        ExportError: LiteRT does not run it.
    """
    source = {"model_path": str(model)} if isinstance(model, Path) else {"model_content": model}
    try:
        interpreter: Any = Interpreter(**source, num_threads=threads)
        interpreter.allocate_tensors()
    except (RuntimeError, ValueError) as error:
        raise ExportError(f"LiteRT does not run {name}: {error}") from error
    rng = np.random.default_rng(seed)
    for detail in interpreter.get_input_details():
        values = rng.uniform(0, 1, detail["shape"]).astype(np.float32)
        is_float = np.issubdtype(detail["dtype"], np.floating)
        interpreter.set_tensor(detail["index"], (values if is_float else values * 255).astype(detail["dtype"]))
    run: Run = interpreter.invoke
    return run


def lower_bound(
    values: Sequence[float] | Samples, confidence: float = 0.95, seed: int = 0, clusters: int | None = None
) -> float:
    """One-sided bootstrap lower bound of the median of values, such as ratios of paired samples.

    Args:
        clusters: number of equal runs of consecutive values that are resampled as wholes, where the values of a run
            depend on each other (the rounds of one process); by default every value is resampled by itself.
    """
    rng = np.random.default_rng(seed)
    data = np.asarray(values)
    groups = np.array_split(data, clusters or len(data))
    resamples = rng.integers(0, len(groups), (RESAMPLES, len(groups)))
    medians = [float(np.median(np.concatenate([groups[i] for i in resample]))) for resample in resamples]
    return float(np.quantile(medians, 1 - confidence))


def _elapsed_ms(run: Run, clock: Callable[[], int]) -> float:
    start = clock()
    run()
    return (clock() - start) / 1e6
