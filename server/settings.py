"""The server's settings: read once from `ELASTICVIT_*`, validated at start, passed on as values."""

from __future__ import annotations

from datetime import timedelta
from ipaddress import ip_network
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
    share_home: bool = False
    """Whether the group of the home folder may read it; others never may."""
    supernet: str | None = Field(default=None, pattern=NAME_PATTERN)
    """Which supernet answers where none is named; None for the one that ships with the package."""
    database_url: str | None = None
    database_password_file: Path | None = None
    """Holds the password of the database's user, so that no environment shows it."""
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=1, le=65535)
    lease_seconds: float = Field(default=60.0, gt=0, le=86_400)
    sweep_seconds: float = Field(default=5.0, gt=0, le=3600)
    look_seconds: float = Field(default=3.0, gt=0, le=3600)
    """How often a server looks for all requests that wait, in case a hint was lost."""
    heartbeat_seconds: float = Field(default=5.0, gt=0, le=3600)
    offline_after_seconds: float = Field(default=30.0, gt=0, le=86_400)
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
    max_uploads: int = Field(default=16, ge=1, le=1000)
    """Uploads at a time, of which one user has at most half; further ones wait."""
    unfinished_uploads_mb: float = Field(default=1000.0, gt=0, le=MAX_MB)
    """What the files of uploads that are not finished take on the disk, of which one user has at most half."""
    max_body_mb: float = Field(default=16.0, gt=0, le=MAX_MB)
    """Of an agent's report, the largest body but an upload."""
    max_request_kb: float = Field(default=64.0, gt=0, le=MAX_MB)
    """Of every other body; a kB is 1000 bytes."""
    token_cache_seconds: float = Field(default=2.0, ge=0, le=10)
    """How long a revoked token may still be taken by another server process than the one that revoked it."""
    trusted_proxies: str = ""
    """Addresses or networks, separated by commas, whose X-Forwarded-For and X-Forwarded-Proto are believed."""
    max_connections: int | None = Field(default=None, ge=1, le=1_000_000)
    """Of one server process; by default as the limit on open files allows, but at most 4096."""
    max_connections_per_address: int | None = Field(default=None, ge=1, le=1_000_000)
    """By default half of all."""
    max_header_kb: float = Field(default=32.0, ge=1, le=1000)
    """Of the request line and all headers together."""
    max_headers: int = Field(default=100, ge=10, le=10_000)
    header_seconds: float = Field(default=10.0, ge=0.1, le=3600)
    """In which the headers of a request must arrive."""
    idle_seconds: float = Field(default=20.0, ge=0.1, le=3600)
    """After which a connection without a request is closed."""
    body_stall_seconds: float = Field(default=20.0, ge=0.1, le=3600)
    """After which a body that does not go on is given up."""
    body_kb_per_second: float = Field(default=4.0, ge=0, le=1e6)
    """Slower than that on average, after the first `body_stall_seconds`, a body is given up."""
    write_stall_seconds: float = Field(default=30.0, ge=0.1, le=3600)
    """After which a client that does not read its answer is given up."""
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
    min_free_mb: float = Field(default=50.0, ge=0, le=MAX_MB)
    """With less space on the home folder's disk, /readyz is 503."""
    expect_host: bool = False
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_file: Path | None = None
    alive_file: Path | None = None
    """The compute worker touches it every second while all its parts work, for the health check of a container."""
    """Where a process writes its log instead of stderr; a new file is begun at 10 MB, and three are kept."""

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

    @field_validator("trusted_proxies")
    @classmethod
    def _networks(cls, value: str) -> str:
        for text in filter(None, value.replace(" ", "").split(",")):
            try:
                ip_network(text, strict=False)
            except ValueError as error:
                raise ValueError(f"'{text}' is no address or network: give 10.0.0.5 or 10.0.0.0/24") from error
        return value

    @property
    def proxies(self) -> tuple[str, ...]:
        return tuple(filter(None, self.trusted_proxies.replace(" ", "").split(",")))

    @property
    def server_url(self) -> str:
        """Where processes on this machine reach the server; IPv6 addresses stand in brackets."""
        return base_url(self.host, self.port)

    @property
    def url(self) -> str:
        """The database's SQLAlchemy URL; without one given, `farm.db` in the home folder. Raises SettingsError."""
        url = self.database_url or f"sqlite:///{self.home.resolve() / 'farm.db'}"
        return url if self.database_password_file is None else _with_password(url, self.database_password_file)

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
    def unfinished_uploads_bytes(self) -> int:
        """At least two of the largest files, so that half of it, one user's share, takes one."""
        return max(int(self.unfinished_uploads_mb * 1e6), 2 * self.max_upload_bytes)

    @property
    def max_body_bytes(self) -> int:
        return int(self.max_body_mb * 1e6)

    @property
    def max_request_bytes(self) -> int:
        return int(self.max_request_kb * 1e3)


def _with_password(url: str, file: Path) -> str:
    """Raises SettingsError."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        password = file.read_text().strip()
        return make_url(url).set(password=password).render_as_string(hide_password=False)
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{PREFIX}DATABASE_PASSWORD_FILE: {file} cannot be read ({error})") from error
    except ArgumentError as error:
        raise SettingsError(
            f"{PREFIX}DATABASE_URL is not a database URL such as postgresql://USER@HOST/NAME"
        ) from error


def load_settings() -> Settings:
    """Settings from the environment. Raises SettingsError naming every variable that is not valid."""
    try:
        return Settings()
    except ValidationError as error:
        wrong = (f"{PREFIX}{'_'.join(map(str, e['loc'])).upper()}: {e['msg']}" for e in error.errors())
        raise SettingsError("these environment variables are not valid: " + "; ".join(wrong)) from error
