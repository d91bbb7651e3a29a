"""Errors as answers: each is `application/problem+json` with `kind` and `detail`."""

from __future__ import annotations

from typing import Any

import structlog
from fastapi import Request
from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import DBAPIError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from server.errors import FULL, ServerError, Unavailable, from_os_error, problem
from server.store.db import from_database_error
from server.wire import Problem

log = structlog.get_logger()
MEDIA_TYPE = "application/problem+json"
MAX_NAMED_FIELDS = 10


def server_error(_request: Request | None, error: Exception) -> Response:
    assert isinstance(error, ServerError)
    if error.status >= 500:
        log.error("refused", detail=error.detail)
    headers = error.headers | ({"WWW-Authenticate": "Bearer"} if error.status == 401 else {})
    return _answer(error.problem(), headers)


def invalid(_request: Request, error: Exception) -> Response:
    """A body or parameter that does not fit: each field is named with what is wrong about it."""
    assert isinstance(error, RequestValidationError)
    wrong = [{"field": _field(invalid["loc"]), "message": _message(invalid)} for invalid in error.errors()]
    named = "; ".join(f"{entry['field']}: {entry['message']}" for entry in wrong[:MAX_NAMED_FIELDS])
    more = f"; and {len(wrong) - MAX_NAMED_FIELDS} more" if len(wrong) > MAX_NAMED_FIELDS else ""
    return _answer(problem(422, named + more, errors=[dict(entry) for entry in wrong[:MAX_NAMED_FIELDS]]))


def http_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 400:  # how the framework reports a body that it cannot parse
        return _answer(problem(422, "the body cannot be read: send valid JSON in UTF-8, or a well-formed form"))
    defaults = {
        404: "there is nothing at this address: see /docs",
        405: "this address does not take that method: see /docs",
    }
    generic = error.detail in ("Not Found", "Method Not Allowed")
    detail = defaults.get(error.status_code, error.detail) if generic else error.detail
    return _answer(problem(error.status_code, detail), dict(error.headers or {}))


def database_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, DBAPIError)
    log.error("the database refused", detail=str(error.orig))
    return _answer(from_database_error(error).problem())


def no_connection(_request: Request, _error: Exception) -> Response:
    return _answer(Unavailable("the database is busy: no connection to it became free in time, try again").problem())


def os_error(request: Request, error: Exception) -> Response:
    """A full disk where no service expects one, such as under a temporary file."""
    assert isinstance(error, OSError)
    if error.errno not in FULL:
        return unexpected(request, error)
    return server_error(request, from_os_error(error, "a file of the server"))


def unexpected(_request: Request, error: Exception) -> Response:
    log.error("unexpected", exc_info=error)
    return _answer(problem(500, "an error of the server; its log has the details under this request's x-request-id"))


def _answer(document: Problem, headers: dict[str, str] | None = None) -> Response:
    return Response(
        document.model_dump_json().encode("utf-8", "replace"),
        status_code=document.status,
        headers=headers,
        media_type=MEDIA_TYPE,
    )


def _field(loc: tuple[int | str, ...]) -> str:
    """`budget.latency_ms` for a body's field, the parameter's name otherwise."""
    return ".".join(str(name) for name in loc[1:]) or str(loc[0])


def _message(error: dict[str, Any]) -> str:
    if error["type"] == "extra_forbidden":
        return "unknown field"
    if error["loc"] == ("body",) and error["type"] in ("model_attributes_type", "dict_type", "model_type"):
        return "send a JSON object, with Content-Type: application/json"
    return str(error["msg"]).removeprefix("Value error, ")
