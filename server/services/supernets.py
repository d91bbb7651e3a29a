"""The rows of supernets: files of the home folder, by name."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlmodel import Session, col, select

from elasticvit.hashing import file_sha256
from elasticvit.nn.supernet_header import table_path
from server.errors import Conflict, NotFound
from server.services.pages import page
from server.store.supernet_file import SupernetRef, table_sha256
from server.store.tables import Supernet
from server.wire import Page, SupernetView


def register(
    session: Session,
    *,
    name: str,
    file: Path,
    now: datetime,
    space: Mapping[str, Any] | str | None = None,
    classes: int | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> Supernet:
    """Add the row of a file in the supernets folder, or update it; the first supernet becomes the default."""
    row = session.get(Supernet, name)
    if row is None:
        is_first = default(session) is None
        row = Supernet(name=name, file="", sha256="", size_bytes=0, is_default=is_first, created_at=now)
    row.file, row.sha256, row.size_bytes = file.name, file_sha256(file), file.stat().st_size
    row.space = dict(space) if isinstance(space, Mapping) else space
    row.classes, row.provenance = classes, dict(provenance or {})
    table = table_path(file)
    row.table_sha256 = table_sha256(file)
    row.table_bytes = table.stat().st_size if row.table_sha256 else None
    session.add(row)
    session.flush()
    return row


def check_free(session: Session, name: str, sha256: str) -> None:
    """Raises Conflict when another file has this name: models and predictors refer to it."""
    row = session.get(Supernet, name)
    if row is not None and row.sha256 != sha256:
        raise Conflict(f"there is a supernet '{name}' with other weights: give this one another name")


def make_default(session: Session, name: str) -> None:
    """Use this supernet for requests that name none. Raises NotFound."""
    chosen = get(session, name)
    if (former := default(session)) is not None:
        former.is_default = False
        session.add(former)
    chosen.is_default = True
    session.add(chosen)
    session.flush()


def default(session: Session) -> Supernet | None:
    """The supernet for requests that name none; None while no supernet is registered."""
    return session.exec(select(Supernet).where(col(Supernet.is_default).is_(True))).first()


def resolve(session: Session, name: str | None) -> Supernet:
    """The named supernet, or the default one. Raises NotFound, and Conflict while no supernet is registered."""
    if name is not None:
        return get(session, name)
    row = default(session)
    if row is None:
        raise Conflict("no supernet is loaded yet: wait until GET /readyz is 200")
    return row


def get(session: Session, name: str) -> Supernet:
    """Raises NotFound, which lists the known names."""
    row = session.get(Supernet, name)
    if row is None:
        names = list(session.exec(select(Supernet.name).order_by(col(Supernet.name)).limit(100)))
        raise NotFound(f"there is no supernet '{name}'; known: {', '.join(names) or 'none yet'}", known=list(names))
    return row


def path(supernet: Supernet, folder: Path) -> Path:
    return folder / supernet.file


def ref(supernet: Supernet, folder: Path) -> SupernetRef:
    """The file in the supernets folder, with its accuracy table as it is now."""
    file = path(supernet, folder)
    return SupernetRef(supernet.name, file, supernet.sha256, table_sha256(file))


def listing(session: Session, page_token: str | None, max_results: int) -> Page[SupernetView]:
    """By name."""
    return page(session, select(Supernet), col(Supernet.name), page_token, max_results, view, descending=False)


def view(supernet: Supernet) -> SupernetView:
    return SupernetView(**supernet.model_dump(exclude={"file"}), terms=supernet.provenance.get("terms"))
