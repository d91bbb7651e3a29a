"""The OpenAPI document: every status that an operation answers with is listed, each problem with its media type.

The framework documents what a route returns. What else may happen follows from the operation: a token that is missing,
a body that is too large, a disk that is full.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from server.api.handlers import MEDIA_TYPE
from server.wire import Problem

TITLES = {
    401: "No token, or one that is not known",
    403: "A token of another role, or somebody else's thing",
    404: "No such thing",
    409: "Does not fit the present state",
    413: "The body is too large",
    415: "The body is encoded in a way that is not taken",
    422: "A value that cannot be used",
    429: "Too much at once",
    500: "An error of the server",
    503: "Not possible now",
    507: "The disk is full",
}
_SCHEMA = "#/components/schemas/Problem"
_METHODS = ("get", "post", "put", "patch", "delete")


def document(app: FastAPI) -> dict[str, Any]:
    """The document of an app, made once."""
    if app.openapi_schema is None:
        made = get_openapi(title=app.title, version=app.version, summary=app.summary, routes=app.routes)
        schemas = made["components"]["schemas"]
        schemas["Problem"] = Problem.model_json_schema()
        for unused in ("HTTPValidationError", "ValidationError"):
            schemas.pop(unused, None)
        for path, item in made["paths"].items():
            for method in _METHODS:
                if method in item:
                    _complete(path, method, item[method])
        app.openapi_schema = made
    return app.openapi_schema


def _complete(path: str, method: str, operation: dict[str, Any]) -> None:
    for status in _problems(path, method, operation):
        problem = {"description": TITLES[status], "content": {MEDIA_TYPE: {"schema": {"$ref": _SCHEMA}}}}
        # What a route says itself stays, such as the 503 of /readyz. The framework's 422 has another format.
        if status == 422 or str(status) not in operation["responses"]:
            operation["responses"][str(status)] = problem


def _problems(path: str, method: str, operation: dict[str, Any]) -> Iterator[int]:
    yield 500
    yield 503
    if "security" in operation:
        yield from (401, 403)
    if "{" in path or method != "get":
        yield 404
    if method != "get":
        yield from (409, 429, 507)
    if "requestBody" in operation:
        yield from (413, 415)
    if "requestBody" in operation or operation.get("parameters"):
        yield 422
    if path.endswith("/download"):
        yield 409  # a conversion that failed
