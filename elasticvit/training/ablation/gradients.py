"""How alike the gradients of two sub-networks are (paper, section 3.2 and Table 4).

Definition: the weights of a supernet stay as they are. Both sub-networks see the same batch of scaled, not augmented
training images in training mode (batch statistics), with the cross-entropy to hard labels as loss. The similarity is
the cosine of their two gradients over those numbers of the supernet's parameters that both sub-networks use, norms and
the head among them. The paper says "shared weights' gradient" and no more.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from elasticvit.archs.arch import Arch
from elasticvit.nn.supernet import SuperNet
from elasticvit.training.step import kept_statistics

CHUNK = 1 << 18
Matrix = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Gradient:
    """A sub-network's gradient over all parameters of its supernet, flat, (P,); and which of them it uses, (P,)."""

    values: Tensor
    used: Tensor


class Gradients:
    """Gradients of sub-networks of one supernet on one batch: images (B, 3, H, W), labels (B,).

    Weights and running statistics stay as they are.
    """

    def __init__(self, supernet: SuperNet, images: Tensor, labels: Tensor) -> None:
        self.supernet, self.images, self.labels = supernet, images, labels
        # Every weight is its own index, so an extracted weight gives its position. Exact up to 2^24 weights per tensor.
        self._numbered = SuperNet(supernet.space)
        with torch.no_grad():
            for parameter in self._numbered.parameters():
                parameter.copy_(torch.arange(parameter.numel()).view_as(parameter))

    def of(self, arch: Arch) -> Gradient:
        parameters, training = list(self.supernet.parameters()), self.supernet.training
        self.supernet.train()
        with kept_statistics(self.supernet):
            loss = F.cross_entropy(self.supernet(self.images, arch), self.labels)
            gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        self.supernet.train(training)
        values = [torch.zeros_like(p) if g is None else g for g, p in zip(gradients, parameters, strict=True)]
        return Gradient(torch.cat([v.flatten() for v in values]), self.used(arch).to(values[0].device))

    def used(self, arch: Arch) -> Tensor:
        """Which of the supernet's numbers a sub-network is made of, (P,)."""
        numbers = {name: p.detach().flatten() for name, p in self._numbered.extract(arch).named_parameters()}
        masks = []
        for name, parameter in self._numbered.net.named_parameters():
            mask = torch.zeros(parameter.numel(), dtype=torch.bool)
            if name in numbers:
                mask[numbers[name].long()] = True
            masks.append(mask)
        return torch.cat(masks)


def similarities(gradients: Sequence[Gradient]) -> Matrix:
    """Cosines of all pairs, (n, n), each over what both use; 0 where one has no gradient there."""
    values = torch.stack([g.values for g in gradients])
    used = torch.stack([g.used for g in gradients])
    n = len(values)
    dots = torch.zeros(n, n, dtype=torch.float64, device=values.device)
    # squares[i, j]: the squared norm of i's gradient over what j uses; its own part is what the gradient is not 0 in.
    squares = torch.zeros_like(dots)
    for part, mask in zip(torch.split(values, CHUNK, dim=1), torch.split(used, CHUNK, dim=1), strict=True):
        exact = part.double()
        dots += exact @ exact.T
        squares += exact.square() @ mask.double().T
    lengths = (squares * squares.T).sqrt()
    cosines = torch.where(lengths > 0, dots / lengths.clamp_min(torch.finfo(torch.float64).tiny), 0.0)
    return np.asarray(cosines.cpu().numpy(), np.float64)


def mean_of_pairs(cosines: Matrix, rows: Sequence[int]) -> float:
    """The mean over all pairs of different rows; there must be two or more."""
    picked = cosines[np.ix_(rows, rows)]
    return float(picked[np.triu_indices(len(rows), 1)].mean())
