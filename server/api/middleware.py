"""For every request: an id, a count, and a log line where somebody may want to read it."""

from __future__ import annotations

import random
import re
import time

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.api.edge.access import DEPARTED, RULE
from server.api.metrics import Metrics

log = structlog.get_logger()
REQUEST_ID = b"x-request-id"
GIVEN_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
QUIET = ("/leases", "/agents/heartbeat")  # what agents ask for all the time
REFUSALS_A_SECOND = 10
GONE = 499  # the usual word in logs for a client that left before its answer


class RequestLog:
    """Gives each request an id (the caller's, where it sent one) and counts it.

    Logged are changes, failures and refusals; of refusals only some a second, since anybody can cause them.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app = app
        self.metrics = metrics
        self._second = 0
        self._refused = 0
        self._random = random.Random()  # names, not secrets

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = self._id(scope)
        status = 500
        begun_s = time.perf_counter()

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (REQUEST_ID, request_id)]
            await send(message)

        # Each request is a task with a context of its own, so nothing has to be unbound.
        structlog.contextvars.bind_contextvars(request_id=request_id.decode())
        try:
            await self.app(scope, receive, send_with_id)
        finally:
            state = scope.get("state", {})
            rule = state.get(RULE)
            if DEPARTED in state:
                status = GONE
            self.metrics.count(scope["method"], rule.path if rule is not None else "unknown", status)
            if self._is_worth_a_line(scope["method"], scope["path"], status):
                milliseconds = round((time.perf_counter() - begun_s) * 1e3, 1)
                log.info("request", method=scope["method"], path=scope["path"], status=status, ms=milliseconds)

    def _is_worth_a_line(self, method: str, path: str, status: int) -> bool:
        if status >= 500:
            return True
        if status < 400:
            return method != "GET" and path not in QUIET
        second = int(time.monotonic())
        if second != self._second:
            if self._refused > REFUSALS_A_SECOND:
                log.warning("refusals that were not logged", count=self._refused - REFUSALS_A_SECOND)
            self._second, self._refused = second, 0
        self._refused += 1
        return self._refused <= REFUSALS_A_SECOND

    def _id(self, scope: Scope) -> bytes:
        for name, value in scope["headers"]:
            if name == REQUEST_ID and GIVEN_ID.fullmatch(value):
                return bytes(value)
        return b"%016x" % self._random.getrandbits(64)
