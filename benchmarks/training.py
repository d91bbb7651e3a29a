"""Training steps: our supernet against the authors', and against the plain network of the same architecture.

Every contestant runs in its own process, with its own peak memory. They take turns step by step, so that the drift of
the machine affects all alike, and ratios are medians over pairs of neighbouring steps. One thread each.

Our process keeps freed memory, as in our training, and the authors' returns it to the system, as in theirs; `_fresh`
and `_kept` are the opposite. `unseen` rebuilds every layer, the highest cost of a new architecture.

    ELASTICVIT_OFFICIAL=FOLDER python -m benchmarks training
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.official import NOT_GIVEN, official_path, official_supernet, set_arch
from elasticvit.archs.arch import Arch
from elasticvit.archs.published import published
from elasticvit.archs.space import Space, paper, small
from elasticvit.nn.net import Net
from elasticvit.nn.supernet import SuperNet, outline
from elasticvit.training.allocator import keep_freed_memory

ROUNDS, WARM_UP = 9, 2


class Case(NamedTuple):
    """What a step trains on: a batch of images of some side, resized in the network."""

    space: Space
    arch: Arch
    batch: int
    side: int


def case(name: str) -> Case:
    """A published architecture at batch 16 as the authors feed it, or the middle of the small space as on a CPU."""
    if name == "small_middle":
        space = small()
        return Case(space, space.decode((space.sizes // 2).tolist()), 64, 32)
    return Case(paper(), published(name), 16, 224)


def figures() -> dict[str, object]:
    """Images a second forward and backward through a supernet, peak memory, and ratios to the peers."""
    official = ["official", "official_kept"] if official_path() else []
    answer: dict[str, object] = {name: compare(name, ["plain", "supernet_fresh", *official]) for name in ("T1", "M")}
    answer["small_middle"] = compare("small_middle", ["plain", "supernet_fresh", "unseen"])
    return answer if official else {**answer, "official": NOT_GIVEN}


def compare(name: str, peers: Sequence[str], rounds: int = ROUNDS) -> dict[str, float]:
    """Figures of one case: the supernet and its peers, and their ratios."""
    contestants = ["supernet", *peers]
    with ExitStack() as stack:
        runners = {who: stack.enter_context(_runner(who, name)) for who in contestants}
        turns = [{who: step() for who, step in runners.items()} for _ in range(WARM_UP + rounds)][WARM_UP:]
    figures: dict[str, float] = {}
    for who in contestants:
        figures[f"{who}_images_per_s"] = round(case(name).batch / median(turn[who]["wall_s"] for turn in turns), 1)
        figures[f"{who}_peak_mb"] = round(turns[-1][who]["peak_mb"])
    pairs = [("supernet", peer) for peer in peers]
    if "official" in peers:
        pairs.append(("supernet_fresh", "official"))
    for ours, peer in pairs:
        for clock in ("wall", "cpu"):
            ratio = median(turn[peer][f"{clock}_s"] / turn[ours][f"{clock}_s"] for turn in turns)
            figures[f"{ours}_over_{peer}_{clock}"] = round(ratio, 2)
    return figures


@contextmanager
def _runner(who: str, name: str) -> Iterator[Callable[[], dict[str, float]]]:
    """A process that runs one step per request and reports its time and memory."""
    command = [sys.executable, "-m", "benchmarks.training", who, name]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        requests, replies = process.stdin, process.stdout

        def step() -> dict[str, float]:
            requests.write("step\n")
            requests.flush()
            line = replies.readline()
            if not line:
                raise RuntimeError(f"the process of {who} {name} ended")
            usage: dict[str, float] = json.loads(line)
            return usage

        try:
            yield step
        finally:
            requests.close()


def _serve(who: str, name: str) -> None:
    """A step for every line of input, until it ends."""
    torch.set_num_threads(1)
    space, arch, batch, side = case(name)
    images, labels = torch.randn(batch, 3, side, side), torch.zeros(batch, dtype=torch.long)
    module, forward = _contestant(who, space, arch)
    for _ in sys.stdin:
        module.zero_grad(set_to_none=True)
        wall, cpu = time.perf_counter(), time.process_time()
        F.cross_entropy(forward(images), labels).backward()  # type: ignore[no-untyped-call]
        usage = {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu, "peak_mb": _peak_mb()}
        sys.stdout.write(json.dumps(usage) + "\n")
        sys.stdout.flush()


def _contestant(who: str, space: Space, arch: Arch) -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
    kind, _, allocator = who.partition("_")
    if allocator == "kept" or (kind != "official" and allocator != "fresh"):
        keep_freed_memory()
    if kind == "plain":
        net = Net(arch).train()
        return net, net
    if kind == "official":
        path = official_path()
        assert path is not None
        theirs, lists = official_supernet(path), arch.to_moonlit()

        def switched(images: Tensor) -> Tensor:
            set_arch(theirs, lists)
            return theirs(images)  # type: ignore[no-any-return]

        return theirs, switched
    ours = SuperNet(space).train()

    def shared(images: Tensor) -> Tensor:
        if kind == "unseen":
            outline.cache_clear()
        return ours(images, arch)  # type: ignore[no-any-return]

    return ours, shared


def _peak_mb() -> float:
    """Peak memory of this process. `ru_maxrss` would carry over what the parent held when it started this one."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return float("nan")


if __name__ == "__main__":
    _serve(*sys.argv[1:])
