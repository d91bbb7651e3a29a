"""The most frequent requests, answered before the framework: one thing that did not change since it was last asked for.

Routing, dependencies and parameters take the framework several times as long as the answer itself. Everything else goes
on to it: other requests, things that changed, errors. The gate before has checked the caller's token for the route.
"""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from server.api.things import Things, matches

TOKEN = "token"  # in the scope's state: the gate admitted the caller
TYPE = (b"content-type", b"application/json")


class HotReads:
    """An ASGI middleware behind the gate. The things are found in the app's state, since the database opens later."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        things, thing_id = _asked_for(scope)
        answer = await things.kept(thing_id) if things is not None else None
        if answer is None:
            await self.app(scope, receive, send)
            return
        tag = (b"etag", answer.etag.encode())
        if matches(_held(scope), answer.etag):
            await send({"type": "http.response.start", "status": 304, "headers": [tag]})
            await send({"type": "http.response.body", "body": b""})
            return
        length = (b"content-length", b"%d" % len(answer.content))
        await send({"type": "http.response.start", "status": 200, "headers": [TYPE, length, tag]})
        await send({"type": "http.response.body", "body": answer.content})


def _asked_for(scope: Scope) -> tuple[Things | None, str]:
    if scope["type"] != "http" or scope["method"] != "GET" or scope["query_string"] or TOKEN not in scope["state"]:
        return None, ""
    kind, _, thing_id = scope["path"][1:].partition("/")
    return scope["app"].state.server.things.by_name.get(kind), thing_id


def _held(scope: Scope) -> str | None:
    """What the header If-None-Match says."""
    for name, value in scope["headers"]:
        if name == b"if-none-match":
            return bytes(value).decode("latin-1")
    return None
