"""The server's settings: read once from `ELASTICVIT_*`, validated at start, passed on as values."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from server.errors import SettingsError
from server.wire import NAME_PATTERN
from server.wire.connect import base_url, is_host

PREFIX = "ELASTICVIT_"
# 10^15 bytes: more than any machine has, and far below what the kernel takes for a limit.
MAX_MB = 1e9


class Settings(BaseSettings):
    """All settings of server and workers; a MB is 10^6 bytes, times are in seconds."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid")

    home: Path = Path(".elasticvit")
    supernet: str | None = Field(default=None, pattern=NAME_PATTERN)
    """Which supernet answers where none is named; None for the one that ships with the package."""
    database_url: str | None = None
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=1, le=65535)
    lease_seconds: float = Field(default=60.0, gt=0, le=86_400)
    sweep_seconds: float = Field(default=5.0, gt=0, le=3600)
    heartbeat_seconds: float = Field(default=5.0, gt=0, le=3600)
    offline_after_seconds: float = Field(default=20.0, gt=0, le=86_400)
    poll_seconds: float = Field(default=0.5, gt=0, le=3600)
    renew_seconds: float = Field(default=1.0, gt=0, le=3600)
    """How often agents ask whether their lease still holds while they measure; a cancellation reaches them so soon."""
    max_attempts: int = Field(default=3, ge=1, le=100)
    max_open_jobs: int = Field(default=100, ge=1, le=1_000_000)
    """Of one user; admins have no such limit."""
    max_session_seconds: float = Field(default=900.0, gt=0, le=86_400)
    """Of one measuring session that a user asks for, 2 × rounds × max_secs; admins have no such limit."""
    search_wait_seconds: float = Field(default=3600.0, gt=0, le=1e7)
    """How long a search waits for its measurements each time, before it fails."""
    calibration_wait_seconds: float = Field(default=86_400.0, gt=0, le=1e7)
    max_upload_mb: float = Field(default=200.0, gt=0, le=MAX_MB)
    max_body_mb: float = Field(default=32.0, gt=0, le=MAX_MB)
    export_timeout_seconds: float = Field(default=900.0, gt=0, le=86_400)
    """Of one export; then its process is ended and the job fails. Judging a large network on a whole split takes
    minutes."""
    export_memory_mb: float = Field(default=4096.0, gt=0, le=MAX_MB)
    """Of the process that exports; beyond, it is ended and the job fails."""
    convert_wait_seconds: float = Field(default=60.0, ge=0, le=600)
    """How long a download waits for a file that must be converted first."""
    answer_threads: int = Field(default=1, ge=1, le=64)
    """How many searches and exports a worker does at once; they share one exporting process."""
    calibration_threads: int = Field(default=1, ge=1, le=64)
    conversion_threads: int = Field(default=1, ge=1, le=64)
    expect_host: bool = False
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @field_validator("host")
    @classmethod
    def _bare(cls, value: str) -> str:
        """An IPv6 address may stand in brackets here, as in a URL."""
        host = value.strip()
        host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
        if not host:
            raise ValueError("an empty address: give 127.0.0.1, or 0.0.0.0 for all interfaces")
        if not is_host(host):
            raise ValueError(f"'{host}' is no address: give one without http:// and port, such as 127.0.0.1")
        return host

    @property
    def server_url(self) -> str:
        """Where processes on this machine reach the server; IPv6 addresses stand in brackets."""
        return base_url(self.host, self.port)

    @property
    def url(self) -> str:
        """The database's SQLAlchemy URL; without one given, `farm.db` in the home folder."""
        return self.database_url or f"sqlite:///{self.home.resolve() / 'farm.db'}"

    @property
    def admin_token_file(self) -> Path:
        return self.home / "admin.token"

    @property
    def blobs_folder(self) -> Path:
        return self.home / "blobs"

    @property
    def supernets_folder(self) -> Path:
        return self.home / "supernets"

    @property
    def offline_after(self) -> timedelta:
        return timedelta(seconds=self.offline_after_seconds)

    @property
    def max_upload_bytes(self) -> int:
        return int(self.max_upload_mb * 1e6)

    @property
    def max_body_bytes(self) -> int:
        return int(self.max_body_mb * 1e6)


def load_settings() -> Settings:
    """Settings from the environment. Raises SettingsError naming every variable that is not valid."""
    try:
        return Settings()
    except ValidationError as error:
        wrong = (f"{PREFIX}{'_'.join(map(str, e['loc'])).upper()}: {e['msg']}" for e in error.errors())
        raise SettingsError("these environment variables are not valid: " + "; ".join(wrong)) from error
