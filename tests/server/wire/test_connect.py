"""Addresses of servers, and which of them a proxy of the environment applies to."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from server.settings import load_settings
from server.wire.connect import AddressError, base_url, check_url, http_client, is_local

ELSEWHERE = "http://a-server.invalid"
DEAD = "http://127.0.0.1:9"


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


@contextmanager
def listener(host: str) -> Iterator[tuple[int, list[str]]]:
    """The port of a server that answers every GET, and the targets of the requests."""
    targets: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            targets.append(self.path)
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        address_family = socket.AF_INET6 if ":" in host else socket.AF_INET

    with Server((host, 0), Handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield server.server_address[1], targets
        server.shutdown()


PROXIES = [
    {"http_proxy": DEAD},
    {"HTTP_PROXY": DEAD, "HTTPS_PROXY": DEAD},
    {"ALL_PROXY": "socks5://127.0.0.1:9"},
    {"all_proxy": "no scheme at all://"},
    {"http_proxy": DEAD, "no_proxy": "[::1]"},
]


@pytest.mark.medium
@pytest.mark.parametrize("environment", PROXIES)
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.0.0.2", "127.1", "0.0.0.0"])
def test_this_machine_is_reached_without_a_proxy(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], host: str
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with listener("0.0.0.0") as (port, _), http_client(f"http://{host}:{port}", timeout_seconds=10) as client:
        assert client.get("/healthz").status_code == 204


@pytest.mark.parametrize("host", ["::1", "::"])
def test_an_ipv6_server_is_reached(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        pytest.skip("this machine has no IPv6")
    monkeypatch.setenv("http_proxy", DEAD)
    with listener(host) as (port, _), http_client(base_url(host, port), timeout_seconds=10) as client:
        assert client.get("/healthz").status_code == 204


@pytest.mark.parametrize("name", ["http_proxy", "HTTP_PROXY", "ALL_PROXY"])
def test_another_machine_is_reached_through_the_proxy(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    with listener("127.0.0.1") as (port, targets):
        monkeypatch.setenv(name, f"http://127.0.0.1:{port}")
        with http_client(ELSEWHERE, timeout_seconds=10) as client:
            assert client.get("/healthz").status_code == 204
        assert targets == [f"{ELSEWHERE}/healthz"]
        monkeypatch.setenv("NO_PROXY", "a-server.invalid")
        with http_client(ELSEWHERE, timeout_seconds=10) as client, pytest.raises(httpx.ConnectError):
            client.get("/healthz")


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"ALL_PROXY": "socks5://127.0.0.1:9"}, "SOCKS"),
        ({"ALL_PROXY": "carrier-pigeon://home"}, "proxies of the environment"),
        ({"http_proxy": "http://127.0.0.1:port"}, "proxies of the environment"),
    ],
)
def test_a_proxy_that_cannot_be_used_is_refused(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], message: str
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(AddressError, match=message):
        http_client(ELSEWHERE, timeout_seconds=10)


@pytest.mark.parametrize("content", [None, "no certificate"], ids=["missing", "no certificate"])
@pytest.mark.parametrize("url", [ELSEWHERE, "https://a-server.invalid", DEAD])
def test_certificates_that_cannot_be_read_are_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, url: str, content: str | None
) -> None:
    file = tmp_path / "certificates.pem"
    if content is not None:
        file.write_text(content)
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    with pytest.raises(AddressError, match="SSL_CERT_FILE"):
        http_client(url, timeout_seconds=10)


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("localhost", True),
        ("LOCALHOST.", True),
        ("a.localhost", True),
        ("127.255.0.1", True),
        ("::1", True),
        ("0:0:0:0:0:0:0:1", True),
        ("::ffff:127.0.0.1", True),
        ("::", True),
        (socket.gethostname(), True),
        ("198.51.100.7", False),
        ("2001:db8::7", False),
        ("localhost.example", False),
        ("127.0.0.1.example", False),
        ("128.0.0.1", False),
    ],
)
def test_which_hosts_are_this_machine(host: str, local: bool) -> None:
    assert is_local(host) is local


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:8000"),
        ("::1", "http://[::1]:8000"),
        ("0.0.0.0", "http://127.0.0.1:8000"),
        ("::", "http://[::1]:8000"),
        ("0:0::0", "http://[::1]:8000"),
        ("[::1]", "http://[::1]:8000"),
        ("farm.example", "http://farm.example:8000"),
    ],
)
def test_the_url_of_a_server_that_listens_on_a_host(monkeypatch: pytest.MonkeyPatch, host: str, url: str) -> None:
    monkeypatch.setenv("ELASTICVIT_HOST", host)
    monkeypatch.setenv("ELASTICVIT_PORT", "8000")
    assert load_settings().server_url == url
    assert check_url(url) == load_settings().server_url.removeprefix("http://").removesuffix(":8000").strip("[]")


def test_an_address_that_is_refused_is_shown_without_its_password() -> None:
    with pytest.raises(AddressError) as caught:
        check_url("ftp://me:secret@farm.example")
    assert "secret" not in str(caught.value) and "farm.example" in str(caught.value)
