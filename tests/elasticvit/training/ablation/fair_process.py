"""One process that makes the runs of a tiny plan `fair`: `python -m ...fair_process FOLDER [--die-at STEP]`.

It prints a line for every run that it begins; with `--die-at` it kills itself (SIGKILL) after that step of a supernet.
"""

import os
import signal
import sys
from pathlib import Path

from elasticvit.errors import StoppedError
from elasticvit.progress import Step
from elasticvit.training.ablation.run import run
from elasticvit.training.run import stop_on_signals
from tests.elasticvit.training.ablation.tiny_ablation import tiny_fair_plan


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main(out: Path, die_at: int | None) -> int:
    def report(step: Step) -> None:
        if step.phase == "++ performance-aware 0: train" and step.done == die_at:
            os.kill(os.getpid(), signal.SIGKILL)

    with stop_on_signals() as stop:
        try:
            run(tiny_fair_plan(), 1, out, report=report, stop=stop, say=say)
        except StoppedError as error:
            say(str(error))
            return 3
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[3]) if len(sys.argv) > 3 else None))
