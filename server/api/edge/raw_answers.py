"""Answers to what is no request that an app could see: a status line, a problem document, and the end."""

from __future__ import annotations

from functools import cache
from http import HTTPStatus

from server.errors import problem


@cache
def raw_answer(status: int, detail: str) -> bytes:
    """The bytes of a whole answer, after which the connection is closed. Few texts, so each is made once."""
    body = problem(status, detail, kind="infra" if status == 503 else "user").model_dump_json().encode()
    head = (
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n"
        "content-type: application/problem+json\r\n"
        f"content-length: {len(body)}\r\n"
        f"{'retry-after: 5' + chr(13) + chr(10) if status == 503 else ''}"
        "connection: close\r\n\r\n"
    )
    return head.encode() + body
