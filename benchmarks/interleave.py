"""Interleaved timing (`elasticvit.timing`) for benchmarks: pinned to cores, spread over processes, summarised."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from elasticvit.timing import OnRound, Timings, interleave, litert_run

ROUNDS, WARM_UP, PROCESSES = 160, 4, 8
VARIABLE = "ELASTICVIT_BENCH_ROUNDS"
_REPORT_S = 15.0


def rounds(default: int = ROUNDS) -> int:
    """The number of rounds to time: the environment's `ELASTICVIT_BENCH_ROUNDS`, else `default`."""
    return int(os.environ.get(VARIABLE) or default)


@contextmanager
def pinned(cores: int) -> Iterator[None]:
    """Keeps this thread, and threads that it starts, on the last cores it may use; the lower ones serve interrupts."""
    allowed = os.sched_getaffinity(0)
    if cores > len(allowed):
        raise ValueError(f"cannot pin to {cores} cores: this process may use {len(allowed)}")
    os.sched_setaffinity(0, sorted(allowed)[-cores:])
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def progress() -> OnRound:
    """Prints how many rounds are done, every 15 seconds."""
    last_s = time.perf_counter()

    def report(done: int, total: int) -> None:
        nonlocal last_s
        if time.perf_counter() - last_s > _REPORT_S:
            last_s = time.perf_counter()
            say(f"  round {done} of {total}")

    return report


def interleave_files(files: Mapping[str, bytes], count: int, threads: int) -> Timings:
    """Milliseconds of one inference of every file in at least `count` rounds, on as many cores as threads.

    The rounds are divided among several processes that load the files in different orders: the addresses of its memory
    make a file some percent slower or faster for the life of a process.
    """
    per_process = -(-count // PROCESSES)
    with tempfile.TemporaryDirectory() as folder, pinned(threads):
        for i, data in enumerate(files.values()):
            (Path(folder) / f"{i}.tflite").write_bytes(data)
        processes = [_in_process(folder, per_process, threads, seed) for seed in range(PROCESSES)]
    return {name: np.concatenate([samples[i] for samples in processes]) for i, name in enumerate(files)}


def _in_process(folder: str, count: int, threads: int, seed: int) -> list[list[float]]:
    """Samples of every file, in the order of their numbers, timed in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.interleave", folder, str(count), str(threads), str(seed)]
    root = Path(__file__).parent.parent
    done = subprocess.run(command, cwd=root, stdout=subprocess.PIPE, text=True, check=True)
    samples: list[list[float]] = json.loads(done.stdout)
    return samples


def _serve(folder: str, count: str, threads: str, seed: str) -> None:
    """Time all files of a folder and print their samples, in the order of their numbers."""
    paths = sorted(Path(folder).glob("*.tflite"), key=lambda path: int(path.stem))
    runs = {
        paths[i].stem: litert_run(paths[i], int(threads))
        for i in np.random.default_rng(int(seed)).permutation(len(paths))
    }
    samples = interleave(runs, int(count), warm_up=WARM_UP, threads=int(threads), on_round=progress())
    sys.stdout.write(json.dumps([samples[path.stem].tolist() for path in paths]))


def spread(times_ms: NDArray[np.float64]) -> dict[str, float]:
    """Median and the 5th and 95th percentile, milliseconds."""
    low, middle, high = (float(value) for value in np.percentile(times_ms, [5, 50, 95]))
    return {"median_ms": round(middle, 3), "p5_ms": round(low, 3), "p95_ms": round(high, 3)}


def fastest(samples: Timings, names: Sequence[str]) -> str:
    """The name of the contestant with the lowest median."""
    return min(names, key=lambda name: float(np.median(samples[name])))


def say(message: str) -> None:
    """Print a line of progress on standard error."""
    sys.stderr.write(message + "\n")
    sys.stderr.flush()


if __name__ == "__main__":
    _serve(*sys.argv[1:])
