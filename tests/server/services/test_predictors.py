"""A predictor whose file is damaged or gone is answered for by the version before."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from sqlmodel import col, select

from elasticvit.latency.predictor import LatencyPredictor, uncalibrated
from server.errors import NoPredictor
from server.services import host_calibration, predictors
from server.store.tables import Predictor
from tests.elasticvit.training.tiny_training import tiny_space
from tests.server.server_farm import Farm, problem
from tests.server.store.test_blobs import DAMAGES

FITTED = uncalibrated(tiny_space())


def missing(path: Path) -> None:
    path.unlink()


def versions(farm: Farm) -> list[Predictor]:
    """Two versions of a predictor for `host`, oldest first."""
    farm.supernet()
    first = farm.predictor()
    with farm.database.write() as session:
        old = predictors.get(session, first)
        for number in range(2):
            predictors.create(
                session,
                farm.blobs,
                profile_id=old.profile_id,
                device=old.device,
                supernet=old.supernet,
                data=FITTED.to_json().encode() + b" " * number,
                smallest=old.smallest,
                largest=old.largest,
                interval=old.interval,
                summary={},
                now=farm.clock() + timedelta(seconds=number),
            )
        session.delete(old)
    with farm.database.read() as session:
        return list(session.exec(select(Predictor).order_by(col(Predictor.version))))


@pytest.mark.parametrize("damage", [*DAMAGES, missing])
def test_the_version_before_answers(any_farm: Farm, damage: Callable[[Path], None]) -> None:
    old, new = versions(any_farm)
    with any_farm.database.read() as session:
        loaded = predictors.load_usable(session, any_farm.blobs, new.id)
        assert loaded.row.id == new.id and loaded.note is None and predictors.damaged(session, any_farm.blobs) == []
    damage(any_farm.blobs.path(new.sha256))
    with any_farm.database.read() as session:
        assert [ref.id for ref in predictors.damaged(session, any_farm.blobs)] == [new.id]
        loaded = predictors.load_usable(session, any_farm.blobs, new.id)
    assert loaded.row.id == old.id and isinstance(loaded.fitted, LatencyPredictor)
    assert loaded.note is not None and new.id in loaded.note and f"version {old.version} answered" in loaded.note
    body = {"device": "host", "budget": {"latency_ms": 5.0}}
    assert any_farm.call("POST", "/search", json=body).status_code == 202


@pytest.mark.parametrize("damage", [*DAMAGES, missing])
def test_without_any_version_it_is_calibrated_again(any_farm: Farm, damage: Callable[[Path], None]) -> None:
    rows = versions(any_farm)
    offline_after = timedelta(hours=1)

    def due() -> bool:
        with any_farm.database.read() as session:
            return host_calibration.calibration_due(session, any_farm.blobs, any_farm.clock(), offline_after)

    any_farm.ok(
        "POST",
        "/agents/heartbeat",
        "agent",
        json={"agent_id": any_farm.agent(), "devices": [{"name": "host", "state": "idle"}]},
    )
    assert not due()
    damage(any_farm.blobs.path(rows[1].sha256))
    assert not due(), "the version before answers"
    damage(any_farm.blobs.path(rows[0].sha256))
    assert due()
    with any_farm.database.read() as session, pytest.raises(NoPredictor, match="calibrate again by POST /jobs"):
        predictors.load_usable(session, any_farm.blobs, rows[1].id)
    body = {"device": "host", "budget": {"latency_ms": 5.0}}
    problem(any_farm.call("POST", "/search", json=body), 409)
    assert any_farm.call("POST", "/search", json={**body, "allow_uncalibrated": True}).status_code == 202
