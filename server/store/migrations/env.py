"""Run by Alembic, on the connection that `server.store.db.upgrade` gives it."""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection
from sqlmodel import SQLModel

import server.store.tables  # noqa: F401  fills the metadata


def run(connection: Connection) -> None:
    # Our SQLite connections send BEGIN themselves, so a schema change is part of the transaction there too.
    context.configure(connection=connection, target_metadata=SQLModel.metadata, transactional_ddl=True)
    with context.begin_transaction():
        context.run_migrations()


run(context.config.attributes["connection"])
