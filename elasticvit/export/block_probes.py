"""Files of single blocks, for measuring only, written and checked like whole networks.

A block alone runs with warm caches, so its time is not what it costs inside a network. Probes serve to tell devices
apart, to begin the latency table of a new device, and to study one operator. Networks with random weights serve
as probes, too: `export_net(random_net(arch, seed), None)`.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from elasticvit.archs.space import Space
from elasticvit.costs.blocks import Block, BlockKind, blocks
from elasticvit.costs.flops import block_macs
from elasticvit.errors import ExportError
from elasticvit.export.graph.fold import fold_block
from elasticvit.export.tflite.check import require_equal, rounding_error, run_tflite
from elasticvit.export.tflite.delegates import coverage, require_whole
from elasticvit.export.tflite.reader import tflite_macs
from elasticvit.export.tflite.writer import TfliteOp, write_tflite
from elasticvit.nn.random_net import random_layer

_TOKENS = (BlockKind.ATTENTION, BlockKind.FFN, BlockKind.HEAD)


@dataclass(frozen=True, slots=True)
class Probe:
    """A block's file, checked against torch like any other."""

    block: Block
    tflite: bytes
    ops: tuple[TfliteOp, ...]


def probe_block(block: Block, seed: int = 0) -> Probe:
    """A block with random weights as a file of its own.

    Raises:
        ExportError: the file does not compute the block, has other MACs, or XNNPACK does not take it in one piece.
    """
    layer = random_layer(block, seed)
    file = write_tflite(fold_block(block, layer), f"block {block.key}")
    if tflite_macs(file.data) != block_macs(block):
        raise ExportError(f"the file of block {block.key} has not its MACs: a part was lost")
    require_whole(coverage(file.data, file.ops))
    _check(block, layer, file.data, seed)
    return Probe(block, file.data, file.ops)


def choose_blocks(space: Space, n: int, rng: np.random.Generator) -> tuple[Block, ...]:
    """n different blocks of members of the space, drawn at random; fewer if the space has fewer.

    Raises:
        ExportError: n is below 1.
    """
    if n < 1:
        raise ExportError(f"choose 1 block or more, not {n}")
    drawn: dict[Block, None] = {}
    missed = 0
    while len(drawn) < n and missed < 50:
        before = len(drawn)
        drawn.update(dict.fromkeys(blocks(space.decode(space.sample(rng, 1)[0]))))
        missed = missed + 1 if len(drawn) == before else 0
    every = list(drawn)
    return tuple(every[i] for i in sorted(rng.permutation(len(every))[:n]))


def probe_blocks(
    chosen: Sequence[Block], report: Callable[[int, int], None] = lambda done, total: None
) -> Iterable[Probe]:
    """Each block's probe as it is made. Raises `ExportError`."""
    for i, block in enumerate(chosen):
        yield probe_block(block)
        report(i + 1, len(chosen))


def _check(block: Block, layer: nn.Module, data: bytes, seed: int) -> None:
    shape = (1, block.side_in, block.side_in, block.width_in)
    image = np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)
    x = torch.from_numpy(image)
    x = x.flatten(1, 2) if block.kind in _TOKENS else x.permute(0, 3, 1, 2)
    with torch.inference_mode():
        y = layer(x) if block.kind in _TOKENS else layer(x).permute(0, 2, 3, 1)
    actual, expected = run_tflite(data, image).reshape(1, -1), y.reshape(1, -1).double().numpy()
    message = f"the values of the file of block {block.key} differ from torch's"
    require_equal(actual, expected, lambda: rounding_error(layer, x), message)
