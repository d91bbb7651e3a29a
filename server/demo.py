"""`elasticvit demo`: the whole loop once, against a server of its own, on real parts.

Starts a service in a home folder of its own, asks for a model within a budget, has it measured, downloads it and runs
it here on real images. The exit status is 0 only if all of that held.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import typer

from server.settings import Settings, load_settings
from server.wire import JobStatus

READY_SECONDS = 900.0
ANSWER_SECONDS = 120.0
SWEEP = (0.1, 0.3, 0.5, 0.7, 0.9)
OK, FAILED = 0, 1


class DemoError(Exception):
    """A step of the demonstration did not hold; the message says which."""


@dataclass(frozen=True)
class Service:
    """A running service and how to talk to it."""

    process: subprocess.Popen[bytes]
    http: httpx.Client

    def call(self, method: str, path: str, **arguments: Any) -> Any:  # noqa: ANN401 - JSON
        response = self.http.request(method, path, **arguments)
        if response.is_error:
            raise DemoError(f"{method} {path} was refused: {response.text}")
        return response.json()

    def search(self, budget_ms: float) -> dict[str, Any]:
        """The finished search for a verified model within a budget."""
        body = {"device": "host", "budget": {"latency_ms": budget_ms}, "verify": True}
        url = self.call("POST", "/search", json=body)["url"]
        deadline = time.monotonic() + ANSWER_SECONDS
        while time.monotonic() < deadline:
            view: dict[str, Any] = self.call("GET", url)
            if JobStatus(view["status"]).finished:
                if view["status"] != JobStatus.SUCCEEDED:
                    raise DemoError(f"the search ended {view['status']}: {view['error']}")
                return view
            time.sleep(0.2)
        raise DemoError(f"no answer within {ANSWER_SECONDS:g} s")


def run_demo(budget_ms: float | None, sweep: bool) -> int:
    """Run it; the exit status."""
    settings = load_settings()
    home = settings.home.resolve() / "demo"
    _borrow_supernet(settings, home)
    service = _start(home)
    try:
        _wait_ready(service, home)
        low_ms, high_ms = _reachable(service)
        typer.echo(f"reachable on this machine: {low_ms:.3f} to {high_ms:.3f} ms (upper bounds, confidence 0.9)")
        _show_answer(service, budget_ms or _between(low_ms, high_ms, 0.5))
        if sweep:
            _sweep(service, low_ms, high_ms)
    except (DemoError, httpx.HTTPError) as error:
        typer.echo(f"demo failed: {error}", err=True)
        return FAILED
    finally:
        _stop(service)
    typer.echo("demo succeeded: a downloaded model ran here within its budget")
    return OK


def _show_answer(service: Service, budget_ms: float) -> None:
    model = service.search(budget_ms)["result"]["models"][0]
    latency = model["latency"]["host"]
    data = _download(service, model)
    right, total = _classify(data)
    rows = {
        "budget": f"{budget_ms:.3f} ms",
        "predicted": f"{latency['predicted_ms']:.3f} ms, {latency['confidence']:.0%} interval "
        f"{latency['lower_ms']:.3f} to {latency['upper_ms']:.3f} ms",
        "measured p50": f"{latency['measured_ms']:.3f} ms at the anchor's reference speed, "
        f"{latency['measured_raw_ms']:.3f} ms raw",
        "verified": str(latency["verified"]).lower(),
        "accuracy": f"{model['accuracy']['value']:.1%} top-1 ({model['accuracy']['source']} on held-out digits)",
        "run here": f"{right} of {total} digits right in ai_edge_litert",
        "size": f"{model['size_bytes'] / 1e6:.2f} MB, {model['macs'] / 1e6:.1f} MMACs, arch {model['arch_id']}",
    }
    for name, value in rows.items():
        typer.echo(f"  {name:<13} {value}")
    if not latency["verified"]:
        raise DemoError(f"the best model was measured at {latency['measured_ms']} ms, beyond the budget")
    if right < total / 2:
        raise DemoError("the downloaded model does not recognise digits")


def _sweep(service: Service, low_ms: float, high_ms: float) -> None:
    typer.echo("  budget ms   measured ms   verified   top-1   MMACs   answered in s")
    measured: list[float] = []
    for part in SWEEP:
        budget_ms = _between(low_ms, high_ms, part)
        asked = time.monotonic()
        model = service.search(budget_ms)["result"]["models"][0]
        latency = model["latency"]["host"]
        measured.append(latency["measured_ms"])
        typer.echo(
            f"  {budget_ms:9.3f}   {latency['measured_ms']:11.3f}   {latency['verified']!s:>8}   "
            f"{model['accuracy']['value']:5.1%}   {model['macs'] / 1e6:5.1f}   {time.monotonic() - asked:13.1f}"
        )
    if measured != sorted(measured):
        raise DemoError("measured latencies do not rise with the budget")


def _between(low: float, high: float, part: float) -> float:
    return low + part * (high - low)


def _reachable(service: Service) -> tuple[float, float]:
    predictor = service.call("GET", "/predictors", params={"device": "host", "max_results": 1})["items"][0]
    return predictor["smallest"]["upper_ms"], predictor["largest"]["upper_ms"]


def _download(service: Service, model: dict[str, Any]) -> bytes:
    answer = service.http.get(model["download_url"])
    manifest = service.call("GET", f"/models/{model['model_id']}/download", params={"format": "manifest"})
    if hashlib.sha256(answer.content).hexdigest() != manifest["sha256"]:
        raise DemoError("the downloaded file is not the one of its manifest")
    return answer.content


def _classify(data: bytes) -> tuple[int, int]:
    """Run a .tflite on the digits that no training or search saw: (right, all)."""
    from ai_edge_litert.interpreter import Interpreter

    from elasticvit.training.data import digits

    images = digits()
    runner = Interpreter(model_content=data, num_threads=1)
    runner.allocate_tensors()
    into, out = runner.get_input_details()[0], runner.get_output_details()[0]
    side = int(into["shape"][1])
    right = 0
    for image, label in zip(_resized(images.scaled(images.val.images), side), images.val.labels.tolist(), strict=True):
        runner.set_tensor(into["index"], image[None])
        runner.invoke()
        right += int(runner.get_tensor(out["index"])[0].argmax()) == label
    return right, len(images.val)


def _resized(images: Any, side: int) -> np.ndarray[Any, np.dtype[np.float32]]:  # noqa: ANN401 - torch stays out of sight
    import torch.nn.functional as F

    large = F.interpolate(images, size=side, mode="bicubic", align_corners=False)
    return np.ascontiguousarray(large.permute(0, 2, 3, 1).numpy())


def _borrow_supernet(settings: Settings, home: Path) -> None:
    """Use the supernet that `make run` trained, where there is one; training again would tell nothing new."""
    target = home / "supernets"
    if not settings.supernets_folder.is_dir() or target.exists():
        return
    part = home / ".supernets.part"
    shutil.rmtree(part, ignore_errors=True)
    files = [file for file in settings.supernets_folder.iterdir() if not file.name.startswith(".")]
    part.mkdir(parents=True)
    for file in files:
        shutil.copy2(file, part)
    part.rename(target)


def _start(home: Path) -> Service:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    env = os.environ | {"ELASTICVIT_HOME": str(home), "ELASTICVIT_PORT": str(port), "ELASTICVIT_HOST": "127.0.0.1"}
    # A group of its own, so that stopping it reaches everything it started.
    process = subprocess.Popen([sys.executable, "-m", "server.cli", "up"], env=env, start_new_session=True)
    return Service(process, httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30.0))


def _wait_ready(service: Service, home: Path) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        if service.process.poll() is not None:
            raise DemoError(f"the service ended with status {service.process.returncode}")
        try:
            answer = service.http.get("/readyz")
        except httpx.TransportError:
            time.sleep(0.3)
            continue
        if answer.status_code == 200:
            break
        time.sleep(0.3)
    else:
        raise DemoError(f"the service was not ready within {READY_SECONDS:g} s")
    service.http.headers["Authorization"] = f"Bearer {(home / 'admin.token').read_text().strip()}"


def _stop(service: Service) -> None:
    service.http.close()
    if service.process.poll() is None:
        os.killpg(service.process.pid, signal.SIGTERM)
    try:
        service.process.wait(20)
    except subprocess.TimeoutExpired:
        os.killpg(service.process.pid, signal.SIGKILL)
        service.process.wait()
