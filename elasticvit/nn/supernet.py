"""The supernet: the largest network's tensors, and one rule that cuts any smaller network's tensors out of them.

There is no active sub-network and no state to set: `supernet(images, arch)` runs the plain `Net(arch)` on cut tensors
(`torch.func.functional_call`), `supernet.extract(arch)` is the same cut, copied. Gradients reach only the cut; batch
norm statistics are updated in place through it.
"""

from functools import lru_cache
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.func import functional_call

from elasticvit.arch import Arch
from elasticvit.errors import SpaceError
from elasticvit.nn.net import Net
from elasticvit.space import WIDTH_AT, Space


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


@lru_cache(maxsize=64)
def skeleton(arch: Arch) -> Net:
    """The network of an architecture without any numbers in it."""
    with torch.device("meta"):
        return Net(arch)


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

    def tensors(self, arch: Arch) -> dict[str, Tensor]:
        """The parameters and buffers of `Net(arch)`, cut from the shared ones; buffers are views.

        Raises:
            SpaceError: the architecture is outside the space.
        """
        self.space.encode(arch)
        shared = {**dict(self.net.named_parameters()), **dict(self.net.named_buffers())}
        frame = skeleton(arch)
        small = {name: _cut_named(name, shared[name], t.shape) for name, t in frame.named_parameters()}
        return small | {name: cut(shared[name], t.shape) for name, t in frame.named_buffers()}

    def forward(self, images: Tensor, arch: Arch) -> Tensor:
        """Logits (B, classes) of one sub-network."""
        frame = skeleton(arch).train(self.training)
        return functional_call(frame, self.tensors(arch), (images,))  # type: ignore[no-any-return]

    def extract(self, arch: Arch) -> Net:
        """A plain network of its own with copied weights, in eval mode, equal to this one bit for bit.

        The head's sizes are always the supernet's (`net.arch` tells), as the authors' 10-lists do not carry them.

        Raises:
            SpaceError: the architecture's body is outside the space.
        """
        arch = self.space.adopt(arch)
        tensors = self.tensors(arch)
        with torch.device("meta"):
            net = Net(arch)
        net.load_state_dict({name: t.detach().clone() for name, t in tensors.items()}, assign=True)
        return net.eval()


def _cut_named(name: str, big: Tensor, shape: torch.Size) -> Tensor:
    part = cut_qkv(big, shape) if name.endswith("qkv.weight") else cut(big, shape)
    # Matrix kernels may round differently on strided weights; a packed copy keeps extraction bit-equal.
    return part.contiguous()
