"""uvicorn's protocol with bounds: on headers, on the time in which a request arrives, on clients that do not read.

It extends the one over httptools and not the one over h11: the parser is in C, and a request then takes about half the
time, which is what the figures of `make load` need. The parser itself bounds nothing, so bytes are counted around it.
The duration of a handler is not bounded: long polls and streams of events take as long as they like.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from urllib.parse import unquote

import httptools
import structlog
from uvicorn._types import ASGI3Application
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from server.api.edge.bounds import Bounds
from server.api.edge.connections import Connections, Place
from server.api.edge.cycle import BoundedCycle, give_up
from server.api.edge.raw_answers import raw_answer

log = structlog.get_logger()
MAX_URL_BYTES = 8000
MAX_PIPELINED = 64  # requests that were sent before the first of them was answered
LINGER_SECONDS, LINGER_BYTES = 5.0, 4_000_000
WRITE_STEP_BYTES = 16_000
FRAMING_BYTES_PER_BYTE = 16  # of a chunked body: one byte a chunk takes 5 more
HEALTH = b"/healthz"
END_WAITS = "end_waits"  # in the state of the app's lifespan: a function that ends what only waits for an event
KEEPALIVE = ((socket.TCP_KEEPIDLE, 60), (socket.TCP_KEEPINTVL, 15), (socket.TCP_KEEPCNT, 4))

BAD_REQUEST = "this is no HTTP request: check what sends it"
BUSY = "this server has too many connections: try again in some seconds"


class BoundedConfig(Config):
    """uvicorn's settings, and the bounds that the protocol keeps."""

    def __init__(self, app: Any, *, bounds: Bounds, **settings: Any) -> None:  # noqa: ANN401
        super().__init__(app, **settings | {"http": BoundedProtocol, "ws": "none", "backlog": bounds.backlog})
        self.bounds = bounds


