"""What one server process lets its clients take: sizes, times and numbers of connections."""

from __future__ import annotations

import resource
from contextlib import suppress
from dataclasses import asdict, dataclass

from server.settings import Settings

MAX_CONNECTIONS = 4096  # unless a setting asks for more; each takes some 10 kB of memory
RESERVED_DESCRIPTORS = 256  # for the database, for files, and for connections that are accepted to be refused
DESCRIPTORS_A_CONNECTION = 2  # the connection, and the file that it downloads
SPARE_CONNECTIONS = 32  # beyond the limit, for /healthz only
MIN_CONNECTIONS = 16


@dataclass(frozen=True)
class Bounds:
    """Times are in seconds; `max_connections` and `backlog` follow from the limit on descriptors."""

    max_connections: int
    max_connections_per_address: int
    backlog: int
    trusted: tuple[str, ...] = ()
    """Addresses of proxies, for whom the limit per address does not count."""
    max_header_bytes: int = 32_000
    max_headers: int = 100
    header_seconds: float = 10.0
    idle_seconds: float = 20.0
    body_stall_seconds: float = 20.0
    body_bytes_per_second: float = 4000.0
    write_stall_seconds: float = 30.0

    @classmethod
    def of(cls, settings: Settings, descriptors: int) -> Bounds:
        """The bounds of a process that may open that many files."""
        possible = max((descriptors - RESERVED_DESCRIPTORS) // DESCRIPTORS_A_CONNECTION, MIN_CONNECTIONS)
        most = min(settings.max_connections or MAX_CONNECTIONS, possible)
        return cls(
            max_connections=most,
            max_connections_per_address=min(settings.max_connections_per_address or max(most // 2, 1), most),
            backlog=max(min(2048, descriptors // 8), MIN_CONNECTIONS),
            trusted=settings.proxies,
            max_header_bytes=int(settings.max_header_kb * 1e3),
            max_headers=settings.max_headers,
            header_seconds=settings.header_seconds,
            idle_seconds=settings.idle_seconds,
            body_stall_seconds=settings.body_stall_seconds,
            body_bytes_per_second=settings.body_kb_per_second * 1e3,
            write_stall_seconds=settings.write_stall_seconds,
        )

    @property
    def tick_seconds(self) -> float:
        """How often connections are looked at: often enough for the shortest time."""
        times = (self.header_seconds, self.idle_seconds, self.body_stall_seconds, self.write_stall_seconds)
        return min(max(min(times) / 4, 0.02), 1.0)

    def as_log(self) -> dict[str, object]:
        return asdict(self)


def raise_descriptor_limit() -> int:
    """Raise the soft limit on open files to the hard one; the limit that then holds."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        # Some systems name a hard limit that they then refuse.
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return soft if soft != resource.RLIM_INFINITY else 2**20
