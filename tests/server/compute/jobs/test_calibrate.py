"""Calibrations: which sessions are measured again, aligned once, skipped, and when there are too few."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sqlmodel import col, delete, select

from elasticvit.archs.arch import Arch
from server.compute.exporting.order import ExportTflite, ListOps
from server.store.tables import BlockRow, Measurement, Model, UnalignedSession
from tests.server.compute.calibration_farm import CalibrationFarm, calibration_farm, shaken, with_unknown_tag
from tests.server.server_farm import Farm, attempts

COUNT = 9


@pytest.fixture
def calibrations(farm: Farm, tmp_path: Path) -> CalibrationFarm:
    return calibration_farm(farm, tmp_path)


@pytest.fixture
def calibrations_anywhere(any_farm: Farm, tmp_path: Path) -> CalibrationFarm:
    """On each kind of database."""
    return calibration_farm(any_farm, tmp_path)


def stored_rows(farm: Farm) -> dict[tuple[str, int], tuple[str, float]]:
    with farm.database.read() as session:
        rows = session.exec(select(BlockRow)).all()
    return {(row.measurement_id, row.position): (row.block, row.latency_ms) for row in rows}


@pytest.mark.medium
def test_block_rows_are_made_once_and_read_by_later_calibrations(calibrations: CalibrationFarm) -> None:
    first = calibrations.calibrate(COUNT)
    assert first["status"] == "succeeded", first["error"]
    rows = stored_rows(calibrations.farm)
    assert len({measurement for measurement, _ in rows}) == COUNT
    assert all(ms == pytest.approx(0.1, rel=0.01) for _, ms in rows.values())
    assert sorted(row.ms for row in calibrations.fit.rows[0]) == sorted(ms for _, ms in rows.values())
    assert first["result"]["summary"]["skipped_sessions"] == []
    assert calibrations.exporter.orders == {ExportTflite: COUNT, ListOps: COUNT}
    calibrations.exporter.orders.clear()
    second = calibrations.calibrate(COUNT)
    assert second["status"] == "succeeded", second["error"]
    assert len(calibrations.fit.rows[1]) == 2 * len(rows)
    assert rows.items() <= stored_rows(calibrations.farm).items()
    assert calibrations.exporter.orders[ListOps] == COUNT, "only the new sessions are aligned"
    assert len(stored_rows(calibrations.farm)) == 2 * len(rows)


@pytest.mark.medium
def test_stored_rows_are_what_is_fitted(calibrations: CalibrationFarm) -> None:
    """A row that is changed in the store is fitted as it is stored, not made of the profile once more."""
    calibrations.calibrate(COUNT)
    with calibrations.farm.database.write() as session:
        for row in session.exec(select(BlockRow)):
            row.latency_ms *= 0.5
            session.add(row)
    changed = stored_rows(calibrations.farm)
    calibrations.calibrate(COUNT)
    assert changed.items() <= stored_rows(calibrations.farm).items()
    first, second = ({row.ms for row in rows} for rows in calibrations.fit.rows)
    assert second == first | {ms for _, ms in changed.values()}


@pytest.mark.medium
def test_rows_of_a_home_that_has_none_are_made_once(calibrations: CalibrationFarm) -> None:
    calibrations.calibrate(COUNT)
    before = stored_rows(calibrations.farm)
    with calibrations.farm.database.write() as session:
        session.exec(delete(BlockRow))
    assert calibrations.calibrate(COUNT)["status"] == "succeeded"
    assert before.items() <= stored_rows(calibrations.farm).items()
    calibrations.exporter.orders.clear()
    assert calibrations.calibrate(COUNT)["status"] == "succeeded"
    assert calibrations.exporter.orders[ListOps] == COUNT


@pytest.mark.medium
def test_rows_of_blocks_that_are_divided_otherwise_today_are_made_again(calibrations: CalibrationFarm) -> None:
    calibrations.calibrate(COUNT)
    before = stored_rows(calibrations.farm)
    (measurement_id, _), *_ = before
    with calibrations.farm.database.write() as session:
        row = session.get_one(BlockRow, (measurement_id, 0))
        row.block = "a block of another version"
        session.delete(session.get_one(BlockRow, (measurement_id, 1)))
    assert calibrations.calibrate(COUNT)["status"] == "succeeded"
    assert before.items() <= stored_rows(calibrations.farm).items()


@pytest.mark.medium
def test_a_session_that_cannot_be_aligned_is_skipped_and_named(calibrations_anywhere: CalibrationFarm) -> None:
    """Later calibrations succeed without it, and do not align it again."""
    calibrations = calibrations_anywhere
    spoilt: list[str] = []

    def spoil_one(arch: Arch, _number: int, body: dict[str, Any]) -> dict[str, Any]:
        spoilt[:] = spoilt or [arch.id]
        return with_unknown_tag(body) if arch.id == spoilt[0] else body

    calibrations.device.change = spoil_one
    first = calibrations.calibrate(COUNT)
    assert first["status"] == "succeeded", first["error"]
    (skipped,) = first["result"]["summary"]["skipped_sessions"]
    assert "Unheard Of" in skipped["reason"]
    measured = calibrations.farm.ok("GET", f"/measurements/{skipped['measurement']}")
    assert measured["session"]["profile"][0]["tag"] == "Unheard Of (NC)"
    assert len(calibrations.fit.wholes[0]) == COUNT - 1
    assert skipped["measurement"] not in {measurement for measurement, _ in stored_rows(calibrations.farm)}
    calibrations.device.change = lambda _arch, _number, body: body
    calibrations.exporter.orders.clear()
    second = calibrations.calibrate(COUNT)
    assert second["status"] == "succeeded", second["error"]
    assert second["result"]["summary"]["skipped_sessions"] == [skipped]
    assert calibrations.exporter.orders[ListOps] == COUNT, "the old session is not exported once more"
    listed = calibrations.farm.ok("GET", "/predictors")["items"]
    assert [predictor["summary"]["skipped_sessions"] for predictor in listed] == [[skipped], [skipped]]


@pytest.mark.medium
def test_another_version_of_the_server_tries_to_align_once_more(calibrations: CalibrationFarm) -> None:
    calibrations.calibrate(COUNT)
    before = stored_rows(calibrations.farm)
    (measurement_id, _), *_ = before
    with calibrations.farm.database.write() as session:
        session.exec(delete(BlockRow).where(col(BlockRow.measurement_id) == measurement_id))
        session.add(
            UnalignedSession(
                measurement_id=measurement_id,
                reason="a tag that version 0 did not know",
                version="0",
                created_at=calibrations.farm.clock(),
            )
        )
    done = calibrations.calibrate(COUNT)
    assert done["result"]["summary"]["skipped_sessions"] == []
    assert before.items() <= stored_rows(calibrations.farm).items()
    with calibrations.farm.database.read() as session:
        assert session.exec(select(UnalignedSession)).all() == []


@pytest.mark.medium
@pytest.mark.parametrize(("broken", "reason"), [("arch", "not an architecture"), ("export", "cannot be written")])
def test_a_session_of_a_model_that_is_no_longer_understood_is_skipped(
    calibrations: CalibrationFarm, broken: str, reason: str
) -> None:
    calibrations.calibrate(COUNT)
    with calibrations.farm.database.write() as session:
        model = session.exec(select(Model).where(col(Model.arch_id).is_not(None)).limit(1)).one()
        assert model.arch_id is not None
        if broken == "export":
            calibrations.exporter.refused.add(model.arch_id)
            session.exec(delete(BlockRow))
        else:
            model.arch = {"from": "another version"}
            session.add(model)
        (old,) = session.exec(select(Measurement.id).where(Measurement.model_id == model.id)).all()
    done = calibrations.calibrate(COUNT)
    assert done["status"] == "succeeded", done["error"]
    skipped = {entry["measurement"]: entry["reason"] for entry in done["result"]["summary"]["skipped_sessions"]}
    assert reason in skipped[old]


@pytest.mark.medium
def test_an_unstable_network_is_measured_again_until_it_is_stable(calibrations: CalibrationFarm) -> None:
    calibrations.device.change = lambda _arch, number, body: shaken(body) if number < 3 else body
    done = calibrations.calibrate(COUNT)
    assert done["status"] == "succeeded", done["error"]
    assert set(calibrations.device.sessions.values()) == {4}


@pytest.mark.medium
def test_a_network_that_is_stable_at_once_is_measured_once(calibrations: CalibrationFarm) -> None:
    calibrations.calibrate(COUNT)
    assert set(calibrations.device.sessions.values()) == {1} and len(calibrations.device.sessions) == COUNT


@pytest.mark.medium
def test_a_job_with_too_many_unstable_networks_fails_and_is_retried(calibrations: CalibrationFarm) -> None:
    """The stable sessions of the first attempt are kept, and only the others are measured in the second."""
    unstable: set[str] = set()

    def change(arch: Arch, number: int, body: dict[str, Any]) -> dict[str, Any]:
        if number == 0 and len(unstable) < 4:
            unstable.add(arch.id)
        return shaken(body) if arch.id in unstable and number < 4 else body

    calibrations.device.change = change
    failed = calibrations.calibrate(8)
    assert failed["status"] == "queued"
    with calibrations.farm.database.read() as session:
        attempt = attempts(session, failed["id"])[-1]
    assert attempt.failure is not None and attempt.failure["kind"] == "infra"
    detail = attempt.failure["detail"]
    assert "needs 8 measured networks, there are 4" in detail and "4 of 8 networks have no stable session" in detail
    assert "varies" in detail and "idle" in detail
    calibrations.farm.clock.pass_seconds(1)  # the next attempt is delayed
    done = calibrations.attempt(failed["url"])
    assert done["status"] == "succeeded", done["error"]
    assert sorted(calibrations.device.sessions.values()) == [1, 1, 1, 1, 5, 5, 5, 5]


@pytest.mark.medium
def test_a_device_that_fails_is_named(calibrations: CalibrationFarm) -> None:
    failure = {"kind": "user", "detail": "the model does not load: update the runtime"}
    calibrations.device.change = lambda _arch, _number, _body: {"outcome": "failed", "failure": failure}
    failed = calibrations.calibrate(8)
    with calibrations.farm.database.read() as session:
        attempt = attempts(session, failed["id"])[-1]
    assert attempt.failure is not None and failure["detail"] in attempt.failure["detail"]


@pytest.mark.medium
def test_too_few_after_skipping_is_final_and_names_the_sessions(calibrations: CalibrationFarm) -> None:
    calibrations.device.change = lambda _arch, _number, body: with_unknown_tag(body)
    failed = calibrations.calibrate(8)
    assert failed["status"] == "failed" and failed["error"]["kind"] == "user"
    detail = failed["error"]["detail"]
    assert "needs 8 measured networks, there are 0" in detail and "8 sessions were skipped" in detail
    assert "measurement-" in detail and "Unheard Of" in detail
