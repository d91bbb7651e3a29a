"""The way from the gate to a route, without the search that the framework makes through all of them.

The gate has found the route already; for the last of our routes the framework's search takes 0.1 ms.
"""

from __future__ import annotations

from starlette.routing import BaseRoute, Match, Route
from starlette.types import Receive, Scope, Send

from server.api.edge.access import RULE, Rule


class Dispatch(BaseRoute):
    """The first of an app's routes: it hands each request to the route or router that the gate found."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        return (Match.FULL if RULE in scope.get("state", {}) else Match.NONE), {}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        rule: Rule = scope["state"][RULE]
        if isinstance(rule.route, Route):  # a router looks itself for what is in it
            scope.update(rule.route.matches(scope)[1])
        await rule.route.handle(scope, receive, send)
