"""A home folder and its secrets are its user's alone; admin.token is mended, whatever it holds."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlmodel import col, select

from server.errors import InfraError
from server.services import private_modes, tokens
from server.services.home import prepare
from server.settings import Settings
from server.store.tables import Token
from server.supervise import bootstrap
from server.wire import Role
from tests.server.server_farm import Farm
from tests.server.store.test_damaged_database import serve


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_home_is_private(tmp_path: Path) -> None:
    home = tmp_path / "home"
    old = os.umask(0)
    try:
        prepare(Settings(home=home)).close()
    finally:
        os.umask(old)
    assert mode(home) == 0o700
    assert {mode(home / name) for name in ("admin.token", "farm.db")} == {0o600}
    assert private_modes.mend(Settings(home=home)) == []


def opened(home: Path) -> list[Path]:
    """The private files of a home, all made readable by everybody."""
    for folder in ("agents/host", "logs"):
        (home / folder).mkdir(parents=True, exist_ok=True)
    (home / "agents/host/agent.token").write_text("x")
    (home / "logs/server.log").write_text("x")
    paths = [home / name for name in ("admin.token", "farm.db", "agents/host/agent.token", "logs/server.log")]
    for path in paths:
        path.chmod(0o644)
    home.chmod(0o755)
    return paths


def test_modes_are_mended_at_a_start_with_a_line_in_the_log(
    any_farm: Farm, make_farm: Callable[..., Farm], database_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    home = any_farm.home
    (home / "farm.db").touch()
    paths = opened(home)
    capsys.readouterr()
    make_farm(database_url=database_url)
    said = capsys.readouterr().out
    for path in paths:
        assert mode(path) == 0o600 and f"{path} had mode 0644" in said
    assert mode(home) == 0o700 and f"{home} had mode 0755" in said


def test_a_home_is_shared_with_its_group_on_request(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "home", share_home=True)
    prepare(settings).close()
    paths = opened(settings.home)
    settings.home.chmod(0o2775)
    prepare(settings).close()
    assert mode(settings.home) == 0o2770
    assert [mode(path) for path in paths] == [0o600, 0o640, 0o600, 0o640]


def test_a_folder_of_everybody_is_left_as_it_is(tmp_path: Path) -> None:
    tmp_path.chmod(0o1777)
    prepare(Settings(home=tmp_path)).close()
    assert mode(tmp_path) == 0o1777 and mode(tmp_path / "admin.token") == 0o600


def admins(farm: Farm) -> list[Token]:
    with farm.database.read() as session:
        admin = select(Token).where(Token.role == "admin", col(Token.revoked_at).is_(None))
        return list(session.exec(admin))


@pytest.mark.parametrize("content", [b"garbage\n", b"\xff\xfe\x00", b"evt_0123", b""])
def test_garbage_is_set_aside_without_more_admins(
    make_farm: Callable[..., Farm], database_url: str, content: bytes
) -> None:
    farm = make_farm(database_url=database_url)
    file = farm.home / "admin.token"
    old = file.read_text().strip()
    for _ in range(3):
        file.write_bytes(content)
        farm = make_farm(database_url=database_url)
        assert farm.ok("GET", "/tokens") and mode(file) == 0o600
    assert len(admins(farm)) == 1
    assert farm.client.get("/tokens", headers={"Authorization": f"Bearer {old}"}).status_code == 401
    aside = sorted(farm.home.glob("admin.token.damaged-*"))
    assert [path.read_bytes() for path in aside] == [content] * (3 if content else 0)
    assert {mode(path) for path in aside} <= {0o600}


def test_a_token_file_that_is_lost_again_and_again_makes_few_admins(
    make_farm: Callable[..., Farm], database_url: str
) -> None:
    farm = make_farm(database_url=database_url)
    for _ in range(4):
        (farm.home / "admin.token").unlink()
        farm = make_farm(database_url=database_url)
    assert len(admins(farm)) == 2 and farm.ok("GET", "/tokens")


@pytest.mark.medium
def test_a_folder_in_its_place_ends_the_start_with_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "admin.token").mkdir()
    with pytest.raises(InfraError, match="is a folder"):
        prepare(Settings(home=tmp_path))
    served = serve(tmp_path)
    assert served.returncode == 1 and "move it away" in served.stderr and "Traceback" not in served.stderr


def test_a_lost_agent_token_is_the_same_token_with_a_new_secret(any_farm: Farm) -> None:
    """Devices belong to the token that registered them."""
    file = any_farm.home / "agents" / "host" / "agent.token"

    def token_id() -> str:
        with any_farm.database.read() as session:
            return tokens.authenticate(session, tokens.read_secret(file)).id

    bootstrap.ensure_agent_token(any_farm.database, file, any_farm.clock)
    first = token_id()
    for damage in (file.unlink, lambda: file.write_text("garbage")):
        damage()
        bootstrap.ensure_agent_token(any_farm.database, file, any_farm.clock)
        assert token_id() == first and mode(file) == 0o600
    with any_farm.database.read() as session:
        agents = session.exec(select(Token).where(Token.role == Role.AGENT.value)).all()
    assert len(agents) == 1
