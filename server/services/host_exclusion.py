"""A device of kind `host` measures nothing for a calibration while a search runs: each would slow the other down."""

from __future__ import annotations

from sqlalchemy import ColumnElement, and_, exists, not_, or_
from sqlalchemy.orm import aliased
from sqlmodel import col, select

from server.services.jobs import OPEN, TAKEN
from server.store.tables import Device, Job
from server.wire import JobKind


def undisturbed() -> ColumnElement[bool]:
    """True for jobs that may be measured now.

    A calibration's jobs on a device of kind `host` wait while any search holds a lease, and from the first to the last
    measurement of a search on that device: also while that search is parked.
    """
    parent, search = aliased(Job), aliased(Job)
    background = select(parent.id).where(
        col(parent.id) == col(Job.parent_id), col(parent.kind) == JobKind.CALIBRATE.value
    )
    on_host = select(Device.name).where(col(Device.name) == col(Job.device), col(Device.kind) == "host")
    computes = and_(col(search.status).in_(TAKEN), col(search.lease_expires_at).is_not(None))
    verifies = and_(
        col(search.status).in_(OPEN), col(search.checkpoint).is_not(None), col(search.device) == col(Job.device)
    )
    searching = select(search.id).where(col(search.kind) == JobKind.SEARCH.value, or_(computes, verifies))
    return not_(and_(exists(background), exists(on_host), exists(searching)))
