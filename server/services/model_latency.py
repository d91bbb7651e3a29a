"""What is known of a model's latency, kept in its manifest: predicted when a search answered, measured by a session.

A file cannot hold a latency that was measured of it without becoming another file, so this goes beside it: into the
manifest and the card, as they are downloaded.
"""

from __future__ import annotations

from typing import Any

from sqlmodel import Session

from server.services import models
from server.store.tables import Measurement, Model
from server.wire import LatencyAnswer


def tell_predicted(session: Session, model_id: str, device: str, profile: str | None, answer: LatencyAnswer) -> None:
    """Keep a prediction: of the network in float32, so it says nothing of a file in another precision."""
    model = models.get(session, model_id)
    if model.precision == "float32" and answer.calibrated:
        figures = answer.model_dump(include={"predicted_ms", "lower_ms", "upper_ms", "confidence"})
        _tell(session, model_id, {"device": device, "profile": profile, "statistic": answer.statistic}, figures)


def tell_measured(session: Session, row: Measurement) -> None:
    """Keep what a session measured, at the anchor's reference speed once there is one; not if unstable or emulated."""
    if not row.stable or row.emulated:
        return
    for statistic, ms in (("p50", row.p50_ms), ("p90", row.p90_ms)):
        if ms is not None:
            where = {"device": row.device, "profile": row.profile_id, "statistic": statistic}
            _tell(session, row.model_id, where, {"measured_ms": ms})


def _tell(session: Session, model_id: str, where: dict[str, Any], figures: dict[str, Any]) -> None:
    """Add to the entry for the same place and statistic, or begin one. Files that are not ours have no such list."""
    # Locked, since another session may tell of the same model meanwhile; SQLite has one writer at a time anyway.
    session.get(Model, model_id, with_for_update=True, populate_existing=True)
    model = models.get(session, model_id)
    if "latency" not in model.manifest:
        return
    before = [dict(entry) for entry in model.manifest["latency"]]
    entry = next((each for each in before if all(each.get(name) == value for name, value in where.items())), None)
    if entry is None:
        entry = dict(where)
        before.append(entry)
    entry.update(figures)
    latency = sorted(before, key=lambda each: (each["device"], each.get("profile") or "", each["statistic"]))
    # A new object: the database looks at identity to see what changed.
    model.manifest = {**model.manifest, "latency": latency}
    session.add(model)
    session.flush()
