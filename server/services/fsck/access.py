"""Who may come in: rights of the home folder, and the tokens in its files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sqlmodel import Session

from server.errors import InfraError, Unauthorized
from server.services import private_modes, tokens
from server.services.fsck.finding import Finding
from server.settings import Settings
from server.wire import Role


def check_modes(settings: Settings) -> Iterator[Finding]:
    for wide in private_modes.too_wide(settings):
        yield Finding(
            f"{wide.path} can be read or written by other users (mode {wide.mode:04o})",
            f"The next start mends it, or run: chmod {wide.private:04o} {wide.path}",
        )


def check_tokens(session: Session, settings: Settings) -> Iterator[Finding]:
    """The tokens in files, which must be known to the database."""
    yield from _check_token(session, settings.admin_token_file, Role.ADMIN, "Start the service, which writes a new one")
    for file in sorted(settings.home.glob("agents/*/agent.token")):
        do = "Start the service with `elasticvit up`, which writes a new one for `host`"
        yield from _check_token(session, file, Role.AGENT, do)


def _check_token(session: Session, file: Path, role: Role, do: str) -> Iterator[Finding]:
    try:
        secret = tokens.read_secret(file)
        if secret is None:
            yield Finding(f"{file} holds no token", do)
        elif tokens.authenticate(session, secret).role != role:
            yield Finding(f"{file} holds a token of another role than {role.value}", do)
    except InfraError as error:
        yield Finding(f"{file} cannot be used ({error.detail})", "Move it away, and start the service")
    except Unauthorized:
        yield Finding(f"The token in {file} is not known to the database, or was revoked", do)
