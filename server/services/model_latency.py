"""Latencies in a model's manifest: predicted by searches, measured by sessions.

The file itself cannot hold its measured latency, since that would change its bytes. Manifest and card, which are
downloaded separately, can.
"""

from __future__ import annotations

from typing import Any

from sqlmodel import Session

from server.services import models
from server.store.tables import Measurement, Model
from server.wire import LatencyAnswer


def add_predicted(session: Session, model_id: str, device: str, profile: str | None, answer: LatencyAnswer) -> None:
    """Write a prediction into the manifest; ignored for other precisions than float32, which is what predictors are
    fitted to, and for uncalibrated estimates."""
    model = models.get(session, model_id)
    if model.precision == "float32" and answer.calibrated:
        figures = answer.model_dump(include={"predicted_ms", "lower_ms", "upper_ms", "confidence"})
        place = {"device": device, "profile": profile, "statistic": answer.statistic}
        _update(session, model_id, place, figures)


def add_measured(session: Session, row: Measurement) -> None:
    """Write a session's latencies, at the anchor's reference speed, into the manifest of its model; ignored for
    unstable and emulated sessions, and before the device profile has an anchor reference. A p90 that is not stable is
    left out."""
    if not row.stable or row.emulated:
        return
    for statistic, ms in (("p50", row.p50_ms), ("p90", row.p90_ms if row.p90_stable else None)):
        if ms is not None:
            place = {"device": row.device, "profile": row.profile_id, "statistic": statistic}
            _update(session, row.model_id, place, {"measured_ms": ms})


def _update(session: Session, model_id: str, place: dict[str, Any], figures: dict[str, Any]) -> None:
    """Update the entry of this device, device profile and statistic, or add one. Manifests of uploads have none."""
    # Locked, since another transaction may update the same model; SQLite has one writer at a time anyway.
    session.get(Model, model_id, with_for_update=True, populate_existing=True)
    model = models.get(session, model_id)
    if "latency" not in model.manifest:
        return
    rows = [dict(entry) for entry in model.manifest["latency"]]
    entry = next((row for row in rows if all(row.get(name) == value for name, value in place.items())), None)
    if entry is None:
        entry = dict(place)
        rows.append(entry)
    entry.update(figures)
    latency = sorted(rows, key=lambda row: (row["device"], row.get("profile") or "", row["statistic"]))
    # A new object: SQLAlchemy detects changes of a JSON column by identity.
    model.manifest = {**model.manifest, "latency": latency}
    session.add(model)
    session.flush()
