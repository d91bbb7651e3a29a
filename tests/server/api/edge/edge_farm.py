"""An app behind the bounded protocol on a real socket, and clients that misbehave."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import uvicorn

from server.api.edge.bounds import Bounds
from server.api.edge.connections import Connections
from server.api.edge.protocol import BoundedConfig

PATIENCE_SECONDS = 60.0
SHORT = Bounds(max_connections=500, max_connections_per_address=500, backlog=500)


@dataclass
class App:
    """A small ASGI app: /wait answers when `go` is set, /big with more than buffers hold, /early before the body."""

    seen: list[tuple[str, bytes]] = field(default_factory=list)
    waiting: int = 0
    gone: int = 0
    stopped: int = 0
    go: threading.Event = field(default_factory=threading.Event)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401
        if scope["type"] != "http":
            return
        path, body = scope["path"], b""
        if path == "/wait":
            self.waiting += 1
            try:
                while not self.go.is_set():
                    await asyncio.sleep(0.01)
            except asyncio.CancelledError:
                self.stopped += 1
                raise
        if path != "/early":
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    self.gone += 1
                    return
                body += message["body"]
                if not message["more_body"]:
                    break
        self.seen.append((path, body))
        answer = bytes(20_000_000) if path == "/big" else f"{path} {len(body)}".encode()
        headers = [(b"content-length", str(len(answer)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer})


@dataclass(frozen=True)
class Server:
    port: int
    app: App
    state: uvicorn.server.ServerState

    @property
    def connections(self) -> int:
        """How many the server counts."""
        pool: Connections | None = getattr(self.state, "pool", None)
        return len(pool) if pool is not None else 0

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE_SECONDS)

    def say(self, *pieces: bytes) -> socket.socket:
        """A connection on which these pieces were sent."""
        connection = self.connect()
        for piece in pieces:
            connection.sendall(piece)
        return connection

    def ask(self, *pieces: bytes) -> bytes:
        """All that comes back before the server closes."""
        return rest(self.say(*pieces))


@contextmanager
def serving(app: Any, **bounds: Any) -> Iterator[Server]:  # noqa: ANN401
    """A server in a thread of this process; what is not bounded by the test is bounded generously."""
    config = BoundedConfig(app, bounds=replace(SHORT, **bounds), port=0, lifespan="off", log_level="critical")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    eventually(lambda: server.started)
    try:
        yield Server(server.servers[0].sockets[0].getsockname()[1], app, server.server_state)
    finally:
        if isinstance(app, App):
            app.go.set()
        server.should_exit = server.force_exit = True
        thread.join(PATIENCE_SECONDS)


def eventually(holds: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + PATIENCE_SECONDS
    while not holds():
        assert time.monotonic() < deadline_s, "it did not come to hold"
        time.sleep(0.01)


def rest(connection: socket.socket) -> bytes:
    """What still arrives on a connection until the server closes it, which it must do."""
    received = b""
    with connection:
        while True:
            try:
                chunk = connection.recv(65536)
            except ConnectionResetError:
                return received
            if not chunk:
                return received
            received += chunk


def status(answer: bytes) -> int:
    assert answer.startswith(b"HTTP/1.1 "), answer[:100]
    return int(answer[9:12])


def is_open(connection: socket.socket) -> bool:
    """Whether the server has neither answered nor closed, without waiting for it."""
    connection.setblocking(False)
    try:
        connection.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        connection.settimeout(PATIENCE_SECONDS)
    return False
