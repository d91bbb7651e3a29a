"""Lists of things that change seldom: each row's JSON is kept until the row changes, so that a page is mostly put
together from parts.

A summary shows the short columns of a row. They are read raw, and compared with those that the kept JSON was made from:
it can never be out of date. Long columns (results, manifests) are not read at all.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy
from pydantic import BaseModel
from sqlalchemy import JSON, ColumnElement, Text, cast, type_coerce
from sqlalchemy.sql.selectable import FromClause
from sqlalchemy.types import NullType
from sqlmodel import Session

from server.services.pages import MAX_PAGE_BYTES

ENTRY_BYTES = 1500  # what an entry takes beside its JSON: the row, the order
Views = Callable[[Session, Sequence[str]], Mapping[str, BaseModel]]


@dataclass(frozen=True, slots=True)
class _Kept:
    row: tuple[Any, ...]
    content: bytes


class Summaries:
    """The lists of one kind of things, newest first. `views` makes what is not kept, by id; `columns` begin with the id
    and are all that the views show. For all threads."""

    def __init__(self, columns: Sequence[Any], source: FromClause, views: Views, max_bytes: int) -> None:
        self._key, self._columns, self._source = columns[0], columns, source
        self._views, self._max_bytes = views, max_bytes
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self.size_bytes = 0

    def page(
        self, session: Session, conditions: Collection[ColumnElement[bool]], page_token: str | None, max_results: int
    ) -> bytes:
        """The JSON of a `Page`: the things after `page_token` for which the conditions hold."""
        is_postgres = session.get_bind().dialect.name == "postgresql"
        statement = sqlalchemy.select(*(_raw(column, is_postgres) for column in self._columns))
        statement = statement.select_from(self._source).where(*conditions)
        if page_token is not None:
            statement = statement.where(self._key < page_token)
        found = session.execute(statement.order_by(self._key.desc()).limit(max_results + 1))
        rows = [tuple(row) for row in found]
        shown = self._within_bytes(self._contents(session, rows[:max_results]))
        token = rows[len(shown) - 1][0] if len(shown) < len(rows) else None
        return b'{"items":[' + b",".join(shown) + b'],"next_page_token":' + json.dumps(token).encode() + b"}"

    def _contents(self, session: Session, rows: Sequence[tuple[Any, ...]]) -> list[bytes]:
        with self._lock:
            contents = {row[0]: kept.content for row in rows if (kept := self._get(row)) is not None}
        missing = [row for row in rows if row[0] not in contents]
        if missing:
            views = self._views(session, [row[0] for row in missing])
            made = {thing_id: view.__pydantic_serializer__.to_json(view) for thing_id, view in views.items()}
            contents |= made
            with self._lock:
                for row in missing:
                    self._put(row, made[row[0]])
        return [contents[row[0]] for row in rows]

    @staticmethod
    def _within_bytes(contents: Sequence[bytes]) -> list[bytes]:
        """As many as fit into a page, at least one."""
        size = 0
        for number, content in enumerate(contents):
            size += len(content) + 1
            if number and size > MAX_PAGE_BYTES:
                return list(contents[:number])
        return list(contents)

    def _get(self, row: tuple[Any, ...]) -> _Kept | None:
        kept = self._kept.get(row[0])
        if kept is None or kept.row != row:
            return None
        self._kept.move_to_end(row[0])
        return kept

    def _put(self, row: tuple[Any, ...], content: bytes) -> None:
        if (former := self._kept.pop(row[0], None)) is not None:
            self.size_bytes -= len(former.content) + ENTRY_BYTES
        self._kept[row[0]] = _Kept(row, content)
        self.size_bytes += len(content) + ENTRY_BYTES
        while self.size_bytes > self._max_bytes:
            _, oldest = self._kept.popitem(last=False)
            self.size_bytes -= len(oldest.content) + ENTRY_BYTES


def _raw(column: Any, is_postgres: bool) -> ColumnElement[Any]:  # noqa: ANN401
    """The column as the driver gives it, without what makes Python's objects of it."""
    is_json = isinstance(column.type, JSON)
    return type_coerce(cast(column, Text) if is_json and is_postgres else column, NullType())
