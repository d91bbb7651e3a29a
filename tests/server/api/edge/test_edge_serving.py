"""`elasticvit serve` as a process: few descriptors, several processes, an end in order."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from server.api.edge import serving
from server.api.edge.bounds import Bounds
from server.cli.main import app
from server.settings import Settings
from tests.server.server_farm import describe
from tests.service.service_farm import environment, free_port, processes, wait_until

HTTP = httpx.Client(timeout=30, trust_env=False, limits=httpx.Limits(max_keepalive_connections=0))
DESCRIPTORS = 1024


@dataclass(frozen=True)
class Served:
    process: subprocess.Popen[bytes]
    port: int
    home: Path
    log: Path

    def get(self, path: str) -> httpx.Response:
        token = (self.home / "admin.token").read_text().strip()
        return HTTP.get(f"http://127.0.0.1:{self.port}{path}", headers={"Authorization": f"Bearer {token}"})

    def children(self) -> set[int]:
        """Of its home, those that serve; the first process and multiprocessing's own helper are none."""
        return {pid for pid, command in processes(self.home).items() if "spawn_main" in command}


@contextmanager
def served(home: Path, options: Sequence[str] = (), descriptors: int | None = None, **more: str) -> Iterator[Served]:
    port, log = free_port(), home.with_suffix(".log")
    command = [sys.executable, "-m", "server.cli", "serve", *options]
    if descriptors is not None:
        command = [sys.executable, "-c", LIMITED, str(descriptors), *command]
    with log.open("wb") as out:
        process = subprocess.Popen(command, env=environment(home, port, **more), stdout=out, stderr=out)
    try:
        wait_until("answer", lambda: is_healthy(port) or process.poll() is not None)
        assert process.poll() is None, log.read_text()
        yield Served(process, port, home, log)
    finally:
        process.kill()
        process.wait()


LIMITED = """
import os, resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (256, int(sys.argv[1])))
os.execv(sys.argv[2], sys.argv[2:])
"""


def is_healthy(port: int) -> bool:
    try:
        return HTTP.get(f"http://127.0.0.1:{port}/healthz").status_code == 200
    except httpx.TransportError:
        return False


@contextmanager
def silent(port: int, count: int) -> Iterator[None]:
    """`count` connections on which nothing is sent."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(max(soft, count + 500), hard), hard))
    try:
        with ExitStack() as stack:
            for _ in range(count):
                stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=30))
            yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.slow
def test_1100_silent_connections_do_not_use_up_the_descriptors(tmp_path: Path) -> None:
    with served(tmp_path / "home", descriptors=DESCRIPTORS) as server:
        bounds = json.loads(server.log.read_text().splitlines()[0])
        assert bounds["event"] == "serving" and bounds["max_connections"] == 384  # the soft limit was raised to 1024
        with silent(server.port, 1100):
            assert is_healthy(server.port)
            assert server.get("/tokens").status_code == 200
            wait_until("room", lambda: len(list(Path(f"/proc/{server.process.pid}/fd").iterdir())) < 600)
            assert is_healthy(server.port)
        assert server.get("/tokens").status_code == 200
        assert server.log.stat().st_size < 10_000


def test_several_server_processes_over_sqlite_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ELASTICVIT_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("ELASTICVIT_DATABASE_URL", raising=False)
    result = CliRunner().invoke(app, ["serve", "--workers", "2"])
    assert result.exit_code == 1 and "PostgreSQL" in result.output
    assert not (tmp_path / "home").exists()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_several_server_processes_serve_and_end_together(
    tmp_path: Path, postgres_url: str, number: signal.Signals
) -> None:
    options = ["--workers", "2", "--exit-with-parent"]
    with served(tmp_path / "home", options, DATABASE_URL=postgres_url) as server:
        wait_until("two processes", lambda: len(server.children()) == 2)
        assert all(server.get("/tokens").status_code == 200 for _ in range(10))
        one = min(server.children())
        os.kill(one, signal.SIGKILL)
        wait_until("another", lambda: len(server.children() - {one}) == 2)
        assert server.get("/tokens").status_code == 200
        server.process.send_signal(number)
        server.process.wait(30)
        wait_until("end", lambda: not processes(server.home))


@pytest.mark.slow
def test_server_processes_end_with_the_process_that_started_them(tmp_path: Path, postgres_url: str) -> None:
    """As under a supervisor that is killed."""
    home, port = tmp_path / "home", free_port()
    command = [sys.executable, "-m", "server.cli", "serve", "--workers", "2", "--exit-with-parent"]
    script = f"import subprocess, time; subprocess.Popen({command!r}); time.sleep(600)"
    with (tmp_path / "log").open("wb") as out:
        env = environment(home, port, DATABASE_URL=postgres_url)
        parent = subprocess.Popen([sys.executable, "-c", script], env=env, stdout=out, stderr=out)
    try:
        wait_until("answer", lambda: is_healthy(port))
    finally:
        parent.kill()
        parent.wait()
    wait_until("end", lambda: not processes(home))


@pytest.mark.slow
def test_a_term_ends_a_server_with_open_connections_in_time(tmp_path: Path) -> None:
    with served(tmp_path / "home") as server, silent(server.port, 20):
        begun_s = time.monotonic()
        server.process.terminate()
        server.process.wait(30)
        assert time.monotonic() - begun_s < 10  # the supervisor kills after 7 s
        assert b"Traceback" not in server.log.read_bytes()


@pytest.mark.parametrize("proxies", ["", "10.0.0.5, 10.1.0.0/16"])
def test_nobody_is_believed_where_a_request_comes_from_but_named_proxies(tmp_path: Path, proxies: str) -> None:
    settings = Settings(home=tmp_path, trusted_proxies=proxies)
    config = serving.make_config(settings, Bounds.of(settings, DESCRIPTORS))
    assert config.proxy_headers == bool(proxies)
    assert config.forwarded_allow_ips == list(settings.proxies)


@pytest.mark.slow
def test_an_end_waits_for_nobody_who_only_waits(tmp_path: Path) -> None:
    """A claim that waits for a job is answered as soon as the server is to end."""
    with served(tmp_path / "home") as serving_, ThreadPoolExecutor(2) as pool:
        token = (serving_.home / "admin.token").read_text().strip()
        url, headers = f"http://127.0.0.1:{serving_.port}", {"Authorization": f"Bearer {token}"}
        post = partial(httpx.post, headers=headers, timeout=60, trust_env=False)
        described = {"name": "a", "version": "1", "devices": [describe()]}
        agent_id = post(f"{url}/agents/register", json=described).json()["agent_id"]
        asked = {"agent_id": agent_id, "devices": ["host"]}
        beat = {"agent_id": agent_id, "devices": [{"name": "host", "state": "idle"}]}
        assert post(f"{url}/agents/heartbeat", json=beat).status_code == 200
        waiting = [pool.submit(post, f"{url}/leases", json=asked | {"wait_seconds": 30.0}) for _ in range(2)]
        time.sleep(1.0)
        assert not any(answer.done() for answer in waiting)
        begun_s = time.monotonic()
        serving_.process.send_signal(signal.SIGTERM)
        assert serving_.process.wait(30) in (0, -signal.SIGTERM)
        assert time.monotonic() - begun_s < serving.GRACE_SECONDS
        assert [answer.result().status_code for answer in waiting] == [204, 204]
