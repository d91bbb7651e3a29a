"""Contestants take turns, so that the drift of a machine meets all alike.

One call of each a round, in an order drawn anew for every round: nobody always finds the caches as the same neighbour
leaves them. Weights of a contestant are therefore cold, as in an application that does other things in between. Only
ratios of times of the same round are to be compared between runs.

On one thread the clock is that thread's CPU time: on an idle core that is the latency, and on a busy one it leaves out
the turns of other processes, which would fall on the longest calls most often. On several threads it is the wall's.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray

ROUNDS, WARM_UP, PROCESSES = 160, 4, 8
VARIABLE = "ELASTICVIT_BENCH_ROUNDS"
_REPORT_S = 15.0

Samples: TypeAlias = dict[str, NDArray[np.float64]]


def rounds(default: int = ROUNDS) -> int:
    """How many rounds are timed: `default`, or what the environment asks for (fewer, while developing)."""
    return int(os.environ.get(VARIABLE) or default)


def litert(model: bytes | Path, threads: int = 1, seed: int = 0) -> Callable[[], object]:
    """One inference of a .tflite file a call, on uniform random inputs."""
    given = {"model_path": str(model)} if isinstance(model, Path) else {"model_content": model}
    interpreter: Any = Interpreter(**given, num_threads=threads)
    interpreter.allocate_tensors()
    rng = np.random.default_rng(seed)
    for detail in interpreter.get_input_details():
        value = rng.uniform(-1, 1, detail["shape"]).astype(detail["dtype"])
        interpreter.set_tensor(detail["index"], value)
    return interpreter.invoke  # type: ignore[no-any-return]


@contextmanager
def pinned(cores: int) -> Iterator[None]:
    """Keeps this thread, and threads that it starts, on the last cores it may use; the lower ones serve interrupts."""
    allowed = os.sched_getaffinity(0)
    if cores > len(allowed):
        raise ValueError(f"{cores} cores were asked for and this process may use {len(allowed)}")
    os.sched_setaffinity(0, sorted(allowed)[-cores:])
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def interleave(
    contestants: Mapping[str, Callable[[], object]], count: int, warm_up: int = WARM_UP, threads: int = 1
) -> Samples:
    """Milliseconds of every contestant in every round, shape (count,) each, all on as many threads."""
    names, rng = list(contestants), np.random.default_rng(0)
    found = np.empty((warm_up + count, len(names)))
    clock = time.thread_time_ns if threads == 1 else time.perf_counter_ns
    told = time.perf_counter()
    for turn in range(warm_up + count):
        for i in rng.permutation(len(names)):
            call = contestants[names[i]]
            start = clock()
            call()
            found[turn, i] = (clock() - start) / 1e6
        if time.perf_counter() - told > _REPORT_S:
            told = time.perf_counter()
            say(f"  round {turn + 1} of {warm_up + count}")
    return {name: found[warm_up:, i].copy() for i, name in enumerate(names)}


def interleave_files(files: Mapping[str, bytes], count: int, threads: int) -> Samples:
    """Milliseconds of one inference of every file in at least `count` rounds, on as many cores as threads.

    The rounds are shared out over a few processes that do nothing else and load the files in different orders: where
    memory happens to lie makes a file some percent slower or faster for the life of a process.
    """
    share = -(-count // PROCESSES)
    with tempfile.TemporaryDirectory() as folder, pinned(threads):
        for i, data in enumerate(files.values()):
            (Path(folder) / f"{i}.tflite").write_bytes(data)
        parts = [_in_process(folder, share, threads, seed) for seed in range(PROCESSES)]
    return {name: np.concatenate([part[i] for part in parts]) for i, name in enumerate(files)}


def _in_process(folder: str, count: int, threads: int, seed: int) -> list[list[float]]:
    """Samples by the number of the file, of a process of its own."""
    command = [sys.executable, "-m", "benchmarks.interleave", folder, str(count), str(threads), str(seed)]
    root = Path(__file__).parent.parent
    done = subprocess.run(command, cwd=root, stdout=subprocess.PIPE, text=True, check=True)
    told: list[list[float]] = json.loads(done.stdout)
    return told


def _serve(folder: str, count: str, threads: str, seed: str) -> None:
    """Time all files of a folder and print their samples, in the order of their numbers."""
    paths = sorted(Path(folder).glob("*.tflite"), key=lambda path: int(path.stem))
    order = np.random.default_rng(int(seed)).permutation(len(paths))
    loaded = {paths[i].stem: litert(paths[i], int(threads)) for i in order}
    samples = interleave(loaded, int(count), threads=int(threads))
    sys.stdout.write(json.dumps([samples[path.stem].tolist() for path in paths]))


def spread(times_ms: NDArray[np.float64]) -> dict[str, float]:
    """Median and the 5th and 95th percentile, milliseconds."""
    low, middle, high = (float(value) for value in np.percentile(times_ms, [5, 50, 95]))
    return {"median_ms": round(middle, 3), "p5_ms": round(low, 3), "p95_ms": round(high, 3)}


def fastest(samples: Samples, names: Sequence[str]) -> str:
    """Which of the named contestants has the lowest median."""
    return min(names, key=lambda name: float(np.median(samples[name])))


def say(words: str) -> None:
    """A line of progress."""
    sys.stderr.write(words + "\n")
    sys.stderr.flush()


if __name__ == "__main__":
    _serve(*sys.argv[1:])
