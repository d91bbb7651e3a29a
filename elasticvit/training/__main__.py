"""`elasticvit train`, for torchrun to start as several processes:

torchrun --nproc-per-node 2 -m elasticvit.training RECIPE --out FILE
"""

import typer

from elasticvit.commands import train

if __name__ == "__main__":
    typer.run(train)
