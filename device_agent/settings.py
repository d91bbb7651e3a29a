"""The agent's settings: read from `ELASTICVIT_AGENT_*` and the command line once, checked at start."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from device_agent.errors import SettingsError
from server.wire import HOST, Name
from server.wire.connect import check_url, checked_token

PREFIX = "ELASTICVIT_AGENT_"


class Settings(BaseSettings):
    """All settings. Times are in seconds, sizes in 10^6 bytes. The server sets how often to poll and to renew leases.

    `host` makes this machine a device, named `host_name`. `bench` and `library` replace the default android_bench
    program and LiteRT library. A benchmark process is killed `bench_grace_seconds` after twice the protocol's
    `max_secs`: warm-up and timed runs are each bounded by it, loading is not. The log goes to stderr, or to `log_file`:
    a new file is begun at 10 MB, and three are kept.
    `max_secs`: warm-up and timed runs are each bounded by it, loading is not. A session may take `session_seconds`.

    A benchmark may take `bench_memory_mb` (None: half of what the machine or the agent's control group has, at most
    4000). It cannot read files of others: by the first of Landlock and bubblewrap that works here (`sandbox` "auto");
    "required" refuses to start without either. Where the agent is root, it runs as `bench_user` (empty: as root, too).
    """

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid")

    server_url: str = "http://127.0.0.1:8000"
    token: SecretStr | None = None
    token_file: Path | None = None
    home: Path = Path(".elasticvit/agents/host")
    name: Name = HOST
    host: bool = False
    host_name: Name = HOST
    bench: Path | None = None
    library: Path | None = None
    bench_grace_seconds: float = Field(default=30.0, gt=0, le=3600)
    bench_memory_mb: float | None = Field(default=None, ge=64, le=1e9)
    bench_user: str = "nobody"
    sandbox: Literal["auto", "required", "off"] = "auto"
    session_seconds: float = Field(default=900.0, gt=0, le=86_400)
    cache_mb: float = Field(default=2000.0, gt=0, le=1e9)
    request_timeout_seconds: float = Field(default=10.0, gt=0, le=600)
    max_backoff_seconds: float = Field(default=5.0, gt=0, le=3600)
    stop_seconds: float = Field(default=5.0, gt=0, le=60)
    exit_with_parent: bool = False
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_file: Path | None = None
    alive_file: Path | None = None
    """Touched every second while all parts work, for the health check of a container."""

    @field_validator("server_url")
    @classmethod
    def _http(cls, value: str) -> str:
        check_url(value)
        return value.rstrip("/")

    @property
    def token_path(self) -> Path:
        return self.token_file or self.home / "token"

    @property
    def cache_bytes(self) -> int:
        return int(self.cache_mb * 1e6)

    def read_token(self) -> str:
        """The token as it is now; a file is read each time, so that a new token needs no restart.

        Raises SettingsError.
        """
        source = f"{PREFIX}TOKEN" if self.token is not None else str(self.token_path)
        try:
            text = self.token.get_secret_value() if self.token is not None else self.token_path.read_text()
        except UnicodeDecodeError:
            raise SettingsError(f"{source} does not hold a token: it is not a text file") from None
        except OSError as error:
            raise SettingsError(
                f"no token in {source} ({error.strerror}): create one of role 'agent' and name its file by --token-file"
            ) from error
        if (token := checked_token(text)) is None:
            raise SettingsError(f"{source} does not hold a token: write the token into it, alone on one line")
        return token


def load_settings(**given: Any) -> Settings:  # noqa: ANN401  checked by the class
    """Settings from the environment, overridden by `given`. Raises SettingsError naming all that does not fit."""
    try:
        return Settings(**given)
    except ValidationError as error:
        wrong = (f"{'_'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise SettingsError(f"these settings ({PREFIX}* or flags) do not fit: " + "; ".join(wrong)) from error
