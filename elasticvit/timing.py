"""Latencies of several files on this machine, measured in turns, so that all of them see the same machine.

Machines drift in speed by a third within minutes; only ratios of one interleaved run are to be compared. On one thread
the clock is that thread's CPU time: on an idle core that is the latency, and on a busy one it leaves out the turns of
other processes.
"""

import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray

from elasticvit.errors import ExportError

Samples = NDArray[np.float64]
# Of a turn's runs the first does not count: it finds the caches full of other files' weights, as no app would.
IN_TURN = 3
RESAMPLES = 2000


def measure_ms(
    files: Mapping[str, bytes],
    rounds: int,
    threads: int = 1,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Samples]:
    """Milliseconds of one inference of each file, one for each round; index i of all files is of one round.

    Raises:
        ExportError: LiteRT does not take a file.
    """
    runners = {name: _runner(name, data, threads) for name, data in files.items()}
    clock = time.thread_time_ns if threads == 1 else time.perf_counter_ns
    for run in runners.values():
        run()
    samples: dict[str, list[float]] = {name: [] for name in files}
    for i in range(rounds):
        for name, run in runners.items():
            samples[name].append(min([_elapsed_ms(run, clock) for _ in range(IN_TURN)][1:]))
        report(i + 1, rounds)
    return {name: np.array(found) for name, found in samples.items()}


def lower_bound(
    values: Sequence[float] | Samples, confidence: float = 0.95, seed: int = 0, clusters: int | None = None
) -> float:
    """One-sided bootstrap lower bound of the median of values, such as ratios of paired samples.

    Args:
        clusters: so many equal parts of the values, in order, share their luck (the rounds of one process); they are
            drawn as wholes.
    """
    rng = np.random.default_rng(seed)
    data = np.asarray(values)
    parts = np.array_split(data, clusters or len(data))
    drawn = rng.integers(0, len(parts), (RESAMPLES, len(parts)))
    medians = [float(np.median(np.concatenate([parts[i] for i in each]))) for each in drawn]
    return float(np.quantile(medians, 1 - confidence))


def _runner(name: str, data: bytes, threads: int) -> Callable[[], None]:
    try:
        interpreter = Interpreter(model_content=data, num_threads=threads)
        interpreter.allocate_tensors()
    except (RuntimeError, ValueError) as error:
        raise ExportError(f"LiteRT does not run {name}: {error}") from error
    rng = np.random.default_rng(0)
    for given in interpreter.get_input_details():
        values = rng.uniform(0, 1, given["shape"]).astype(np.float32)
        whole = given["dtype"] != np.float32
        interpreter.set_tensor(given["index"], (values * 255).astype(given["dtype"]) if whole else values)
    run: Callable[[], None] = interpreter.invoke
    return run


def _elapsed_ms(run: Callable[[], None], clock: Callable[[], int]) -> float:
    start = clock()
    run()
    return (clock() - start) / 1e6
