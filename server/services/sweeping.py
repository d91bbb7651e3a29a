"""What time does to the queue: everything that is due, in one transaction. Every process may do it."""

from __future__ import annotations

from datetime import datetime

from sqlmodel import Session

from server.services import idempotency, job_ends, joining, lease_expiry, parked


def sweep(session: Session, now: datetime) -> dict[str, int]:
    """How often each thing was done; what was not done at all is left out."""
    waiting = parked.sweep(session, now)
    done = {
        "leases expired": lease_expiry.sweep(session, now),
        "jobs cancelled whose parent is finished": job_ends.sweep_orphans(session, now),
        "jobs ended that are the same as a finished one": joining.sweep(session, now),
        "parked jobs queued again": waiting.resumed,
        "parked jobs failed at their deadline": waiting.overdue,
        "old Idempotency-Keys deleted": idempotency.sweep(session, now),
    }
    return {what: count for what, count in done.items() if count}
