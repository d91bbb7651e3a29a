"""A device of kind `host` measures nothing for a calibration while a search runs: each would slow the other down."""

from __future__ import annotations

from sqlalchemy import ColumnElement, and_, exists, not_
from sqlalchemy.orm import aliased
from sqlmodel import col, select

from server.services.jobs import TAKEN
from server.store.tables import Device, Job
from server.wire import JobKind


def undisturbed() -> ColumnElement[bool]:
    """True for jobs that may be measured now.

    A calibration's jobs on a device of kind `host` wait while any search is leased or running.
    """
    parent, search = aliased(Job), aliased(Job)
    background = select(parent.id).where(
        col(parent.id) == col(Job.parent_id), col(parent.kind) == JobKind.CALIBRATE.value
    )
    on_host = select(Device.name).where(col(Device.name) == col(Job.device), col(Device.kind) == "host")
    searching = select(search.id).where(col(search.kind) == JobKind.SEARCH.value, col(search.status).in_(TAKEN))
    return not_(and_(exists(background), exists(on_host), exists(searching)))
