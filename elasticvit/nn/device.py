"""The device that networks run on: an accelerator if there is one."""

import torch


def best_device(index: int = 0) -> torch.device:
    """The accelerator of this index if there is one, else the CPU."""
    return torch.device("cuda", index) if torch.cuda.is_available() else torch.device("cpu")
