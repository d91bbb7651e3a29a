"""A home folder that commit e47bf24 made, before the packages were laid out by subject, still works.

`fixtures/home-e47bf24` holds its database and its predictor as `elasticvit up` left them on a Linux machine: a
calibration with 20 networks of the default supernet, a search that measured its answer, and a sub-network. Its model
files are left out: they are exported again.
"""

from __future__ import annotations

import json
import lzma
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from elasticvit.archs.space import small
from elasticvit.pretrained.prepare import prepare_default
from server.api.app import create_app
from server.clock import utc_now
from server.compute import worker
from server.compute.task import Compute, Task
from server.services import claims, p90, predictors
from server.settings import Settings
from server.supervise.bootstrap import ensure_agent_token
from server.wire import JobKind
from tests.server.compute.exporting_farm import LocalExporter, executing
from tests.server.server_farm import Clock, Farm, TestClient

STORED = Path(__file__).parent / "fixtures" / "home-e47bf24"
SEARCHED = "search-1a220d306d3d7e63c0e"
KINDS = (JobKind.SEARCH, JobKind.SUBNET, JobKind.CALIBRATE)


@pytest.fixture
def old(tmp_path: Path) -> Iterator[Farm]:
    """The stored home, opened by this code."""
    home = tmp_path / "home"
    (home / "supernets").mkdir(parents=True)
    (home / "farm.db").write_bytes(lzma.decompress((STORED / "farm.db.xz").read_bytes()))
    for packed in STORED.glob("*.xz"):
        if packed.stem != "farm.db":
            blob = home / "blobs" / packed.stem[:2] / packed.stem
            blob.parent.mkdir(parents=True)
            blob.write_bytes(lzma.decompress(packed.read_bytes()))
    prepare_default(home / "supernets", name="cifar10")
    app = create_app(Settings(home=home, sweep_seconds=3600), Clock(utc_now()))
    with TestClient(app, raise_server_exceptions=False) as client:
        yield Farm(client=client, clock=Clock(utc_now()), home=home, state=app.state.server)


def work_off(farm: Farm) -> None:
    """Do the compute jobs that wait, as a worker does."""
    compute = Compute(Settings(home=farm.home), farm.database, farm.blobs, farm.clock)
    run = executing(compute, LocalExporter())
    while True:
        with farm.database.write() as session:
            claimed = claims.claim_compute(session, "by-hand", KINDS, farm.clock())
        if claimed is None:
            return
        worker.run_job(Task(compute, claimed, threading.Event()), run)


@pytest.mark.medium
def test_everything_stored_is_still_read(old: Farm) -> None:
    search = old.ok("GET", f"/searches/{SEARCHED}")
    latency = search["result"]["models"][0]["latency"]["host"]
    assert search["status"] == "succeeded" and latency["measured_ms"] > 0
    assert old.ok("GET", "/devices/host")["kind"] == "host"
    for path, count in (
        ("/predictors", 1),
        ("/supernets", 1),
        ("/profiles", 1),
        ("/models", 23),
        ("/measurements", 30),
    ):
        assert len(old.ok("GET", path, params={"max_results": 100})["items"]) == count, path
    measurement = old.ok("GET", "/measurements")["items"][0]
    assert old.ok("GET", f"/measurements/{measurement['id']}")["session"]["rounds"]
    assert {job["status"] for job in old.ok("GET", "/jobs", params={"max_results": 100})["items"]} == {"succeeded"}


def test_the_host_goes_to_the_token_of_this_machines_agent(old: Farm) -> None:
    """The database says whose it was; the token file is not part of the stored home. The token gets another secret."""
    owner = old.ok("GET", "/devices/host")["token_id"]
    assert owner in {token["id"] for token in old.ok("GET", "/tokens")["items"]}
    file = old.home / "agents" / "host" / "agent.token"
    ensure_agent_token(old.database, file, old.clock)
    old.secrets["agent-of-host"] = file.read_text().strip()
    assert old.ok("GET", "/devices/host")["token_id"] == owner
    old.agent("host-of-today", role="agent-of-host")


def test_the_stored_sessions_are_judged_for_their_p90(old: Farm) -> None:
    """Real sessions: those of the calibration on a quieter machine, those of the search on a busy one."""
    profile_id = old.ok("GET", "/devices/host")["profile_id"]
    with old.database.write() as session:
        p90.judge_old(session, profile_id)
    shown = old.ok("GET", "/measurements", params={"max_results": 100})["items"]
    reliable = [row for row in shown if row["p90_stable"]]
    assert len(reliable) >= 8, "enough for a predictor"
    for row in reliable:
        assert row["stable"] and row["p90_lower_ms"] <= row["p90_ms"] <= row["p90_upper_ms"]
        assert row["p90_upper_ms"] - row["p90_lower_ms"] <= 0.3 * row["p90_ms"]
    searched = [row for row in shown if row["job_id"] not in {job["id"] for job in _calibrating(old)}]
    assert len(searched) == 2 and not any(row["p90_stable"] for row in searched)


def _calibrating(farm: Farm) -> list[dict[str, Any]]:
    """The measuring jobs of calibrations."""
    jobs: list[dict[str, Any]] = farm.ok("GET", "/jobs", params={"max_results": 100})["items"]
    parents = {job["id"] for job in jobs if job["kind"] == "calibrate"}
    return [job for job in jobs if job["parent_id"] in parents]


def test_the_stored_predictor_predicts_as_it_did(old: Farm) -> None:
    with old.database.read() as session:
        row = predictors.newest(session, old.ok("GET", "/devices/host")["profile_id"], "cifar10")
    assert row is not None
    space = small(10)
    predictor = predictors.load(old.blobs, row)
    predicted_ms = float(predictor.predict_ms(space.encode(space.smallest())[None])[0])
    assert predicted_ms == pytest.approx(row.smallest["predicted_ms"])


@pytest.mark.medium
def test_a_search_on_the_old_home_gives_a_file_within_the_budget(old: Farm) -> None:
    body: dict[str, Any] = {"device": "host", "budget": {"latency_ms": 0.4}, "seed": 1}
    url = old.ok("POST", "/search", "user", json=body)["url"]
    work_off(old)
    search = old.ok("GET", url)
    assert search["status"] == "succeeded", search["error"]
    model = search["result"]["models"][0]
    assert model["latency"]["host"]["upper_ms"] <= 0.4
    assert len(old.call("GET", model["download_url"]).content) == model["size_bytes"]


@pytest.mark.medium
def test_a_subnet_whose_file_is_gone_is_exported_again(old: Farm) -> None:
    body = {"arch": json.loads(small(10).smallest().to_json())}
    job = old.ok("POST", "/subnets", "user", json=body)
    work_off(old)
    done = old.ok("GET", job["url"])
    assert done["status"] == "succeeded", done["error"]
    assert old.call("GET", done["result"]["download_url"]).status_code == 200
