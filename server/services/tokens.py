"""Bearer tokens: shown once, stored as a hash. They carry 256 random bits, so a plain SHA-256 is enough."""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import structlog
from sqlmodel import Session, col, select

from server.errors import InfraError, NotFound, Unauthorized, from_os_error
from server.ids import new_id
from server.services.pages import page
from server.store.blobs import set_aside, write_private
from server.store.db import Database
from server.store.tables import Token
from server.wire import Page, Role, TokenCreated, TokenView

log = structlog.get_logger()
PREFIX = "evt_"
FIRST_ADMIN = "first-admin"
SECRET = re.compile(rf"{PREFIX}[0-9a-f]{{64}}")
NONE_SENT = "send a token: Authorization: Bearer TOKEN (the first one is in admin.token in the home folder)"
NOT_KNOWN = "this token is not known or was revoked: ask an admin for a new one"


def create(session: Session, name: str, role: Role, now: datetime) -> TokenCreated:
    """A new token. Its secret is only in this answer, because the database keeps a hash of it."""
    secret = PREFIX + secrets.token_hex(32)
    token = _add(session, name, role, secret, now)
    return TokenCreated(**view(token).model_dump(), token=secret)


def authenticate(session: Session, secret: str | None) -> Token:
    """The token of a secret. Raises Unauthorized."""
    if secret is None:
        raise Unauthorized(NONE_SENT)
    token = _find(session, secret)
    if token is None or token.revoked_at is not None:
        raise Unauthorized(NOT_KNOWN)
    return token


def usable(session: Session, digests: Sequence[str]) -> dict[str, Token]:
    """The tokens with these hashes that are not revoked, by hash."""
    found = session.exec(select(Token).where(col(Token.secret_sha256).in_(digests), col(Token.revoked_at).is_(None)))
    return {token.secret_sha256: token for token in found}


def is_secret(text: str) -> bool:
    """Whether a text has the form of a secret; no other is worth a look."""
    return SECRET.fullmatch(text) is not None


def digest(secret: str) -> str:
    """What is stored of a secret."""
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()


def revoke(session: Session, token_id: str, now: datetime) -> TokenView:
    """Raises NotFound."""
    token = session.get(Token, token_id)
    if token is None:
        raise NotFound(f"there is no token '{token_id}': GET /tokens lists them")
    token.revoked_at = token.revoked_at or now
    session.add(token)
    return view(token)


def ensure_admin(database: Database, file: Path, now: datetime) -> None:
    """Ensure that `file` (mode 0600) holds the secret of a valid admin token. Raises InfraError.

    However often the file is lost, at most two tokens of this name are valid: the last one, which may be in use from
    where it was copied to, and the one in the file. Something else in the file is set aside, and that token's secret
    is replaced.
    """
    with database.write() as session:
        secret = read_secret(file)
        token = _find(session, secret) if secret else None
        if token is not None and token.revoked_at is None:
            return
        if secret is None and set_other_aside(file):
            secret = replaced_secret(session, FIRST_ADMIN, Role.ADMIN)
        if secret is None or token is not None:
            secret = PREFIX + secrets.token_hex(32)
        if _find(session, secret) is None:
            for former in _valid(session, FIRST_ADMIN, Role.ADMIN)[1:]:
                revoke(session, former.id, now)
            _add(session, FIRST_ADMIN, Role.ADMIN, secret, now)
        session.flush()
        write_private(file, secret + "\n")


def replaced_secret(session: Session, name: str, role: Role) -> str | None:
    """A new secret for the newest valid token of this name, whose own secret is lost; None without such a token."""
    valid = _valid(session, name, role)
    if not valid:
        return None
    secret = PREFIX + secrets.token_hex(32)
    valid[0].secret_sha256 = digest(secret)
    session.add(valid[0])
    session.flush()
    return secret


def set_other_aside(file: Path) -> bool:
    """Move a token file that holds something else out of the way; whether there was one. Raises InfraError."""
    try:
        if not file.read_bytes().strip():
            return file.exists()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise from_os_error(error, str(file)) from error
    aside = set_aside(file, file.parent)
    log.warning("a token file held no token and was set aside", file=str(file), moved_to=str(aside))
    return True


def read_secret(file: Path) -> str | None:
    """The secret in a token file, None without a file or where it holds no secret."""
    try:
        secret = file.read_text().strip()
    except (FileNotFoundError, UnicodeDecodeError):
        return None
    except IsADirectoryError as error:
        raise InfraError(
            f"{file} is a folder, and a token belongs there: move it away and start again, then a new token is written"
        ) from error
    except OSError as error:
        raise from_os_error(error, str(file)) from error
    return secret if SECRET.fullmatch(secret) else None


def listing(session: Session, page_token: str | None, max_results: int) -> Page[TokenView]:
    return page(session, select(Token), col(Token.id), page_token, max_results, view)


def view(token: Token) -> TokenView:
    return TokenView(
        id=token.id, name=token.name, role=Role(token.role), created_at=token.created_at, revoked_at=token.revoked_at
    )


def _find(session: Session, secret: str) -> Token | None:
    return session.exec(select(Token).where(Token.secret_sha256 == digest(secret))).first()


def _valid(session: Session, name: str, role: Role) -> list[Token]:
    """The tokens of this name that are not revoked, newest first."""
    named = (Token.name == name, Token.role == role.value, col(Token.revoked_at).is_(None))
    return list(session.exec(select(Token).where(*named).order_by(col(Token.id).desc())))


def _add(session: Session, name: str, role: Role, secret: str, now: datetime) -> Token:
    token = Token(id=new_id("token", now), name=name, role=role.value, secret_sha256=digest(secret), created_at=now)
    session.add(token)
    return token
