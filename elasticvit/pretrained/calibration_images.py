"""Synthetic calibration images for a supernet file, in place of the training images.

Recalibration (`elasticvit.accuracy.evaluate`) sets batch norm statistics from images. If the training images must not
be distributed, other images can replace them that give every sub-network the same statistics. They are optimised as in
data-free distillation (Yin et al., *Dreaming to Distill*, CVPR 2020, equation 4): they start as crops of the two
photographs that ship with scikit-learn and follow the gradient of the distance between their statistics and those of
training images, at every batch norm, over sub-networks of all sizes.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import backward

from elasticvit.accuracy.evaluate import RECALIBRATION_IMAGES
from elasticvit.archs.arch import Arch
from elasticvit.data.image_set import ImageSet
from elasticvit.errors import DataError
from elasticvit.nn.layers import ConvBn, Head
from elasticvit.nn.net import Net
from elasticvit.nn.supernet import SuperNet
from elasticvit.progress import Report, Step, silent

K, STEPS = 128, 1000
BATCH = 64
POOL = 24
LR = 0.05
EPS = 1e-5
FIRST_WEIGHT = 10.0


@dataclass(frozen=True)
class Statistics:
    """Mean and biased variance of the input of each batch norm, in the network's order; shapes (C,)."""

    means: tuple[Tensor, ...]
    variances: tuple[Tensor, ...]


def make_calibration_images(
    supernet: SuperNet,
    data: ImageSet,
    *,
    k: int = K,
    steps: int = STEPS,
    seed: int = 0,
    report: Report = silent,
) -> Tensor:
    """Images (k, 3, H, W), uint8, on which sub-networks have the batch norm statistics of training images.

    Deterministic on one machine for a seed and a number of threads. With 0 steps they are the crops of photographs.

    Raises:
        DataError: fewer than 2 images.
    """
    if k < 2:
        raise DataError(f"recalibration needs 2 images or more, not {k}")
    rng = np.random.default_rng((seed, 3))
    images = photo_crops(k, data.train.images.shape[-1], rng).float() / 255
    archs, real = _archs(supernet, rng), data.scaled(data.train.images[:RECALIBRATION_IMAGES])
    pool: dict[int, tuple[Net, Statistics]] = {}
    images.requires_grad_()
    adam = torch.optim.Adam([images], lr=LR)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (data.mean, data.std))
    for step, (turn, rows) in enumerate(islice(_turns(len(archs), k, rng), steps)):
        if turn not in pool:
            frozen = _frozen(supernet, archs[turn])
            pool[turn] = frozen, statistics_of(frozen, real)
        net, target = pool[turn]
        for group in adam.param_groups:
            group["lr"] = LR * 0.5 * (1 + np.cos(np.pi * step / steps))
        with _watched(net) as seen:
            net((_rounded(images[rows]) - mean) / std)
        loss = _distance(seen, target)
        backward(loss)
        adam.step()
        adam.zero_grad(set_to_none=True)
        with torch.no_grad():
            images.clamp_(0, 1)
        report(Step("images", step + 1, steps, loss.item()))
    return (images.detach() * 255).round().to(torch.uint8)


def photo_crops(k: int, side: int, rng: np.random.Generator) -> Tensor:
    """Square crops of all sizes, (k, 3, side, side), uint8, of the photographs that ship with scikit-learn."""
    from sklearn.datasets import load_sample_images

    photos = [torch.from_numpy(image.copy()).permute(2, 0, 1).float() for image in load_sample_images().images]
    crops = []
    for i in range(k):
        photo = photos[i % len(photos)]
        height, width = photo.shape[1:]
        size = int(np.exp(rng.uniform(np.log(2 * side), np.log(min(height, width)))))
        top, left = rng.integers(height - size + 1), rng.integers(width - size + 1)
        crop = photo[:, top : top + size, left : left + size]
        crop = crop.flip(-1) if rng.random() < 0.5 else crop
        crops.append(F.interpolate(crop[None], size=side, mode="area")[0])
    return torch.stack(crops).round().clamp(0, 255).to(torch.uint8)


def statistics_of(net: Net, images: Tensor, batch: int = 128) -> Statistics:
    """The mean, over batches of images (N, 3, H, W), of a network's statistics in training mode."""
    by_batch = []
    with torch.no_grad():
        for chunk in torch.split(images, batch):
            with _watched(net) as seen:
                net(chunk)
            by_batch.append(Statistics(tuple(mean for mean, _ in seen), tuple(var for _, var in seen)))
    means = zip(*(statistics.means for statistics in by_batch), strict=True)
    variances = zip(*(statistics.variances for statistics in by_batch), strict=True)
    return Statistics(
        tuple(torch.stack(norm).mean(0) for norm in means), tuple(torch.stack(norm).mean(0) for norm in variances)
    )


def _distance(seen: list[tuple[Tensor, Tensor]], target: Statistics) -> Tensor:
    """Distance of statistics: means in standard deviations, variances by the log of their ratio; the mean over channels
    of a norm, summed over norms.

    The first norms have the largest weights: wrong variances there cost most of the lost accuracy, and they converge
    slowest, since channels with little variance react to every pixel.
    """
    total = torch.zeros(())
    weights = torch.linspace(FIRST_WEIGHT, 1, len(seen)).tolist()
    for weight, (mean, var), right_mean, right_var in zip(weights, seen, target.means, target.variances, strict=True):
        total = total + weight * ((mean - right_mean).square() / (right_var + EPS)).mean()
        total = total + weight * ((var + EPS).log() - (right_var + EPS).log()).square().mean()
    return total


def _rounded(images: Tensor) -> Tensor:
    """Rounded to 8 bits, with a straight-through gradient."""
    return images + ((images * 255).round() / 255 - images).detach()


@contextmanager
def _watched(net: Net) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Collects (mean, variance) of the input of each batch norm while the network runs.

    Hooks are on the layers that produce it, since a norm and the next layer may be fused.
    """
    seen: list[tuple[Tensor, Tensor]] = []

    def look(_module: nn.Module, _inputs: object, made: Tensor) -> None:
        channels = made.ndim - 1 if made.ndim == 3 else 1  # tokens (B, N, C), maps (B, C, H, W)
        var, mean = torch.var_mean(made, [axis for axis in range(made.ndim) if axis != channels], correction=0)
        seen.append((mean, var))

    makers = [m.conv if isinstance(m, ConvBn) else m.expand for m in net.modules() if isinstance(m, ConvBn | Head)]
    handles = [maker.register_forward_hook(look) for maker in makers]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _archs(supernet: SuperNet, rng: np.random.Generator) -> list[Arch]:
    space = supernet.space
    sampled = [space.decode(code) for code in space.sample(rng, POOL - 2)]
    return [space.smallest(), space.largest(), *sampled]


def _frozen(supernet: SuperNet, arch: Arch) -> Net:
    """A sub-network in training mode whose weights require no gradients."""
    return supernet.extract(arch).requires_grad_(False).train()


def _turns(pool: int, k: int, rng: np.random.Generator) -> Iterator[tuple[int, Tensor]]:
    """Endless pairs of a network of the pool and rows of images, in random order, all networks equally often."""
    while True:
        for net in rng.permutation(pool):
            yield int(net), torch.from_numpy(rng.permutation(k)[:BATCH])
