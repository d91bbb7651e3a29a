"""What must not stop a service: a full disk for a moment, an agent that crashes in a loop, a worker that hangs."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.service.conftest import copy
from tests.service.service_farm import HTTP, Service, check_nothing_left, rows, wait_until
from tests.small_disk import filled, small_filesystem

SPARE_BYTES = 250_000_000  # an agent claims no job with less than 64 MB
FULL_SECONDS = 10.0


def waiting_for(service: Service) -> list[str] | None:
    """None while the server does not answer."""
    with suppress(httpx.TransportError):
        names: list[str] = HTTP.get(f"{service.url}/readyz", timeout=10).json()["waiting_for"]
        return names
    return None


def refused(service: Service) -> bool:
    """Whether a search is refused for want of space."""
    body: dict[str, Any] = {"device": "host", "budget": {"latency_ms": service.budget_ms(0.3)}}
    answer = service.call("POST", "/search", json=body)
    assert answer.status_code in (202, 507), answer.text
    return answer.status_code == 507


@pytest.mark.long
@pytest.mark.slow
def test_a_full_disk_for_a_moment_leaves_no_damage(
    calibrated_home: Path, tmp_path: Path, start: Callable[..., Service]
) -> None:
    used = sum(path.stat().st_size for path in calibrated_home.rglob("*") if path.is_file())
    with small_filesystem(tmp_path / "disk", used + SPARE_BYTES) as disk:
        service = start(copy(calibrated_home, disk / "home"), MIN_FREE_MB="5")
        urls = [service.ask(service.budget_ms(share), verify=True) for share in (0.2, 0.6)]
        with filled(disk):
            wait_until("a search that is refused", lambda: refused(service))
            assert "disk" in (waiting_for(service) or [])
            for path in ("/jobs", "/models", urls[0], "/devices/host"):
                assert service.call("GET", path).status_code == 200, path
            for name in ("device_agent.cli", "worker", "serve"):
                service.kill(name)
            wait_until("server", lambda: waiting_for(service) is not None)
            time.sleep(FULL_SECONDS)
            assert service.main.poll() is None, service.log_tails()
        for url in urls:
            view = service.wait(url, 300)
            assert view["status"] == "succeeded", f"{view['error']}\n{service.log_tails()}"
        service.wait_ready()
        service.search(service.budget_ms(0.4))
        assert rows(service.home, "PRAGMA integrity_check") == [("ok",)]
        service.stop()
        check_nothing_left(service.home)


@pytest.mark.long
@pytest.mark.slow
def test_an_agent_that_crashes_and_a_worker_that_hangs_end_nothing_else(
    start: Callable[..., Service], home: Path
) -> None:
    service = start()
    server = service.pid("serve")
    kills = []

    def crash() -> None:
        with suppress(StopIteration, ProcessLookupError):
            service.kill("device_agent.cli")
            kills.append(time.monotonic())

    def missed() -> bool:
        crash()
        return len(kills) > 5 and waiting_for(service) == ["host_idle"]

    wait_until("a missed agent", missed)
    assert service.main.poll() is None and service.pid("serve") == server, service.log_tails()
    assert service.search(service.budget_ms(0.4))["models"], "what needs no device is answered"
    worker = service.pid("worker")
    os.kill(worker, signal.SIGSTOP)
    wait_until("a missed worker", lambda: "worker" in (waiting_for(service) or []))
    os.kill(worker, signal.SIGCONT)
    service.wait_ready()
    assert service.pid("worker") == worker
    service.stop()
    check_nothing_left(home)
