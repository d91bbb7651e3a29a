"""Predictor versions: which one answers for a device, and the bounds it gives at the ends of the space."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from sqlmodel import Session, and_, col, func, select

from elasticvit.latency.predictor import LatencyPredictor
from server.errors import NoPredictor, NotFound
from server.ids import new_id
from server.services import measurements
from server.services.pages import page
from server.store.blobs import Blobs
from server.store.tables import Predictor, Supernet
from server.wire import Page, PredictorRef, PredictorView, Statistic


def create(
    session: Session,
    blobs: Blobs,
    *,
    profile_id: str,
    device: str,
    supernet: str,
    data: bytes,
    smallest: Mapping[str, Any],
    largest: Mapping[str, Any],
    interval: Mapping[str, Any],
    summary: Mapping[str, Any],
    now: datetime,
    job_id: str | None = None,
) -> Predictor:
    """Store a fitted predictor as the device profile's next version; a job adds one version only.

    `smallest` and `largest` need `predicted_ms`; `interval` is read by `upper_ms`.
    """
    if job_id is not None and (same := session.exec(select(Predictor).where(Predictor.job_id == job_id)).first()):
        return same
    newest = session.exec(select(func.max(Predictor.version)).where(Predictor.profile_id == profile_id)).one()
    row = Predictor(
        id=new_id("predictor", now),
        profile_id=profile_id,
        version=(newest or 0) + 1,
        device=device,
        supernet=supernet,
        job_id=job_id,
        sha256=blobs.put(data),
        anchor_reference_ms=measurements.fix_anchor_reference(session, profile_id),
        smallest=dict(smallest),
        largest=dict(largest),
        interval=dict(interval),
        summary=dict(summary),
        created_at=now,
    )
    session.add(row)
    session.flush()
    return row


def newest(session: Session, profile_id: str, supernet: str, blobs: Blobs | None = None) -> Predictor | None:
    """The newest version for a device profile and supernet, None before the first. With `blobs`, only versions whose
    file is whole count."""
    statement = select(Predictor).where(Predictor.profile_id == profile_id, Predictor.supernet == supernet)
    newest_first = statement.order_by(col(Predictor.version).desc())
    if blobs is None:
        return session.exec(newest_first.limit(1)).first()
    return next((row for row in session.exec(newest_first) if blobs.is_whole(row.sha256)), None)


def damaged(session: Session, blobs: Blobs) -> list[PredictorRef]:
    """The predictors that should answer, each the newest of its device profile and supernet, and whose file is gone or
    damaged; a version before answers instead, where there is one."""
    last = (
        select(Predictor.profile_id, Predictor.supernet, func.max(Predictor.version).label("version"))
        .group_by(Predictor.profile_id, Predictor.supernet)
        .subquery()
    )
    same = and_(
        col(Predictor.profile_id) == last.c.profile_id,
        col(Predictor.supernet) == last.c.supernet,
        col(Predictor.version) == last.c.version,
    )
    rows = session.exec(select(Predictor).join(last, same).order_by(col(Predictor.id)))
    return [ref(row) for row in rows if not blobs.is_whole(row.sha256)]


@dataclass(frozen=True)
class Loaded:
    """A fitted predictor with its row; `note` says so when it is not the one that was asked for."""

    fitted: LatencyPredictor
    row: Predictor
    note: str | None = None


def load_usable(session: Session, blobs: Blobs, predictor_id: str) -> Loaded:
    """A predictor, or the newest whole version before it. Raises NotFound, PredictorError; NoPredictor when the files
    of all versions are gone or damaged."""
    wanted = get(session, predictor_id)
    if blobs.is_whole(wanted.sha256):
        return Loaded(load(blobs, wanted), wanted)
    usable = newest(session, wanted.profile_id, wanted.supernet, blobs)
    lost = f"the file of predictor '{wanted.id}', version {wanted.version} of '{wanted.device}', is gone or damaged"
    again = f"""POST /jobs {{"kind": "calibrate", "device": "{wanted.device}", "supernet": "{wanted.supernet}"}}"""
    if usable is None:
        raise NoPredictor(f"{lost}, and there is no other version: calibrate again by {again}")
    note = f"{lost}: version {usable.version} answered; for a new version {again}"
    return Loaded(load(blobs, usable), usable, note)


def smallest_upper_ms(
    session: Session, predictor: Predictor, supernet: Supernet, confidence: float, statistic: Statistic
) -> float | None:
    """The least upper bound that any arch of the supernet's space has on the predictor's device profile, in ms.

    None where the predictor has no such figure; the search job then finds it.
    """
    smallest = predictor.smallest.get("predicted_ms")
    if smallest is None or predictor.supernet != supernet.name:
        return None
    return upper_ms(predictor, float(smallest), confidence, statistic)


def upper_ms(predictor: Predictor, predicted_ms: float, confidence: float, statistic: Statistic) -> float:
    """The upper end of the interval around a prediction.

    `interval` maps a statistic to `{confidence: relative half width}`, confidences as decimal strings; the next
    higher stored confidence is used. Without any, the prediction itself is returned.
    """
    widths = {float(at): float(width) for at, width in predictor.interval.get(statistic, {}).items()}
    enough = [width for at, width in sorted(widths.items()) if at >= confidence]
    width = enough[0] if enough else max(widths.values(), default=0.0)
    return predicted_ms * (1.0 + width)


def load(blobs: Blobs, predictor: Predictor) -> LatencyPredictor:
    """The fitted predictor itself; kept in memory, since a version never changes.

    Raises NotFound, DamagedFile, PredictorError.
    """
    return _load(blobs.find(predictor.sha256))


@lru_cache(maxsize=32)
def _load(path: Path) -> LatencyPredictor:
    return LatencyPredictor.from_json(path.read_text())


def get(session: Session, predictor_id: str) -> Predictor:
    """Raises NotFound."""
    row = session.get(Predictor, predictor_id)
    if row is None:
        raise NotFound(f"there is no predictor '{predictor_id}': GET /predictors lists them")
    return row


def listing(
    session: Session, page_token: str | None, max_results: int, device: str | None = None
) -> Page[PredictorView]:
    """Newest first."""
    statement = select(Predictor)
    if device is not None:
        statement = statement.where(Predictor.device == device)
    return page(session, statement, col(Predictor.id), page_token, max_results, view)


def ref(predictor: Predictor) -> PredictorRef:
    return PredictorRef(id=predictor.id, device=predictor.device, version=predictor.version)


def view(predictor: Predictor) -> PredictorView:
    return PredictorView(**predictor.model_dump(include=set(PredictorView.model_fields)))
