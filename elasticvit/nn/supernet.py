"""The supernet: the largest network's tensors, and one rule that cuts any smaller network's tensors out of them.

There is no active sub-network and no state to set: `supernet(images, arch)` makes a plain `Net(arch)` of cut tensors,
runs it and forgets it; `supernet.extract(arch)` is the same cut, copied. Gradients reach only the cut; batch norm
statistics are updated in place through it.
"""

from functools import lru_cache
from itertools import pairwise
from typing import TypeVar

import torch
from torch import Tensor, nn

from elasticvit.archs.arch import Arch
from elasticvit.archs.space import WIDTH_AT, Space
from elasticvit.costs.blocks import Block
from elasticvit.errors import SpaceError
from elasticvit.nn.layers import layer
from elasticvit.nn.net import Net

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def cut(big: Tensor, shape: torch.Size) -> Tensor:
    """The part of a shared tensor that a smaller network uses: leading channels; a centred window on the last two axes
    of 3-D and 4-D tensors (kernels, and position-bias tables whose centre is offset zero)."""
    spatial = 2 if big.ndim >= 3 else 0
    for axis, size in enumerate(shape):
        if size != big.shape[axis]:
            start = (big.shape[axis] - size) // 2 if axis >= big.ndim - spatial else 0
            big = big.narrow(axis, start, size)
    return big


def cut_qkv(big: Tensor, shape: torch.Size) -> Tensor:
    """The exception: qkv rows are stored in three blocks for the largest width S, and cut as [0:c], [S:S+c], [2S:2S+L].

    The result is read head by head (see `Attention`), so the blocks are storage and not q, k and v; official weights
    are laid out so.
    """
    stride, width = big.shape[1], shape[1]
    values = shape[0] - 2 * width
    columns = big[:, :width]
    if tuple(shape) == tuple(big.shape):
        return big
    return torch.cat([columns[:width], columns[stride : stride + width], columns[2 * stride : 2 * stride + values]])


@lru_cache(maxsize=1024)
def outline(block: Block) -> nn.Module:
    """The layer of a block without any numbers in it: shared between networks, so never run and never changed.

    A new architecture comes with almost every pass of training, but is made of blocks that were seen before.
    """
    with torch.device("meta"):
        return layer(block)


def filled(frame: ModuleT, big: nn.Module, training: bool, name: str = "") -> ModuleT:
    """A copy of a module, and of the modules in it, whose tensors are cut from those of the same names in another.

    Parameters become packed copies that autograd follows back, buffers become views.
    """
    rule = cut_qkv if name == "qkv" else cut
    copy: ModuleT = object.__new__(type(frame))
    vars(copy).update(
        vars(frame),
        training=training,
        # Matrix kernels may round differently on strided weights; a packed copy keeps extraction bit-equal.
        _parameters={
            n: t if t is None else rule(getattr(big, n), t.shape).contiguous() for n, t in frame._parameters.items()
        },
        _buffers={n: t if t is None else cut(getattr(big, n), t.shape) for n, t in frame._buffers.items()},
        _modules={n: m if m is None else filled(m, getattr(big, n), training, n) for n, m in frame._modules.items()},
    )
    return copy


class SuperNet(nn.Module):
    """Shared weights of every network of a space.

    Raises:
        SpaceError: two neighbouring stages have the same largest width.
    """

    def __init__(self, space: Space) -> None:
        super().__init__()
        # The largest network would lack the shortcut convolution that a smaller one needs between such stages.
        widest = [space.dimensions[at][1][-1] for at in WIDTH_AT]
        if any(later <= earlier for earlier, later in pairwise(widest)):
            raise SpaceError(f"a supernet needs largest widths that grow from stage to stage, got {widest}")
        self.space = space
        self.net = Net(space.largest())

    def _network(self, arch: Arch) -> Net:
        """The network of an architecture on the shared weights, in this mode: gradients and statistics reach them.

        Raises:
            SpaceError: the architecture is outside the space.
        """
        self.space.encode(arch)
        return filled(Net(arch, outline), self.net, self.training)

    def forward(self, images: Tensor, arch: Arch) -> Tensor:
        """Logits (B, classes) of one sub-network."""
        return self._network(arch)(images)  # type: ignore[no-any-return]

    def extract(self, arch: Arch) -> Net:
        """A plain network of its own with copied weights, in eval mode, equal to this one bit for bit.

        The head's sizes are always the supernet's (see `net.arch`), as the authors' 10-lists do not carry them.

        Raises:
            SpaceError: the architecture's body is outside the space.
        """
        arch = self.space.adopt(arch)
        tensors = self._network(arch).state_dict()
        with torch.device("meta"):
            net = Net(arch)
        net.load_state_dict({name: t.clone() for name, t in tensors.items()}, assign=True)
        return net.eval()
