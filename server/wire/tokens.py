"""Tokens and roles."""

from __future__ import annotations

from enum import StrEnum

from server.wire.base import Answer, Name, Request, UtcTime


class Role(StrEnum):
    """What a token may do: `viewer` reads, `user` creates work, `agent` speaks the agents' protocol, `admin` all."""

    ADMIN = "admin"
    USER = "user"
    AGENT = "agent"
    VIEWER = "viewer"


class TokenCreate(Request):
    name: Name
    role: Role


class TokenView(Answer):
    id: str
    name: str
    role: Role
    created_at: UtcTime
    revoked_at: UtcTime | None


class TokenCreated(TokenView):
    """The only answer that ever shows the secret."""

    token: str
