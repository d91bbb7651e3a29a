"""A folder of images as a user may have them, and a tiny supernet to start from."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from elasticvit.nn.supernet import SuperNet
from elasticvit.nn.supernet_file import Card, save_supernet
from tests.elasticvit.training.tiny_training import tiny_space

COLOURS = {"leaf": (40, 160, 60), "sky": (70, 120, 220), "rust": (180, 80, 40)}


def colour_folder(folder: Path, images: int = 30, side: int = 24) -> Path:
    """A folder a class; images of one class are noise around one colour."""
    rng = np.random.default_rng(0)
    for name, colour in COLOURS.items():
        (folder / name).mkdir(parents=True)
        for i in range(images):
            pixels = np.array(colour) + rng.integers(-40, 41, size=(side, side, 3))
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / name / f"{i}.png")
    return folder


def tiny_base(path: Path, seed: int = 0, mean: float = 0.5) -> Path:
    """An untrained supernet file for digits, on terms."""
    torch.manual_seed(seed)
    means = (mean, mean, mean)
    card = Card("base", tuple("0123456789"), "digits", mean=means, terms="For research only.")
    save_supernet(path, SuperNet(tiny_space()), card)
    return path
