"""`elasticvit train`, for torchrun to start as several processes, on one machine or more:

    torchrun --nproc-per-node 2 -m elasticvit.training RECIPE --out FILE

Told to stop (SIGTERM to any of them), all processes finish the step, the first saves, and all exit 0. torchrun itself,
when it is the one that was told, passes the signal on, waits for them and then exits 1 whatever they said.
"""

import typer

from elasticvit.cli.train import train
from elasticvit.training.distributed import leave

if __name__ == "__main__":
    try:
        typer.run(train)
    except SystemExit as ended:
        leave(ended.code if isinstance(ended.code, int) else int(ended.code is not None))
