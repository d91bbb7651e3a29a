"""`elasticvit demo`: the whole loop once, against a server of its own.

Starts a service in a home folder of its own, asks for a model within a budget, has it measured, downloads it, runs it
here and compares its answers with those of the supernet in torch; then has the same network exported and measured in
every precision. The exit status is 0 only if every step succeeded.
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
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import typer

from elasticvit.accuracy.intervals import wilson
from elasticvit.accuracy.words import in_words, interval_in_words
from elasticvit.atomic import atomic_folder, remove_part_folders
from elasticvit.errors import ElasticVitError
from elasticvit.nn.supernet_header import ENDING
from server.demo import precisions
from server.demo.model import ModelCheck, try_model
from server.demo.precisions import PrecisionError
from server.settings import Settings, load_settings
from server.wire import HOST, Accuracy, JobStatus
from server.wire.connect import base_url, http_client
from server.wire.polling import finished_view
from server.wire.process import exit_text

READY_SECONDS = 900.0
ANSWER_SECONDS = 120.0
POLL_SECONDS = 0.2
SWEEP = (0.1, 0.3, 0.5, 0.7, 0.9)
# Kernels round differently: an image whose two best classes score almost alike may get either.
MIN_SAME = 0.98
MAX_BELOW = 0.1
OK, FAILED = 0, 1
SEARCHES = 3


class DemoError(Exception):
    """A step of the demonstration failed; the message says which."""


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
        body = {"device": HOST, "budget": {"latency_ms": budget_ms}, "verify": True}
        url = self.call("POST", "/search", json=body)["url"]
        try:
            view = finished_view(lambda: self.call("GET", url), POLL_SECONDS, ANSWER_SECONDS)
        except TimeoutError as error:
            raise DemoError(f"no answer within {ANSWER_SECONDS:g} s") from error
        if view["status"] != JobStatus.SUCCEEDED:
            raise DemoError(f"the search ended {view['status']}: {view['error']}")
        return view


def run_demo(budget_ms: float | None, sweep: bool) -> int:
    """Run it; the exit status. Raises ServerError and AddressError before anything is started."""
    settings = load_settings()
    home = settings.home.resolve() / "demo"
    _borrow_supernet(settings, home)
    service = _start(home)
    try:
        _wait_ready(service, home)
        low_ms, high_ms = reachable_ms(service.call)
        typer.echo(f"reachable on this machine: {low_ms:.3f} to {high_ms:.3f} ms (upper bounds, confidence 0.9)")
        _show_answer(service, home, budget_ms or _between(low_ms, high_ms, 0.5))
        if sweep:
            _sweep(service, low_ms, high_ms)
    except (DemoError, PrecisionError, ElasticVitError, httpx.HTTPError) as error:
        typer.echo(f"demo failed: {error}", err=True)
        return FAILED
    finally:
        _stop(service)
    typer.echo("demo succeeded: a downloaded model ran here within its budget")
    return OK


def _show_answer(service: Service, home: Path, budget_ms: float) -> None:
    result = undisturbed(lambda: service.search(budget_ms)["result"])
    model = result["models"][0]
    latency, accuracy = model["latency"][HOST], model["accuracy"]
    supernet = service.call("GET", f"/supernets/{result['supernet']}")
    tried = try_model(_download(service, model), model["arch"], home / "supernets" / f"{supernet['name']}{ENDING}")
    rows = {
        "budget": f"{budget_ms:.3f} ms",
        "predicted": f"{latency['predicted_ms']:.3f} ms, {latency['confidence']:.0%} interval "
        f"{latency['lower_ms']:.3f} to {latency['upper_ms']:.3f} ms",
        "measured p50": f"{latency['measured_ms']:.3f} ms at the anchor's reference speed, "
        f"{latency['measured_raw_ms']:.3f} ms raw",
        "verified": str(latency["verified"]).lower(),
        "accuracy": f"{accuracy['value']:.1%} top-1, {in_words(Accuracy.model_validate(accuracy))}",
        "run here": f"{tried.same} of {tried.images} answers as torch's, in ai_edge_litert",
        "top-1 here": _top1(tried),
        "size": f"{model['size_bytes'] / 1e6:.2f} MB, {model['macs'] / 1e6:.1f} MMACs, arch {model['arch_id']}",
        "supernet": supernet["name"],
        "terms": result["terms"] or "none stated",
    }
    for name, value in rows.items():
        typer.echo(f"  {name:<13} {value}")
    _check(latency, tried, accuracy["value"], result["terms"], result["note"])
    typer.echo(f"the same network in every precision:\n{precisions.HEADING}")
    for line in precisions.lines(service.call, model["arch"], supernet["name"]):
        typer.echo(line)


def undisturbed(search: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The result of the first of SEARCHES searches whose measurement was not disturbed, else of the last one."""
    for number in range(1, SEARCHES + 1):
        result = search()
        if result["models"][0]["latency"][HOST]["verified"] or not result["note"] or number == SEARCHES:
            break
        typer.echo("the measurement was disturbed; searching again")
    return result


