"""Lists in pages: the token is the key of the last item, so a page stays right while rows are added.

A page is bounded in items and in bytes: it ends early, with a token for the rest, before it becomes long.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from pydantic import BaseModel
from sqlmodel import Session, SQLModel
from sqlmodel.sql.expression import SelectOfScalar

from server.wire import Page

MAX_PAGE_BYTES = 62_000  # below 64 KB with what is around the items

Row = TypeVar("Row", bound=SQLModel)
View = TypeVar("View", bound=BaseModel)


def page(
    session: Session,
    statement: SelectOfScalar[Row],
    key: Any,  # noqa: ANN401  a column of Row: col() of a str field
    page_token: str | None,
    max_results: int,
    view: Callable[[Row], View],
    *,
    descending: bool = True,
) -> Page[View]:
    """The rows after `page_token` by `key`; descending ids are newest first."""
    if page_token is not None:
        statement = statement.where(key < page_token if descending else key > page_token)
    rows = session.exec(statement.order_by(key.desc() if descending else key).limit(max_results + 1)).all()
    shown = rows[:max_results]
    items = _within_bytes(map(view, shown))
    more = len(items) < len(rows)
    return Page[View](items=items, next_page_token=str(getattr(rows[len(items) - 1], key.key)) if more else None)


def _within_bytes(views: Iterable[View]) -> list[View]:
    """As many as fit into a page, at least one."""
    items: list[View] = []
    size = 0
    for item in views:
        size += len(item.__pydantic_serializer__.to_json(item)) + 1
        if items and size > MAX_PAGE_BYTES:
            break
        items.append(item)
    return items
