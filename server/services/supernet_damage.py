"""Whether the files of a supernet are still those that were registered: others would be new weights under an old name.

A file is read once for each state of it, so that this may be asked before every use.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sqlmodel import Session, col, select

from elasticvit.nn.supernet_header import table_path
from server.services import supernets
from server.store.supernet_file import file_sha256_now, start_sha256
from server.store.tables import Supernet


@dataclass(frozen=True)
class Damage:
    """A file that is not what it was, why, and a sentence that says what to do."""

    path: Path
    why: str
    sentence: str


def of(supernet: Supernet, folder: Path) -> Damage | None:
    """What is wrong with the files of a supernet in the supernets folder; None if they are what was registered."""
    file = supernets.path(supernet, folder)
    table = table_path(file)
    if (why := _changed(file, supernet.size_bytes, supernet.sha256, grows=False)) is not None:
        not_served = f"supernet '{supernet.name}' is not served, because {file} {why}"
        return Damage(file, why, f"{not_served}: {_what_to_do(supernet)}")
    if supernet.table_sha256 is None or supernet.table_bytes is None:  # registered by an older version
        return None
    if (why := _changed(table, supernet.table_bytes, supernet.table_sha256, grows=True)) is not None:
        return Damage(
            table,
            why,
            f"supernet '{supernet.name}' is not served, because its accuracy table {table} {why}: put the file back "
            f"from a backup, or remove it and evaluate again by `elasticvit tabulate {file} --n 600`, and then serve "
            "the supernet under another name by `elasticvit supernets add`",
        )
    return None


def damaged(session: Session, folder: Path) -> list[Damage]:
    """Of all supernets, by name."""
    rows = session.exec(select(Supernet).order_by(col(Supernet.name))).all()
    return [damage for row in rows if (damage := of(row, folder)) is not None]


def _what_to_do(supernet: Supernet) -> str:
    return (
        f"put back the file with the SHA-256 {supernet.sha256[:12]}…; to serve other weights, add them under another "
        "name by `elasticvit supernets add`"
    )


def _changed(file: Path, size_bytes: int, sha256: str, *, grows: bool) -> str | None:
    """How a file differs from what was registered; one that grows may have more at its end."""
    try:
        now_bytes = file.stat().st_size
        if now_bytes < size_bytes:
            return f"is cut off ({now_bytes} of {size_bytes} bytes)"
        now_sha256 = start_sha256(file, size_bytes) if grows else file_sha256_now(file)
    except FileNotFoundError:
        return "is gone"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return None if now_sha256 == sha256 else "is not the file that was registered"
