"""A network as torch's own exported program, from which the files for torch and for ONNX runtimes are written.

The network is traced as it is, any number of images at once, but for one thing: the position bias of every pair of
tokens is gathered once, here, instead of in every pass.
"""

import contextlib
import logging
import warnings
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from elasticvit.costs.blocks import Block, BlockKind
from elasticvit.errors import ExportError
from elasticvit.nn.layers import Attention, layer
from elasticvit.nn.net import Net

IMAGES = "images"
# One image would be taken for a constant.
_TRACED = 2


class _GatheredAttention(Attention):
    """Attention whose `position_bias` is that of every pair, (M, N, N), instead of a table of offsets."""

    def __init__(self, block: Block) -> None:
        super().__init__(block)
        tokens = block.side_in**2
        self.position_bias = nn.Parameter(torch.empty(self.heads, tokens, tokens))

    def bias(self) -> Tensor:
        return self.position_bias


def exported_program(net: Net) -> ExportedProgram:
    """images (B, 3, side, side), float32, B at least 1 → logits (B, classes). Holds no paths of this machine.

    Its parameters have the network's names; `position_bias` is gathered, (heads, tokens, tokens).

    Raises:
        ExportError: training mode, weights that are not finite, or that are not float32 on the CPU.
    """
    _check_weights(net)
    static = _gathered(net)
    images = torch.zeros(_TRACED, 3, net.arch.resolution, net.arch.resolution)
    with quiet("torch"), torch.no_grad():
        program = torch.export.export(static, (images,), dynamic_shapes={IMAGES: {0: Dim("batch", min=1)}})
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
    return program


@contextlib.contextmanager
def quiet(*loggers: str) -> Iterator[None]:
    """Keeps warnings of Python, and of these loggers, out of a program's output."""
    silenced = [logging.getLogger(name) for name in loggers]
    levels = [logger.level for logger in silenced]
    try:
        for logger in silenced:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(silenced, levels, strict=True):
            logger.setLevel(level)


def _check_weights(net: Net) -> None:
    if net.training:
        raise ExportError("the network is in training mode, where batch norms depend on the batch; call net.eval()")
    for name, tensor in net.state_dict().items():
        if not tensor.isfinite().all():
            raise ExportError(
                f"{name} is not finite; nothing was written. The supernet is damaged: train or fetch it again"
            )
        if tensor.is_floating_point() and (tensor.dtype != torch.float32 or tensor.device.type != "cpu"):
            raise ExportError(f"{name} is {tensor.dtype} on {tensor.device}; call net.float().cpu() first")


def _gathered(net: Net) -> Net:
    """The same function over the same memory, with position biases of pairs."""
    with torch.device("meta"):
        static = Net(net.arch, _module)
    state = net.state_dict()
    for name, module in net.named_modules():
        if isinstance(module, Attention):
            state[f"{name}.position_bias"] = module.bias().detach()
    static.load_state_dict(state, assign=True)
    return static.eval()


def _module(block: Block) -> nn.Module:
    return _GatheredAttention(block) if block.kind is BlockKind.ATTENTION else layer(block)
