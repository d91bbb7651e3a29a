"""The server, as the agent sees it: one method per call, wire values in and out, errors of `device_agent.errors`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Set
from contextlib import contextmanager
from http import HTTPStatus
from typing import NoReturn, TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from device_agent.errors import (
    ApiError,
    BadAnswer,
    Missing,
    Refused,
    ServerAway,
    ServerFault,
    StaleLease,
    Unauthorized,
    UnknownAgent,
)
from server.wire import (
    AgentRegister,
    AgentRegistered,
    BlobRef,
    Heartbeat,
    HeartbeatReply,
    Lease,
    LeaseRenewal,
    LeaseRenewed,
    LeaseRequest,
    Problem,
    Report,
    Reported,
)

CHUNK_BYTES = 1 << 18
LATER = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS)

AnswerT = TypeVar("AnswerT", bound=BaseModel)


class Server:
    """Typed calls; safe to share between threads. Nothing is tried twice here: waiting is the caller's.

    Every call may raise ServerAway (no answer, 5xx, "later"), Unauthorized (401, 403) and Refused (other 4xx).
    """

    def __init__(self, client: httpx.Client, token: Callable[[], str]) -> None:
        self._client = client
        self._token = token

    def register(self, body: AgentRegister) -> AgentRegistered:
        # An older server does not know `leases`, and refuses fields that it does not know.
        exclude = set() if body.leases else {"leases"}
        return _read(self._post("/agents/register", body, {}, exclude), AgentRegistered)

    def heartbeat(self, body: Heartbeat) -> HeartbeatReply:
        """Raises UnknownAgent."""
        return _read(self._post("/agents/heartbeat", body, {HTTPStatus.NOT_FOUND: UnknownAgent}), HeartbeatReply)

    def claim(self, body: LeaseRequest) -> Lease | None:
        """The next job, None when nothing waits. Raises UnknownAgent."""
        # An older server does not know `wait_seconds`, and never asks for it.
        exclude = set() if body.wait_seconds else {"wait_seconds"}
        response = self._post(
            "/leases", body, {HTTPStatus.NOT_FOUND: UnknownAgent}, exclude, wait_seconds=body.wait_seconds
        )
        return None if response.status_code == HTTPStatus.NO_CONTENT else _read(response, Lease)

    def renew(self, lease_id: str, body: LeaseRenewal) -> LeaseRenewed:
        """Raises StaleLease."""
        return _read(self._post(f"/leases/{lease_id}/renew", body, _ON_LEASE), LeaseRenewed)

    def report(self, body: Report) -> Reported:
        """Raises StaleLease."""
        return _read(self._post(f"/leases/{body.lease_id}/report", body, _ON_LEASE), Reported)

    @contextmanager
    def download(self, blob: BlobRef) -> Iterator[Iterator[bytes]]:
        """The bytes of a file, in chunks, unchecked. Raises Missing."""
        # The request carries the token, so a lease must not be able to direct it to another machine.
        if not blob.url.startswith("/") or blob.url.startswith("//"):
            raise Refused(f"the server names the address '{blob.url}' for a file: only paths on itself are allowed")
        try:
            with self._client.stream("GET", blob.url, headers=self._headers()) as response:
                if response.status_code != HTTPStatus.OK:
                    response.read()
                    _fail(response, {HTTPStatus.NOT_FOUND: Missing})
                yield response.iter_bytes(CHUNK_BYTES)
        except httpx.TransportError as error:
            raise _away(error) from error

    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._token()}", "Accept-Encoding": "identity"}

    def _timeout(self, wait_seconds: float) -> httpx.Timeout:
        usual = self._client.timeout
        read_seconds = None if usual.read is None else usual.read + wait_seconds
        return httpx.Timeout(connect=usual.connect, read=read_seconds, write=usual.write, pool=usual.pool)

    def _post(
        self,
        path: str,
        body: BaseModel,
        special: dict[int, type[ApiError]],
        exclude: Set[str] = frozenset(),
        wait_seconds: float = 0.0,
    ) -> httpx.Response:
        """`wait_seconds` is how long the server may hold the request, beyond what any may take."""
        headers = self._headers() | {"Content-Type": "application/json"}
        content = body.model_dump_json(exclude=set(exclude))
        try:
            response = self._client.post(path, content=content, headers=headers, timeout=self._timeout(wait_seconds))
        except httpx.TransportError as error:
            raise _away(error) from error
        if not response.is_success:
            _fail(response, special)
        return response


# A lease that the server does not know, or says is another agent's, is as gone as one that it took back. (That the
# token itself is of the wrong role shows at registering, which comes first.)
_ON_LEASE: dict[int, type[ApiError]] = {
    HTTPStatus.CONFLICT: StaleLease,
    HTTPStatus.NOT_FOUND: StaleLease,
    HTTPStatus.FORBIDDEN: StaleLease,
}


def _away(error: httpx.TransportError) -> ServerAway:
    return ServerAway(f"no answer from the server ({error or type(error).__name__})")


def _read(response: httpx.Response, answer: type[AnswerT]) -> AnswerT:
    try:
        return answer.model_validate_json(response.content)
    except ValidationError as error:
        raise BadAnswer(
            f"{response.request.url.path} answered {response.status_code} with something else than {answer.__name__}: "
            "check the server's address and version"
        ) from error


def _fail(response: httpx.Response, special: dict[int, type[ApiError]]) -> NoReturn:
    status, detail = response.status_code, _detail(response)
    if status in special:
        raise special[status](detail)
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        raise Unauthorized(detail)
    if status == HTTPStatus.INTERNAL_SERVER_ERROR:
        raise ServerFault(detail)
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR or status in LATER:
        raise ServerAway(detail)
    if status < HTTPStatus.BAD_REQUEST:
        raise BadAnswer(detail)
    raise Refused(detail)


def _detail(response: httpx.Response) -> str:
    """The detail of the problem document; without such a document, the request and the status."""
    try:
        return Problem.model_validate_json(response.content).detail
    except ValidationError:
        return f"{response.request.method} {response.request.url.path} answered {response.status_code}"
