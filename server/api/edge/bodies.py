"""Bodies of requests: what is announced, and reading within limits."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from starlette.exceptions import HTTPException
from starlette.types import Message, Receive

from server.errors import TooLarge, UnsupportedEncoding


class Departed(Exception):  # noqa: N818  an event, not an error
    """The client has gone, so nobody waits for an answer."""


@dataclass(slots=True)
class Head:
    """Of a request's headers, what the gate needs."""

    authorization: list[bytes]
    length: bytes = b""
    has_body: bool = False
    encoding: bytes = b"identity"

    @classmethod
    def of(cls, headers: Iterable[tuple[bytes, bytes]]) -> Head:
        head = cls([])
        for name, value in headers:
            if name == b"authorization":
                head.authorization.append(value)
            elif name == b"content-length":
                head.length = value
                head.has_body = head.has_body or value != b"0"
            elif name == b"transfer-encoding":
                head.has_body = True
            elif name == b"content-encoding":
                head.encoding = value
        return head

    def check(self, max_bytes: int) -> None:
        """Raises UnsupportedEncoding; TooLarge where the announced length is beyond the limit."""
        if self.encoding.strip().lower() not in (b"identity", b""):
            raise UnsupportedEncoding("send the body as it is, without a Content-Encoding")
        if self.length.isdigit() and int(self.length[:20]) > max_bytes:
            raise TooLarge(too_large(max_bytes))


async def read(receive: Receive, max_bytes: int) -> bytes:
    """The whole body. Raises TooLarge as soon as it is larger; Departed."""
    chunks: list[bytes] = []
    seen = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Departed
        chunk: bytes = message.get("body", b"")
        seen += len(chunk)
        if seen > max_bytes:
            raise TooLarge(too_large(max_bytes))
        chunks.append(chunk)
        if not message.get("more_body", False):
            return b"".join(chunks)


def replayed(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives a body that was read, and then what the client does next."""
    given = False

    async def receive_again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receive_again


def counted(receive: Receive, max_bytes: int) -> Receive:
    """A `receive` for routes that read as the body arrives; it raises HTTPException (413) beyond the limit, since the
    framework turns any other error while it reads a body into a 400."""
    seen = 0

    async def receive_counted() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > max_bytes:
            raise HTTPException(413, too_large(max_bytes))
        return message

    return receive_counted


def too_large(max_bytes: int) -> str:
    size = f"{max_bytes / 1e6:g} MB" if max_bytes >= 1_000_000 else f"{max_bytes / 1e3:g} kB"
    return f"the body is larger than the {size} allowed here"
