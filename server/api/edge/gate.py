"""The gate before all routes: it decides by the head of a request, before a byte of the body is read.

Refused here: unknown addresses and methods, callers without a token or with one of another role, encoded bodies, bodies
that are too large or, as JSON, too deep. Only then the framework sees the request.
"""

from __future__ import annotations

from sqlalchemy.exc import DBAPIError
from starlette.applications import Starlette
from starlette.types import ASGIApp, Receive, Scope, Send

from server.api import handlers
from server.api.edge import bodies
from server.api.edge.access import DEPARTED, RULE, TOKEN, AccessTable, Rule
from server.api.edge.admission import Admission
from server.api.edge.bodies import Departed, Head
from server.api.edge.json_shape import check_shape
from server.api.edge.token_cache import TokenCache
from server.errors import MethodNotAllowed, NotFound, ServerError, Unauthorized
from server.services import tokens
from server.settings import Settings
from server.store.db import from_database_error
from server.store.tables import Token


class Gate:
    """An ASGI middleware. `cache` is found in the app's state, since it needs the database, which opens later."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app = app
        self._settings = settings
        self._table: AccessTable | None = None
        self._admission = Admission()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        head = Head.of(scope["headers"])
        try:
            rule = self._rule(scope)
            await self._admit(scope, rule, head)
            if head.has_body:
                receive = await self._body(rule, head, receive)
        except Departed:
            scope["state"][DEPARTED] = True
        except (ServerError, DBAPIError) as error:
            refusal = from_database_error(error) if isinstance(error, DBAPIError) else error
            if head.has_body:
                refusal.headers = refusal.headers | {"Connection": "close"}  # what follows is not read
            await handlers.server_error(None, refusal)(scope, receive, send)
        else:
            await self._run(rule, scope, receive, send)

    def _rule(self, scope: Scope) -> Rule:
        """Raises NotFound, MethodNotAllowed."""
        if self._table is None:
            app: Starlette = scope["app"]
            self._table = AccessTable(app.routes, self._settings)
        path: str = scope["path"]
        rules = self._table.find(path)
        if rules is None or "\0" in path:
            raise NotFound("there is nothing at this address: see /docs")
        rule = rules.get(scope["method"])
        if rule is None:
            raise MethodNotAllowed("this address does not take that method: see /docs", allowed=rules)
        scope.setdefault("state", {})[RULE] = rule
        return rule

    async def _admit(self, scope: Scope, rule: Rule, head: Head) -> None:
        """Raises Unauthorized, Forbidden."""
        if rule.allow is None:
            return
        cache: TokenCache = scope["app"].state.server.tokens
        token = await _authenticate(cache, head)
        rule.allow.check(token)
        scope["state"][TOKEN] = token

    async def _body(self, rule: Rule, head: Head, receive: Receive) -> Receive:
        """Raises TooLarge, UnsupportedEncoding, BadValue, Departed."""
        head.check(rule.max_bytes)
        if not rule.is_json:
            return bodies.counted(receive, rule.max_bytes)
        body = await bodies.read(receive, rule.max_bytes)
        check_shape(body)
        return bodies.replayed(body, receive)

    async def _run(self, rule: Rule, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            if rule.in_thread:
                await self._admission.run(self.app, scope, receive, send)
            else:
                await self.app(scope, receive, send)
        except Departed:
            scope["state"][DEPARTED] = True


async def _authenticate(cache: TokenCache, head: Head) -> Token:
    """The token of the Authorization header. Raises Unauthorized."""
    secret = _secret(head)
    if secret is None:
        raise Unauthorized(tokens.NONE_SENT)
    token = await cache.find(tokens.digest(secret)) if tokens.is_secret(secret) else None
    if token is None:
        raise Unauthorized(tokens.NOT_KNOWN)
    return token


def _secret(head: Head) -> str | None:
    if len(head.authorization) != 1:
        return None
    scheme, _, secret = head.authorization[0].decode("latin-1").partition(" ")
    return secret.strip() or None if scheme.lower() == "bearer" else None
