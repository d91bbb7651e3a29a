"""`elasticvit train` for torchrun, which starts it as several processes, on one machine or more:

    torchrun --nproc-per-node 2 -m elasticvit.training RECIPE --out FILE

On SIGTERM to any of them, all processes finish the step, the first saves, and all exit with status 0. torchrun itself
passes a SIGTERM on, waits for the processes, and then always exits with status 1.
"""

import typer

from elasticvit.cli.train import train
from elasticvit.training.distributed import leave

if __name__ == "__main__":
    try:
        typer.run(train)
    except SystemExit as ended:
        leave(ended.code if isinstance(ended.code, int) else int(ended.code is not None))
