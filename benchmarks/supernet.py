"""A training step through the supernet against the same step on the plain network of the same architecture."""

import time
from collections.abc import Callable
from statistics import median

import torch
import torch.nn.functional as F

from elasticvit.arch import Arch
from elasticvit.nn.net import Net
from elasticvit.nn.supernet import SuperNet
from elasticvit.published import published
from elasticvit.space import paper, small

BATCH, ROUNDS = 16, 5


def figures() -> dict[str, object]:
    """Images a second forward and backward, taking turns, on every thread torch takes; and the time to extract."""
    t1, mid = published("T1"), small().decode((small().sizes // 2).astype("int8"))
    return {"T1": _steps(SuperNet(paper()), t1), "small_middle": _steps(SuperNet(small()), mid)}


def _steps(supernet: SuperNet, arch: Arch) -> dict[str, float]:
    net = Net(arch).train()
    supernet.train()
    images = torch.randn(BATCH, 3, arch.resolution, arch.resolution)
    labels = torch.zeros(BATCH, dtype=torch.long)

    def step(forward: Callable[[], torch.Tensor]) -> float:
        start = time.perf_counter()
        F.cross_entropy(forward(), labels).backward()  # type: ignore[no-untyped-call]
        return time.perf_counter() - start

    turns = [(step(lambda: net(images)), step(lambda: supernet(images, arch))) for _ in range(ROUNDS + 1)][1:]
    start = time.perf_counter()
    supernet.extract(arch)
    return {
        "plain_images_per_s": round(BATCH / median(plain for plain, _ in turns), 1),
        "supernet_images_per_s": round(BATCH / median(shared for _, shared in turns), 1),
        "supernet_over_plain": round(median(plain / shared for plain, shared in turns), 2),
        "extract_s": round(time.perf_counter() - start, 3),
    }
