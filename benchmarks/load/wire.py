"""One connection that sends a request and reads its answer, for clients that do more than repeat one request."""

from __future__ import annotations

import asyncio
import json
from typing import Any


class Wire:
    """An HTTP/1.1 connection of one client; one call at a time."""

    def __init__(self, port: int, token: str) -> None:
        self._port, self._token = port, token
        self._lock = asyncio.Lock()
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def call(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        """The status and the JSON of the answer, None for one without a body."""
        async with self._lock:
            try:
                return await self._call(method, path, body)
            except (ConnectionError, asyncio.IncompleteReadError):  # the server closed an idle connection
                self.close()
                return await self._call(method, path, body)

    async def open(self, path: str) -> asyncio.StreamReader:
        """The rest of an answer that goes on: its head is read."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        self._streams = (reader, writer)
        writer.write(self._request("GET", path, b""))
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), head[:200]
        return reader

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None

    async def _call(self, method: str, path: str, body: object) -> tuple[int, Any]:
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        writer.write(self._request(method, path, b"" if body is None else json.dumps(body).encode()))
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = next(
            (int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.startswith(b"content-length:")), 0
        )
        content = await reader.readexactly(length)
        return int(head[9:12]), json.loads(content) if content else None

    def _request(self, method: str, path: str, body: bytes) -> bytes:
        head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {self._token}\r\n"
        if body:
            head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        return head.encode() + b"\r\n" + body
