"""Commands that wait for work exit with 0 only if it succeeded."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from typer.testing import Result

from server.services import claims, job_ends
from server.wire import Failure, JobKind
from tests.server.cli.conftest import Run, Served
from tests.server.server_farm import PATIENCE_SECONDS, Farm

REASON = "LiteRT has no operator FlexErf: convert the model again"


def until_some(look: Callable[[], Any]) -> Any:  # noqa: ANN401
    """What `look` returns as soon as it is not None."""
    deadline_s = time.monotonic() + PATIENCE_SECONDS
    while (value := look()) is None:
        assert time.monotonic() < deadline_s, "nothing came"
        time.sleep(0.02)
    return value


def while_running(run: Run, served: Served, arguments: tuple[str, ...], act: Callable[[], None]) -> Result:
    """Call a command, do something meanwhile, and give the command's result."""
    environment = {"ELASTICVIT_HOME": str(served.farm.home), "ELASTICVIT_URL": served.url}
    results: list[Result] = []
    command = threading.Thread(target=lambda: results.append(run(*arguments, **environment)), daemon=True)
    command.start()
    act()
    command.join(PATIENCE_SECONDS)
    assert results, "the command did not end"
    return results[0]


def cancel(farm: Farm) -> None:
    """Cancel the job that the command queues."""

    def look() -> str | None:
        items = farm.ok("GET", "/jobs", params={"status": "queued"})["items"]
        return items[0]["id"] if items else None

    farm.ok("POST", f"/jobs/{until_some(look)}/cancel")


def fail_compute(farm: Farm, kind: JobKind) -> None:
    """Take a job as a worker does, and fail it."""

    def claim() -> claims.Claimed | None:
        with farm.database.write() as session:
            return claims.claim_compute(session, "worker", (kind,), farm.clock())

    claimed = until_some(claim)
    with farm.database.write() as session:
        job_ends.fail(session, claimed.lease_id, claimed.attempt, Failure(kind="user", detail=REASON), farm.clock())


@pytest.mark.medium
def test_a_measurement_that_failed(run: Run, served: Served) -> None:
    farm = served.farm
    agent_id, model_id = farm.agent(), farm.upload()

    def act() -> None:
        lease = until_some(lambda: farm.lease(agent_id))
        farm.report(lease, outcome="failed", failure={"kind": "user", "detail": REASON})

    done = while_running(run, served, ("models", "measure", model_id, "host"), act)
    assert done.exit_code == 1
    assert json.loads(done.stdout)["error"] == {"kind": "user", "detail": REASON}
    assert done.stderr.splitlines()[-1].startswith("error: ") and REASON in done.stderr.splitlines()[-1]


@pytest.mark.medium
def test_a_measurement_that_succeeded(run: Run, served: Served) -> None:
    farm = served.farm
    agent_id, model_id = farm.agent(), farm.upload()
    done = while_running(
        run,
        served,
        ("models", "measure", model_id, "host"),
        lambda: farm.report(until_some(lambda: farm.lease(agent_id))),
    )
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["p50_raw_ms"] == pytest.approx(2.0)


@pytest.mark.medium
@pytest.mark.parametrize("group", ["models measure", "devices calibrate", "search"])
def test_work_that_was_cancelled(run: Run, served: Served, group: str) -> None:
    farm = served.farm
    farm.agent()
    farm.supernet()
    arguments = {"models measure": (farm.upload(), "host"), "devices calibrate": ("host",), "search": ("host", "9.0")}
    if group == "search":
        farm.predictor()
    done = while_running(run, served, (*group.split(), *arguments[group]), lambda: cancel(farm))
    assert done.exit_code == 1
    assert json.loads(done.stdout)["status"] == "cancelled"
    assert "cancelled" in done.stderr.splitlines()[-1]


@pytest.mark.medium
def test_a_calibration_that_failed(run: Run, served: Served) -> None:
    served.farm.agent()
    served.farm.supernet()
    done = while_running(
        run, served, ("devices", "calibrate", "host"), lambda: fail_compute(served.farm, JobKind.CALIBRATE)
    )
    assert done.exit_code == 1
    assert REASON in done.stderr.splitlines()[-1]


@pytest.mark.medium
def test_a_calibration_that_is_not_waited_for(run: Run, served: Served) -> None:
    served.farm.agent()
    served.farm.supernet()
    environment = {"ELASTICVIT_HOME": str(served.farm.home), "ELASTICVIT_URL": served.url}
    done = run("devices", "calibrate", "host", "--no-wait", **environment)
    assert done.exit_code == 0 and json.loads(done.stdout)["status"] == "queued"
