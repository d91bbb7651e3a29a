"""Supernet files for the tests of the server: real ones, untrained, of a tiny space."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from elasticvit.accuracy.table import append
from elasticvit.nn.supernet import SuperNet
from elasticvit.nn.supernet_file import Card, save_supernet
from tests.elasticvit.training.tiny_training import tiny_space

TERMS = "for the tests of this package only"


def supernet_file(file: Path, seed: int = 0, table: bool = True, data: str = "digits") -> Path:
    """A file that carries calibration images, and a made-up table of ten sub-networks beside it."""
    torch.manual_seed(seed)
    space = tiny_space()
    images = torch.randint(0, 256, (16, 3, 32, 32), dtype=torch.uint8)
    card = Card("tiny", tuple("0123456789"), data, terms=TERMS, provenance={"seed": seed})
    save_supernet(file, SuperNet(space), card, half=True, calibration=images)
    if table:
        codes = np.unique(space.sample(np.random.default_rng(0), 200), axis=0)[:10]
        append(file.with_suffix(".accuracy.jsonl"), space, 100, codes, np.linspace(0.5, 0.8, 10))
    return file