def _top1(tried: ModelCheck) -> str:
    if tried.top1 is None:
        return f"not known: the images of {tried.data} are not available (set ELASTICVIT_DATA)"
    interval = interval_in_words(*wilson(tried.top1, tried.tested))
    return f"{tried.top1:.1%} of {tried.tested} images that no training or search saw{interval}"


def _check(latency: dict[str, Any], tried: ModelCheck, stated: float, terms: str | None, note: str | None) -> None:
    if not latency["verified"]:
        raise DemoError(note or f"the best model was measured at {latency['measured_ms']} ms, beyond the budget")
    if tried.same < MIN_SAME * tried.images:
        raise DemoError("the downloaded model does not answer as the supernet's network does")
    if tried.top1 is not None and tried.top1 < stated - MAX_BELOW:
        raise DemoError(f"the downloaded model is right for {tried.top1:.1%}, far below the {stated:.1%} stated")
    if terms != tried.terms:
        raise DemoError("the terms of the supernet's images did not travel with the answer")


def _sweep(service: Service, low_ms: float, high_ms: float) -> None:
    typer.echo("  budget ms   measured ms   verified   top-1   MMACs   answered in s")
    measured: list[float] = []
    for fraction in SWEEP:
        budget_ms = _between(low_ms, high_ms, fraction)
        begin_s = time.monotonic()
        model = service.search(budget_ms)["result"]["models"][0]
        latency = model["latency"][HOST]
        measured.append(latency["measured_ms"])
        typer.echo(
            f"  {budget_ms:9.3f}   {latency['measured_ms']:11.3f}   {latency['verified']!s:>8}   "
            f"{model['accuracy']['value']:5.1%}   {model['macs'] / 1e6:5.1f}   {time.monotonic() - begin_s:13.1f}"
        )
    if measured != sorted(measured):
        raise DemoError("measured latencies do not rise with the budget")


def _between(low: float, high: float, fraction: float) -> float:
    return low + fraction * (high - low)


def reachable_ms(call: Callable[..., Any]) -> tuple[float, float]:
    """Upper bounds of the smallest and the largest network of the default supernet, by the newest predictor.

    `call` is as `Service.call`. Raises DemoError if there is no predictor.
    """
    default = next(item["name"] for item in call("GET", "/supernets")["items"] if item["is_default"])
    predictors = call("GET", "/predictors", params={"device": HOST})["items"]
    predictor = next((item for item in predictors if item["supernet"] == default), None)
    if predictor is None:
        raise DemoError(
            f"there is no latency predictor for supernet '{default}' on '{HOST}': see why its calibration failed in "
            "logs/worker.log of the demo's home folder, then run the demo again"
        )
    return predictor["smallest"]["upper_ms"], predictor["largest"]["upper_ms"]


def _download(service: Service, model: dict[str, Any]) -> bytes:
    answer = service.http.get(model["download_url"])
    manifest = service.call("GET", f"/models/{model['model_id']}/download", params={"format": "manifest"})
    if hashlib.sha256(answer.content).hexdigest() != manifest["sha256"]:
        raise DemoError("the downloaded file is not the one of its manifest")
    return answer.content


def _borrow_supernet(settings: Settings, home: Path) -> None:
    """Copy the supernets that `make run` serves, if there are any, so that none is trained for the demo."""
    target = home / "supernets"
    if not settings.supernets_folder.is_dir() or target.exists():
        return
    remove_part_folders(target)
    with atomic_folder(target) as part:
        for file in settings.supernets_folder.iterdir():
            if not file.name.startswith("."):
                shutil.copy2(file, part)


def _start(home: Path) -> Service:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    env = os.environ | {"ELASTICVIT_HOME": str(home), "ELASTICVIT_PORT": str(port), "ELASTICVIT_HOST": "127.0.0.1"}
    http = http_client(base_url("127.0.0.1", port), timeout_seconds=30.0)
    # A group of its own, so that stopping it reaches everything it started.
    command = [sys.executable, "-m", "server.cli", "up", "--exit-with-parent"]
    process = subprocess.Popen(command, env=env, start_new_session=True)
    return Service(process, http)


def _wait_ready(service: Service, home: Path) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        if service.process.poll() is not None:
            raise DemoError(f"the service ended with {exit_text(service.process.returncode)}")
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
