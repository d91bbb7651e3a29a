"""A PostgreSQL server of its own for the benchmark, from PyPI, with its durable settings."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MAX_CONNECTIONS = 300  # the bare app takes one for each of its threads, which leaves too few of the usual 100


@contextmanager
def postgres_database() -> Iterator[str]:
    """The URL of an empty database."""
    from pgserver.postgres_server import get_server

    folder = Path(tempfile.mkdtemp(prefix="elasticvit-load-postgres-"))
    server = get_server(folder, cleanup_mode="stop")
    try:
        server.psql(f"alter system set max_connections = {MAX_CONNECTIONS};")
        server.cleanup()
        server = get_server(folder, cleanup_mode="stop")
        server.psql("create database load;")
        yield server.get_uri(database="load")
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)
