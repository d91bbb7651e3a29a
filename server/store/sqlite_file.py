"""The file of an SQLite database in use: one that is removed or replaced is noticed at the next transaction.

Without this, open connections would go on with a file that has no name any more, and all that they write would be lost.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sqlalchemy import Engine, event
from sqlalchemy.exc import DisconnectionError

from server.errors import Unavailable

FILE = "file of the database"


def follow(engine: Engine, file: Path) -> None:
    """Let every connection of the engine be to the file that has this name now. The first may make the file.

    While it is gone, transactions raise Unavailable; when it is back, they go on.
    """
    made = False

    def before_connecting(*_: object) -> None:
        if made and not file.exists():
            raise Unavailable(
                f"the database {file} is gone: put it back; to put a backup in its place, stop the service first"
            )

    def connected(_connection: object, record: Any) -> None:  # noqa: ANN401 - of the pool, has no public type
        nonlocal made
        made = True
        record.info[FILE] = identity(file)

    def taken(_connection: object, record: Any, _proxy: object) -> None:  # noqa: ANN401
        if record.info.get(FILE) != identity(file):
            raise DisconnectionError  # the pool connects again

    event.listen(engine, "do_connect", before_connecting)
    event.listen(engine, "connect", connected)
    event.listen(engine, "checkout", taken)


def identity(file: Path) -> tuple[int, int] | None:
    """What tells a file from another of its name; None without one."""
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
