"""Networks with random weights: for timing, which depends on the operations and not on the values."""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from elasticvit.archs.arch import Arch
from elasticvit.costs.blocks import Block
from elasticvit.nn.layers import layer
from elasticvit.nn.net import Net

_STEPS = 2**23


def random_net(arch: Arch, seed: int) -> Net:
    """A network in eval mode with random weights; no norm scale is near zero, so no block can be folded away.

    The same numbers on every machine: whole random numbers, scaled by operations that round alike everywhere (torch's
    own initialisers differ in the last bit between CPUs).
    """
    rng = np.random.default_rng(seed)
    with torch.device("meta"):
        net = Net(arch)
    state = {name: _random(name, tuple(tensor.shape), rng) for name, tensor in net.state_dict().items()}
    net.load_state_dict(state, assign=True)
    return net.eval()


def random_layer(block: Block, seed: int) -> nn.Module:
    """The module of one block, in eval mode, with weights like those of `random_net`."""
    rng = np.random.default_rng(seed)
    with torch.device("meta"):
        module = layer(block)
    state = {name: _random(f".{name}", tuple(tensor.shape), rng) for name, tensor in module.state_dict().items()}
    module.load_state_dict(state, assign=True)
    return module.eval()


def _random(name: str, shape: tuple[int, ...], rng: np.random.Generator) -> torch.Tensor:
    if name.endswith("num_batches_tracked"):
        return torch.zeros(shape, dtype=torch.long)
    low, high = _bounds(name, shape)
    unit = rng.integers(0, _STEPS, shape, dtype=np.int32) / np.float64(_STEPS)
    values: NDArray[np.float32] = (low + unit * (high - low)).astype(np.float32)
    return torch.from_numpy(values)


def _bounds(name: str, shape: tuple[int, ...]) -> tuple[float, float]:
    is_norm = ".bn." in name or ".norm." in name
    if name.endswith("running_var") or (is_norm and name.endswith("weight")):
        return 0.5, 1.5
    if is_norm or name.endswith("bias"):  # norm shifts and means, biases of linears, position biases
        return -0.2, 0.2
    # Unit variance per unit variance of what goes in.
    bound = math.sqrt(3 / math.prod(shape[1:]))
    return -bound, bound
