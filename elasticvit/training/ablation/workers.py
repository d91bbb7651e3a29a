"""Several processes that make the runs of one plan, each one run at a time."""

import multiprocessing
import os
import signal
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

from elasticvit.errors import DataError, ElasticVitError, StoppedError
from elasticvit.nn.device import best_device
from elasticvit.progress import Stop
from elasticvit.training.ablation.plan import Plan
from elasticvit.training.ablation.run import begun, checked_data, run, to_stderr
from elasticvit.training.ablation.tasks import pending
from elasticvit.training.allocator import keep_freed_memory
from elasticvit.training.run import stop_on_signals

ON_ACCELERATOR = 4
"""Processes that share an accelerator: networks this small leave most of it idle."""
STOPPED = 3
"""Exit code of a process that was stopped."""


def default_workers() -> int:
    """1 on a CPU; on an accelerator several, but no more than there are cores to feed it."""
    return min(ON_ACCELERATOR, os.cpu_count() or 1) if best_device().type == "cuda" else 1


def run_together(plan: Plan, seeds: int, out: Path, workers: int, stop: Stop) -> None:
    """Make the missing results with `workers` processes, each with its share of the cores.

    Raises:
        DataError: the plan cannot be begun (see `run`), or a process failed; its message is on standard error, and the
            others have made what they could.
        StoppedError: `stop` said so, and all processes have ended with checkpoints.
    """
    checked_data(plan)
    begun(plan, out)
    threads = max(1, (os.cpu_count() or 1) // workers)
    # Not forked: threads and accelerators of this process would not work in its children.
    context = multiprocessing.get_context("spawn")
    arguments = (plan.identity(), seeds, out, threads, os.getpid())
    processes: list[BaseProcess] = [context.Process(target=work, args=arguments) for _ in range(workers)]
    for process in processes:
        process.start()
    stopping = False
    while any(process.is_alive() for process in processes):
        if stop() and not stopping:
            stopping = True
            for process in processes:
                process.terminate()
        time.sleep(0.2)
    codes = [process.exitcode for process in processes]
    # A process that had not begun when it was stopped ends by the signal itself.
    failed = [code for code in codes if code not in (0, STOPPED, *([-signal.SIGTERM] if stopping else []))]
    if failed and pending(plan, seeds, begun(plan, out)):
        raise DataError(f"{len(failed)} of {workers} processes failed; run the same command to resume")
    if stopping or STOPPED in codes:
        raise StoppedError("stopped; run the same command to resume")


def work(plan: str, seeds: int, out: Path, threads: int, parent: int) -> None:
    """What each process does; it ends with its parent."""
    torch.set_num_threads(threads)
    keep_freed_memory()
    with stop_on_signals() as stop:
        try:
            run(
                Plan.from_json(plan),
                seeds,
                out,
                stop=lambda: stop() or os.getppid() != parent,
                say=lambda line: to_stderr(f"[{os.getpid()}] {line}"),
            )
        except StoppedError:
            raise SystemExit(STOPPED) from None
        except ElasticVitError as error:
            to_stderr(f"[{os.getpid()}] {error}")
            raise SystemExit(1) from None