class Refused(Exception):  # noqa: N818  an answer, not an error
    """Raised within the parser's callbacks: what arrives is answered here, and the connection ends."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


class BoundedProtocol(HttpToolsProtocol):
    """One connection."""

    cycle: BoundedCycle

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        assert isinstance(config, BoundedConfig)
        self.bounds = config.bounds
        self.pool = _pool(server_state, config.bounds, self.loop)
        self.place = Place.NORMAL
        self.running: BoundedCycle | None = None
        self.deadline_s: float | None = None
        """When a connection that waits is closed; None while a request is being answered."""
        self.deaf = False
        """Whether what arrives is thrown away until the client closes."""
        self.thrown_bytes = 0
        self.refusal: Refused | None = None
        """What is said when the requests before it are answered."""
        self._begin_head()
        self.in_head = False
        # The body that is arriving.
        self.body_bytes = 0
        self.framing_bytes = 0
        self.body_since_s: float | None = None
        self.stall_since_s = 0.0
        self.stall_bytes = 0
        # What the client has not read yet.
        self.unread_since_s: float | None = None
        self.unread_bytes = 0

    # The connection

    def shutdown(self) -> None:
        """The server ends: what only waits is answered now, and the rest when it is done."""
        end_waits: Callable[[], None] | None = self.app_state.get(END_WAITS)
        if end_waits is not None:
            end_waits()
        super().shutdown()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.place = self.pool.add(self, self.client[0] if self.client else "")
        if self.place is Place.NONE:
            self.end()
            return
        self.deadline_s = self.loop.time() + self.bounds.header_seconds
        _watch_for_dead_peers(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.pool.remove(self)
        for cycle in (self.running, *(cycle for cycle, _ in self.pipeline)):
            if cycle is not None and not cycle.response_complete:
                give_up(cycle)
        self.pipeline.clear()
        super().connection_lost(exc)

    def end(self) -> None:
        self.deaf = True
        self.transport.abort()

    def data_received(self, data: bytes) -> None:
        if self.deaf:
            self.thrown_bytes += len(data)
            if self.thrown_bytes > LINGER_BYTES:
                self.end()
            return
        was_in_head, cycle, body_bytes = self.in_head, self.cycle, self.body_bytes
        try:
            self.parser.feed_data(data)
            if self.in_head:
                self._count_head(len(data) if was_in_head else 0)
            elif cycle is not None and cycle is self.cycle and cycle.more_body:
                self._count_framing(len(data) - (self.body_bytes - body_bytes))
        except httptools.HttpParserUpgrade:
            self._ignore_upgrade()
        except (httptools.HttpParserError, Refused) as error:
            refusal = error if isinstance(error, Refused) else error.__context__
            self._refuse(refusal if isinstance(refusal, Refused) else Refused(400, BAD_REQUEST))

    def _refuse(self, refusal: Refused) -> None:
        """Answer and close, after the answers to whole requests that arrived before."""
        self.deaf = True
        broken = self.cycle if self.cycle is not None and self.cycle.more_body else None  # it is the body that is wrong
        if broken is not None:
            give_up(broken)
            if self.pipeline and self.pipeline[0][0] is broken:
                self.pipeline.popleft()
        self.refusal = refusal if broken is None or not broken.response_started else None
        if self.running is None or self.running is broken or self.running.response_complete:
            self._end_with_refusal()

    def _end_with_refusal(self) -> None:
        if self.refusal is not None:
            self.transport.write(raw_answer(self.refusal.status, self.refusal.detail))
        self._linger()

    def _linger(self) -> None:
        """Send what is to be sent, and throw away what still arrives: a close with unread data destroys the answer."""
        self.deaf = True
        self.flow.resume_reading()
        self.deadline_s = self.loop.time() + LINGER_SECONDS
        self.pool.waits(self)
        with suppress(OSError, RuntimeError):  # the client has closed already
            self.transport.write_eof()

    def _ignore_upgrade(self) -> None:
        """The request is answered as HTTP/1.1, which a server may do; then the connection is closed."""
        self.deaf = True
        if self.cycle is not None:
            self.cycle.keep_alive = False

    # The parser's callbacks

    def on_message_begin(self) -> None:
        if len(self.pipeline) >= MAX_PIPELINED:
            raise Refused(400, "too many requests before the first was answered")
        super().on_message_begin()
        self._begin_head()
        self.deadline_s = self.loop.time() + self.bounds.header_seconds if self.deadline_s is not None else None

    def _begin_head(self) -> None:
        self.in_head = True
        self.head_bytes = 0
        self.hosts = 0
        self.is_chunked = False
        self.has_length = False

    def on_url(self, url: bytes) -> None:
        self.url += url
        if len(self.url) > MAX_URL_BYTES:
            raise Refused(414, f"the address is longer than {MAX_URL_BYTES} bytes: shorten it")

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.in_head:  # a trailer after a chunked body, which means nothing here
            self.framing_bytes += len(name) + len(value)
            return
        name = name.lower()
        if name == b"host":
            self.hosts += 1
        elif name == b"content-length":
            self.has_length = value != b"0"
        elif name == b"transfer-encoding":
            self.is_chunked = True
            if value.lower() != b"chunked":
                raise Refused(501, "of the transfer encodings only chunked is known here")
        elif name == b"expect":
            if value.lower() != b"100-continue":
                raise Refused(417, "of the expectations only 100-continue is known here")
            self.expect_100_continue = True
        self.headers.append((name, value))
        self._count_head(len(name) + len(value) + 4)
        if len(self.headers) > self.bounds.max_headers:
            raise Refused(431, f"the request has more than {self.bounds.max_headers} headers: send fewer")

    def _count_head(self, more_bytes: int) -> None:
        self.head_bytes += more_bytes
        if self.head_bytes + len(self.url) > self.bounds.max_header_bytes:
            raise Refused(431, f"the headers are larger than {self.bounds.max_header_bytes / 1e3:g} kB: send less")

    def _count_framing(self, more_bytes: int) -> None:
        self.framing_bytes += more_bytes
        if self.framing_bytes > 2 * self.bounds.max_header_bytes + FRAMING_BYTES_PER_BYTE * self.body_bytes:
            raise Refused(400, "the chunks of the body say more about themselves than they hold")

    def on_headers_complete(self) -> None:
        self.in_head = False
        version = self.parser.get_http_version()
        has_body = self.has_length or self.is_chunked
        self._check_head(version, has_body)
        url = httptools.parse_url(self.url)
        scope = self.scope
        scope["method"] = self.parser.get_method().decode("ascii")
        if version != "1.1":
            scope["http_version"] = version
        path = url.path.decode("ascii")
        if not path.startswith("/"):
            raise Refused(400, BAD_REQUEST)
        scope["path"] = self.root_path + (unquote(path) if "%" in path else path)
        scope["raw_path"] = self.root_path.encode("ascii") + url.path
        scope["query_string"] = url.query or b""
        if self.place is Place.SPARE and url.path != HEALTH:
            raise Refused(503, BUSY)
        before = self.cycle
        self.cycle = BoundedCycle(
            scope=scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=self.access_log,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=self.expect_100_continue,
            keep_alive=self.place is Place.NORMAL and version != "1.0" and self.parser.should_keep_alive(),
            on_response=self.on_response_complete,
        )
        self.body_bytes = self.framing_bytes = 0
        self.body_since_s = None
        if before is None or before.response_complete:
            self._start_asgi_task(self.cycle, self.app)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((self.cycle, self.app))
        if self.deadline_s is not None:
            self.deadline_s = None
            self.pool.works(self)

    def _check_head(self, version: str, has_body: bool) -> None:
        """Raises Refused for what two servers in a row could read as two different requests."""
        if self.hosts > 1 or (self.hosts == 0 and version == "1.1"):
            raise Refused(400, "the request must have one Host header")
        if self.is_chunked and (version != "1.1" or self.has_length):
            raise Refused(400, "the length of the body must be given once: by Content-Length or by chunks of HTTP/1.1")
        if has_body and self.parser.should_upgrade():
            raise Refused(400, "this server speaks HTTP/1.1 only: send no Upgrade header with a body")

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        assert isinstance(cycle, BoundedCycle)
        self.running = cycle
        cycle.task = task = self.loop.create_task(cycle.run_asgi(app))
        task.add_done_callback(self.tasks.discard)
        self.tasks.add(task)

    def on_body(self, body: bytes) -> None:
        self.body_bytes += len(body)
        super().on_body(body)

    def on_response_complete(self) -> None:
        """As uvicorn's, but for its timer, and with an end where the rest of the body is not wanted."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        if self.running is not None and self.running.lingers:
            self.pipeline.clear()
            self._linger()
            return
        self.flow.resume_reading()
        if self.pipeline:
            cycle, app = self.pipeline.pop()
            self._start_asgi_task(cycle, app)
        elif self.refusal is not None:
            self._end_with_refusal()
        else:
            now_s = self.loop.time()
            self.deadline_s = now_s + (self.bounds.header_seconds if self.in_head else self.bounds.idle_seconds)
            self.pool.waits(self)

    # What takes too long

    def look(self, now_s: float) -> None:
        if self.deadline_s is not None and now_s > self.deadline_s:
            if self.in_head and not self.deaf:
                self._refuse(Refused(408, "the headers did not arrive in time"))
            else:
                self.end()
        elif self.cycle is not None and self.cycle.more_body and not self.deaf:
            self._look_at_body(now_s)
        self._look_at_writing(now_s)

    def _look_at_body(self, now_s: float) -> None:
        moved = self.body_bytes != self.stall_bytes or self.body_since_s is None
        if self.flow.read_paused or moved:  # while reading is paused, it is not the client who is slow
            self.stall_since_s, self.stall_bytes = now_s, self.body_bytes
        if self.body_since_s is None:
            self.body_since_s = now_s
        if self.flow.read_paused:
            self.body_since_s += self.bounds.tick_seconds
            return
        took_s = now_s - self.body_since_s - self.bounds.body_stall_seconds
        too_slow = took_s * self.bounds.body_bytes_per_second > self.body_bytes
        if too_slow or now_s - self.stall_since_s > self.bounds.body_stall_seconds:
            self._refuse(Refused(408, "the body did not arrive in time"))

    def _look_at_writing(self, now_s: float) -> None:
        unread = self.transport.get_write_buffer_size()
        if unread == 0:
            self.unread_since_s = None
        elif self.unread_since_s is None or unread <= self.unread_bytes - WRITE_STEP_BYTES:
            self.unread_since_s, self.unread_bytes = now_s, unread
        elif now_s - self.unread_since_s > self.bounds.write_stall_seconds:
            self.end()

    def resume_writing(self) -> None:
        self.unread_since_s = None  # most of it was read
        super().resume_writing()


def _pool(server_state: ServerState, bounds: Bounds, loop: asyncio.AbstractEventLoop) -> Connections:
    """The connections of this server, which is all that its protocols share."""
    pool: Connections | None = getattr(server_state, "pool", None)
    if pool is None:
        pool = Connections(bounds, loop)
        server_state.pool = pool  # type: ignore[attr-defined]
    return pool


def _watch_for_dead_peers(transport: asyncio.Transport) -> None:
    """Have the kernel ask from time to time whether the peer still lives, since a long poll sends nothing."""
    connection = transport.get_extra_info("socket")
    if connection is None or connection.family not in (socket.AF_INET, socket.AF_INET6):
        return
    with suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in KEEPALIVE:
            connection.setsockopt(socket.IPPROTO_TCP, option, value)
