"""Export: its duration, and the latency of its files against torch and against files of other projects.

Times are medians of a few repetitions on one thread. Machines drift, so file and torch are timed in turns and only
their ratio may be compared between runs. The other parts are separate modules and can be run alone:

    python -m benchmarks export.latency        files against a naive conversion and other networks
    python -m benchmarks export.roofline       S1's profile against what the core can do
    python -m benchmarks export.attention      the attention block against NASViT's
    python -m benchmarks export.correlation    Kendall's tau of costs and latencies

`ELASTICVIT_OFFICIAL` and `ELASTICVIT_PEERS` name folders of other projects; parts without them report "not given".
"""

import time
from collections.abc import Callable
from statistics import median

import numpy as np
import torch
from ai_edge_litert.interpreter import Interpreter

from benchmarks import attention, correlation, latency, roofline
from benchmarks.interleave import say
from elasticvit import Arch, macs
from elasticvit.archs.published import published
from elasticvit.archs.space import PRESETS, Space, small
from elasticvit.export.api import export_net
from elasticvit.export.block_probes import choose_blocks, probe_blocks
from elasticvit.export.graph.fold import fold
from elasticvit.export.tflite.check import check
from elasticvit.export.tflite.writer import write_tflite
from elasticvit.nn.net import Net
from elasticvit.nn.random_net import random_net

REPEATS, ROUNDS, PROBES = 5, 40, 100


def seconds(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def export_times(arch: Arch) -> dict[str, float | int]:
    """Milliseconds to fold, write and check one network, and for the whole call with its manifest."""
    net = random_net(arch, seed=0)
    graph = fold(net)
    file = write_tflite(graph)
    steps: dict[str, Callable[[], object]] = {
        "fold_ms": lambda: fold(net),
        "write_ms": lambda: write_tflite(graph),
        "check_ms": lambda: check(file.data, net),
        "export_net_ms": lambda: export_net(net, None),
    }
    times = {name: round(1000 * median(seconds(step) for _ in range(REPEATS)), 1) for name, step in steps.items()}
    return {**times, "mmacs": round(macs(arch) / 1e6, 1), "size_bytes": len(file.data), "ops": len(file.ops)}


def probe_times(space: Space) -> dict[str, float | int]:
    """Seconds for files of single blocks, checked like any other."""
    chosen = choose_blocks(space, PROBES, np.random.default_rng(0))
    taken = seconds(lambda: list(probe_blocks(chosen)))
    return {"probes": len(chosen), "seconds": round(taken, 1)}


def latency_against_torch(net: Net) -> dict[str, float]:
    """Median latencies of the file in LiteRT and of the network in eager torch, timed in turns."""
    data = write_tflite(fold(net)).data
    side = net.arch.resolution
    image = np.random.default_rng(0).uniform(-1, 1, (1, side, side, 3)).astype(np.float32)
    interpreter = Interpreter(model_content=data, num_threads=1)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], image)
    planes = torch.from_numpy(image).permute(0, 3, 1, 2)
    with torch.inference_mode():
        turns = [(seconds(interpreter.invoke), seconds(lambda: net(planes))) for _ in range(ROUNDS)][ROUNDS // 8 :]
    litert, eager = (1000 * median(times) for times in zip(*turns, strict=True))
    return {"litert_ms": round(litert, 2), "torch_ms": round(eager, 2), "torch_over_litert": round(eager / litert, 2)}


def figures() -> dict[str, object]:
    """All parts."""
    parts = {
        "latency": latency.figures,
        "roofline": roofline.figures,
        "attention": attention.figures,
        "correlation": correlation.figures,
    }
    answer = times()
    for name, part in parts.items():
        say(f" {name}")
        answer[name] = part()
    return answer


def times() -> dict[str, object]:
    """Times of export for a large and two small networks, and S1 in LiteRT against eager torch."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        space = small()
        archs = {"S1": published("S1"), "small_smallest": space.smallest(), "small_largest": space.largest()}
        answer: dict[str, object] = {name: export_times(arch) for name, arch in archs.items()}
        answer["block_probes"] = {preset: probe_times(PRESETS[preset]()) for preset in PRESETS}
        answer["S1_latency"] = latency_against_torch(random_net(published("S1"), seed=0))
    finally:
        torch.set_num_threads(threads)
    return answer
