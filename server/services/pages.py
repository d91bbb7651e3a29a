"""Lists in pages: the token is the key of the last item, so a page stays right while rows are added."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from sqlmodel import Session, SQLModel
from sqlmodel.sql.expression import SelectOfScalar

from server.wire import Page

Row = TypeVar("Row", bound=SQLModel)
View = TypeVar("View")


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
    more = len(rows) > max_results
    return Page[View](
        items=[view(row) for row in shown], next_page_token=str(getattr(shown[-1], key.key)) if more else None
    )
