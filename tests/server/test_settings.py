"""Settings of the environment that cannot be right are refused by name, with a sentence."""

from pathlib import Path

import pytest
from sqlalchemy.engine import make_url
from typer.testing import CliRunner

from device_agent.errors import SettingsError as AgentSettingsError
from device_agent.settings import load_settings as load_agent_settings
from server.cli.main import app
from server.errors import SettingsError
from server.settings import Settings, load_settings

WRONG = [
    ("HOST", "http://127.0.0.1"),
    ("HOST", "127.0.0.1:8000"),
    ("HOST", "a name"),
    ("HOST", "a/b"),
    ("HOST", ""),
    ("PORT", "abc"),
    ("PORT", "0"),
    ("PORT", "65536"),
    ("MAX_UPLOAD_MB", "inf"),
    ("MAX_BODY_MB", "inf"),
    ("MAX_BODY_MB", "nan"),
    ("EXPORT_MEMORY_MB", "1e300"),
]


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_a_setting_that_cannot_be_right_is_refused(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"ELASTICVIT_{name}", value)
    with pytest.raises(SettingsError, match=f"ELASTICVIT_{name}"):
        load_settings()


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "0.0.0.0", "::1", "[::1]", "::", "localhost", "Farm.example.org", "127.1"]
)
def test_names_and_addresses_are_hosts(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ELASTICVIT_HOST", host)
    assert load_settings().host == host.strip("[]")


@pytest.mark.parametrize("value", ["inf", "nan", "1e300", "0"])
def test_an_agents_cache_has_a_size(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ELASTICVIT_AGENT_CACHE_MB", value)
    with pytest.raises(AgentSettingsError, match="cache_mb"):
        load_agent_settings()


@pytest.mark.parametrize("command", ["up", "demo", "serve", "worker", "prepare"])
def test_commands_end_with_the_sentence(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ELASTICVIT_PORT", "abc")
    result = CliRunner().invoke(app, [command])
    assert result.exit_code == 1 and isinstance(result.exception, SystemExit)
    assert result.output.startswith("elasticvit: ") and "ELASTICVIT_PORT" in result.output
    assert not list(tmp_path.iterdir())


def test_the_password_of_the_database_comes_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("a/b@c:d\n")
    settings = Settings(database_url="postgresql://me@db/farm", database_password_file=file)
    assert make_url(settings.url).password == "a/b@c:d" and "a/b" not in str(settings.database_url)
    with pytest.raises(SettingsError, match="DATABASE_PASSWORD_FILE"):
        _ = Settings(database_url="postgresql://me@db/farm", database_password_file=tmp_path / "none").url
