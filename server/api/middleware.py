"""For every request: an id, a log line and a count; and a limit on the size of bodies."""

from __future__ import annotations

import re
import secrets
import time

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.api.metrics import Metrics

log = structlog.get_logger()
REQUEST_ID = "x-request-id"
GIVEN_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
QUIET = ("/healthz", "/readyz", "/metrics", "/leases", "/agents/heartbeat")


class RequestLog:
    """Gives each request an id (the caller's, where it sent one), logs its end and counts it."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = Headers(scope=scope).get(REQUEST_ID, "")
        request_id = given if GIVEN_ID.fullmatch(given) else secrets.token_hex(8)
        status = 500
        begun = time.perf_counter()

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[REQUEST_ID] = request_id
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                await self.app(scope, receive, send_with_id)
            finally:
                self.metrics.count(scope["method"], _route(scope), status)
                say = log.debug if scope["path"] in QUIET and status < 400 else log.info
                say(
                    "request",
                    method=scope["method"],
                    path=scope["path"],
                    status=status,
                    ms=round((time.perf_counter() - begun) * 1e3, 1),
                )


class BodyLimit:
    """Refuses a body beyond the limit while it arrives, so that it never fills the memory."""

    def __init__(self, app: ASGIApp, max_bytes: int, uploads: dict[str, int]) -> None:
        self.app = app
        self.max_bytes = max_bytes
        self.uploads = uploads

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        limit = self.uploads.get(scope["path"], self.max_bytes)
        announced = Headers(scope=scope).get("content-length", "")
        seen = 0

        async def receive_counted() -> Message:
            nonlocal seen
            if announced.isdecimal() and int(announced) > limit:
                raise _too_large(limit)
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > limit:
                raise _too_large(limit)
            return message

        await self.app(scope, receive_counted, send)


def _too_large(limit: int) -> HTTPException:
    """An HTTPException, since the framework turns any other error while it reads a body into a 400."""
    return HTTPException(413, f"the body is larger than the {limit / 1e6:g} MB allowed here")


def _route(scope: Scope) -> str:
    """The route's pattern, so that the metric's labels stay few."""
    return str(getattr(scope.get("route"), "path", "unknown"))
