"""Who may call which route, and how large its body may be: declared on the routes, read here into one table.

A route says it by a dependency: `Depends(Allow(Role.USER, body=Body.UPLOAD))`. The gate decides by the table before
a byte of the body is read. The dependency itself only hands the token to the route, and tells OpenAPI of it.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum, auto

from fastapi import Request
from fastapi.dependencies.models import Dependant
from fastapi.openapi.models import HTTPBearer as BearerScheme
from fastapi.routing import RouteContext, iter_route_contexts
from fastapi.security.base import SecurityBase
from starlette.routing import BaseRoute

from server.errors import Forbidden, Unauthorized
from server.settings import Settings
from server.store.tables import Token
from server.wire import Role

TOKEN, RULE, DEPARTED = "token", "rule", "departed"  # keys in the state of a scope
ON_GONE = "on_gone"  # there: what is called when the client has gone
MULTIPART_BYTES = 100_000  # what a form adds around the file in it
AGENT_BYTES = 512_000  # 500 devices, each with its description


class Body(Enum):
    """What kind of body a route takes; each kind has its limit on the size."""

    SMALL = auto()
    """A request of a person or script, by ELASTICVIT_MAX_REQUEST_KB."""
    AGENT = auto()
    """A registration or a heartbeat, with all devices of an agent."""
    REPORT = auto()
    """A measuring session with its samples, by ELASTICVIT_MAX_BODY_MB."""
    UPLOAD = auto()
    """A file, by ELASTICVIT_MAX_UPLOAD_MB; its route reads it as it arrives."""


class Allow(SecurityBase):
    """A dependency: the caller's token, which the gate found. Raises Unauthorized, Forbidden where it found none."""

    def __init__(self, *roles: Role, body: Body = Body.SMALL) -> None:
        self.roles = frozenset(role.value for role in roles)
        self.needed = " or ".join(role.value for role in roles)
        self.body = body
        self.model = BearerScheme(description="The token in admin.token, or one made by POST /tokens")
        self.scheme_name = "HTTPBearer"

    async def __call__(self, request: Request) -> Token:
        token: Token | None = request.scope.get("state", {}).get(TOKEN)
        if token is None:
            raise Unauthorized("send a token: Authorization: Bearer TOKEN")
        self.check(token)
        return token

    def check(self, token: Token) -> None:
        """Raises Forbidden if the token's role is not among these."""
        if token.role not in self.roles:
            raise Forbidden(f"this needs a token of role {self.needed}, yours is {token.role}")


@dataclass(frozen=True)
class Rule:
    """What the gate has to know of one route and method."""

    path: str
    """As the route names it, with its parameters in braces."""
    allow: Allow | None
    """None for a route that is open to anybody."""
    max_bytes: int
    is_json: bool
    route: BaseRoute
    """Which of the app's routes and routers has it."""
    in_thread: bool
    """Whether the route is a plain function, for which a thread of the pool is needed."""


class AccessTable:
    """All rules of an app by path and method."""

    def __init__(self, routes: Iterable[BaseRoute], settings: Settings) -> None:
        self._fixed: dict[str, dict[str, Rule]] = {}
        self._patterns: dict[str, list[tuple[re.Pattern[str], dict[str, Rule]]]] = {}
        by_pattern: dict[str, dict[str, Rule]] = {}
        for route, context in [(each, context) for each in routes for context in iter_route_contexts([each])]:
            path, methods = context.path, context.methods or set()
            if path is None:
                continue
            if "{" not in path:
                rules = self._fixed.setdefault(path, {})
            elif path in by_pattern:
                rules = by_pattern[path]
            else:
                rules = by_pattern[path] = {}
                self._patterns.setdefault(_first(path), []).append((context.path_regex, rules))
            rules.update(dict.fromkeys(methods, _rule(path, route, context, settings)))

    def find(self, path: str) -> Mapping[str, Rule] | None:
        """The rules of a path by method, None for one that nothing is at."""
        rules = self._fixed.get(path)
        if rules is not None:
            return rules
        for pattern, candidate in self._patterns.get(_first(path), ()):
            if pattern.match(path):
                return candidate
        return None


def _first(path: str) -> str:
    """The first segment of a path; in none of the routes it is a parameter."""
    return path.split("/", 2)[1] if path.startswith("/") else ""


def _rule(path: str, route: BaseRoute, context: RouteContext, settings: Settings) -> Rule:
    dependant: Dependant | None = getattr(context, "dependant", None)
    allow = _allow(dependant) if dependant is not None else None
    body = allow.body if allow is not None else Body.SMALL
    return Rule(
        path=path,
        route=route,
        allow=allow,
        max_bytes=limit_bytes(body, settings),
        is_json=getattr(context, "body_field", None) is not None,
        in_thread=dependant is not None and not inspect.iscoroutinefunction(context.endpoint),
    )


def _allow(dependant: Dependant) -> Allow | None:
    for needed in dependant.dependencies:
        if isinstance(needed.call, Allow):
            return needed.call
        if (found := _allow(needed)) is not None:
            return found
    return None


def limit_bytes(body: Body, settings: Settings) -> int:
    """The largest body of a kind."""
    if body is Body.UPLOAD:
        return settings.max_upload_bytes + MULTIPART_BYTES
    if body is Body.REPORT:
        return settings.max_body_bytes
    return min(AGENT_BYTES if body is Body.AGENT else settings.max_request_bytes, settings.max_body_bytes)
