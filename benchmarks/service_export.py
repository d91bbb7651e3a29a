"""The time of a service from `POST /subnets` to a stored model: cold, and for networks that were exported before.

The service is a real server and worker on a temporary home with two supernets of random weights: one of the small
space with calibration images in its file, and one of the paper's space without any images.
"""

import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch

from elasticvit.accuracy.table import append
from elasticvit.archs.published import published
from elasticvit.archs.space import Codes, Space, paper, small
from elasticvit.nn.net import randomise_norms
from elasticvit.nn.supernet import SuperNet
from elasticvit.nn.supernet_file import Card, save_supernet
from elasticvit.nn.supernet_header import table_path
from server.wire.connect import base_url, http_client

LARGE = ("S1", "T1", "T2", "S2", "M")
SMALL = 7
CALIBRATION_IMAGES = 128
# Rarely enough not to keep one of two cores busy with answering.
FIRST_LOOK_S, POLL_S, PATIENCE_S = 0.2, 0.02, 120.0


def figures() -> dict[str, object]:
    """Milliseconds, medians: to `succeeded` of S1, of others of its space and of members of the small space, none of
    them exported before; and of the HTTP call alone for exported ones."""
    with tempfile.TemporaryDirectory() as folder, _service(Path(folder)) as call:
        sampled = small().sample(np.random.default_rng(0), SMALL)
        ask: dict[str, Sequence[dict[str, object]]] = {
            "paper": [{"arch": name, "supernet": "paper"} for name in LARGE],
            "small": [{"arch": _text(small(), code), "supernet": "small"} for code in sampled],
        }
        # Loads the supernets, as in a service that has been running for a while.
        for name, arch in (("paper", published("L1").to_json()), ("small", small().smallest().to_json())):
            _until_done(call, {"arch": arch, "supernet": name})
        cold = {name: [_until_done(call, body) for body in bodies] for name, bodies in ask.items()}
        again = [_answered_at_once(call, body) for bodies in ask.values() for body in bodies for _ in range(3)]
    return {
        "S1_cold_ms": round(cold["paper"][0]),
        "paper_cold_ms": round(statistics.median(cold["paper"])),
        "small_cold_ms": round(statistics.median(cold["small"])),
        "small_cold_worst_ms": round(max(cold["small"])),
        "cached_call_ms": round(statistics.median(again), 1),
        "cached_call_worst_ms": round(max(again), 1),
    }


Call = Callable[..., Any]


@contextmanager
def _service(home: Path) -> Iterator[Call]:
    """A running service; yields a function that sends a request and returns the JSON of the response."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    env = {name: value for name, value in os.environ.items() if not name.startswith("ELASTICVIT_")}
    # No folder of images: the results must not depend on the images of this machine.
    env |= {"ELASTICVIT_HOME": str(home), "ELASTICVIT_PORT": str(port), "ELASTICVIT_DATA": str(home / "none")}
    processes = []
    with (home / "log").open("wb") as log:
        try:
            for command in ("serve", "worker"):
                start = [sys.executable, "-m", "server.cli", command]
                processes.append(subprocess.Popen(start, env=env, stdout=log, stderr=log))
            with http_client(base_url("127.0.0.1", port), timeout_seconds=30) as client:
                _wait(lambda: _answers(client), home)
                client.headers["Authorization"] = f"Bearer {(home / 'admin.token').read_text().strip()}"

                def call(method: str, path: str, **arguments: Any) -> Any:  # noqa: ANN401 - JSON
                    answer = client.request(method, path, **arguments)
                    answer.raise_for_status()
                    return answer.json()

                for name, (space, images) in {"small": (small(), CALIBRATION_IMAGES), "paper": (paper(), 0)}.items():
                    call("POST", "/supernets", json={"path": str(_supernet(home / "made", name, space, images))})
                yield call
        finally:
            for process in processes:
                process.terminate()
            for process in processes:
                process.wait(20)


def _supernet(folder: Path, name: str, space: Space, images: int) -> Path:
    """A file of random weights with a synthetic accuracy table of ten networks, which serving requires."""
    generator = torch.Generator().manual_seed(0)
    net = SuperNet(space)
    randomise_norms(net.net, generator)
    carried = torch.randint(0, 256, (images, 3, 32, 32), dtype=torch.uint8, generator=generator) if images else None
    file = folder / f"{name}.safetensors"
    card = Card(name, tuple(str(i) for i in range(space.classes)), "no-such-images")
    save_supernet(file, net, card, calibration=carried)
    codes = np.unique(space.sample(np.random.default_rng(1), 20), axis=0)[:10]
    append(table_path(file), space, 100, codes, np.linspace(0.5, 0.8, len(codes)))
    return file


def _until_done(call: Call, body: dict[str, object]) -> float:
    """Milliseconds from the request until the job has succeeded, as a client sees it."""
    begun = time.perf_counter()
    job = call("POST", "/subnets", json=body)
    if job["status"] == "succeeded":
        raise RuntimeError(f"{body} had been exported before")
    state = job
    # With two cores, a client that polls without pause slows the export down.
    time.sleep(FIRST_LOOK_S)
    while state["status"] not in ("succeeded", "failed"):
        time.sleep(POLL_S)
        state = call("GET", job["url"])
    if state["status"] == "failed":
        raise RuntimeError(f"{body}: {state['error']}")
    return (time.perf_counter() - begun) * 1e3


def _answered_at_once(call: Call, body: dict[str, object]) -> float:
    """Milliseconds of a call that is answered from the store."""
    begun = time.perf_counter()
    job = call("POST", "/subnets", json=body)
    ms = (time.perf_counter() - begun) * 1e3
    if job["status"] != "succeeded":
        raise RuntimeError(f"{body} was not found again")
    return ms


def _text(space: Space, code: Codes) -> str:
    return space.decode(code).to_json()


def _answers(client: httpx.Client) -> bool:
    try:
        return client.get("/healthz").status_code == 200
    except httpx.TransportError:
        return False


def _wait(true: Callable[[], bool], home: Path) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not true():
        if time.monotonic() > deadline:
            raise RuntimeError(f"the service did not start: {(home / 'log').read_text()[-2000:]}")
        time.sleep(0.1)
