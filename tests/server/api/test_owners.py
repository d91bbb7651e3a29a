"""Owners of jobs: who may end and repeat what, how much a user may queue, and equal work that is done once."""

from __future__ import annotations

from typing import Any

import pytest

from server.services import claims, job_ends, jobs, sweeping
from server.wire import Failure, JobKind
from tests.server.server_farm import Farm, problem, session_body, tiny_tflite

SEARCH = {"device": "host", "budget": {"latency_ms": 5.0}}


@pytest.fixture
def ready(any_farm: Farm) -> Farm:
    any_farm.supernet()
    any_farm.predictor()
    return any_farm


def measure(farm: Farm, model_id: str, role: str = "user", **protocol: Any) -> Any:  # noqa: ANN401
    body = {"kind": "measure", "device": "host", "model_id": model_id, "protocol": protocol or None}
    return farm.call("POST", "/jobs", role, json=body)


def fail_search(farm: Farm) -> None:
    with farm.database.write() as session:
        claimed = claims.claim_compute(session, "worker", (JobKind.SEARCH,), farm.clock())
        assert claimed is not None
        failure = Failure(kind="user", detail="the budget cannot be met: ask for more")
        job_ends.fail(session, claimed.lease_id, claimed.attempt, failure, farm.clock())


class TestOwners:
    def test_only_its_owner_and_admins_end_a_job(self, ready: Farm) -> None:
        model_id = ready.upload()
        mine = measure(ready, model_id).json()["url"]
        assert ready.ok("GET", mine)["owner"] == "a-user"
        assert "a-user" in str(ready.ok("GET", "/jobs")["items"]) and ready.secret("user") not in str(
            ready.ok("GET", mine)
        )
        refused = problem(ready.call("POST", f"{mine}/cancel", "user-2"), 403)
        assert "its owner or an admin" in refused["detail"]
        assert ready.ok("GET", mine)["status"] == "queued"
        assert ready.ok("POST", f"{mine}/cancel", "user")["status"] == "cancelled"
        problem(ready.call("POST", f"{mine}/retry", "user-2"), 403)
        other = measure(ready, model_id, rounds=2).json()["url"]
        assert ready.ok("POST", f"{other}/cancel", "admin")["status"] == "cancelled"

    def test_only_its_owner_and_admins_end_a_search(self, ready: Farm) -> None:
        first, second = (ready.ok("POST", "/search", "user", json=SEARCH)["url"] for _ in range(2))
        assert ready.ok("GET", first)["owner"] == "a-user"
        problem(ready.call("POST", f"{first}/cancel", "user-2"), 403)
        assert ready.ok("POST", f"{first}/cancel", "user")["status"] == "cancelled"
        assert ready.ok("POST", f"{second}/cancel", "admin")["status"] == "cancelled"

    def test_children_belong_to_the_owner_of_their_parent(self, ready: Farm) -> None:
        search = ready.ok("POST", "/search", "user", json=SEARCH)
        job_id = ready.ok("GET", search["url"])["job_id"]
        with ready.database.write() as session:
            child_id = jobs.enqueue(
                session, kind=JobKind.MEASURE, now=ready.clock(), device="host", parent_id=job_id, key="k"
            ).id
        assert ready.ok("GET", f"/jobs/{child_id}")["owner"] == "a-user"


class TestRetry:
    def test_a_failed_search_is_done_again_under_a_new_id(self, ready: Farm) -> None:
        old = ready.ok("POST", "/search", "user", json=SEARCH | {"seed": 3})
        job_id = ready.ok("GET", old["url"])["job_id"]
        assert "only a failed or cancelled job" in problem(ready.call("POST", f"/jobs/{job_id}/retry"), 409)["detail"]
        fail_search(ready)
        answer = ready.call("POST", f"/jobs/{job_id}/retry", "user")
        new = answer.json()
        assert answer.status_code == 202 and answer.headers["location"] == new["url"] and new["id"] != old["id"]
        view = ready.ok("GET", new["url"])
        assert view["status"] == "queued" and view["request"]["seed"] == 3
        assert ready.ok("GET", f"/jobs/{view['job_id']}")["retry_of"] == job_id
        assert ready.ok("GET", old["url"])["status"] == "failed", "finished is final"
        with ready.database.read() as session:
            before, after = jobs.get(session, job_id), jobs.get(session, view["job_id"])
        assert after.payload == {**before.payload, "search_id": new["id"]} and after.priority == before.priority

    def test_a_cancelled_session_is_measured_again(self, ready: Farm) -> None:
        url = measure(ready, ready.upload(), rounds=3).json()["url"]
        ready.ok("POST", f"{url}/cancel", "user")
        first, again = (
            ready.ok("POST", f"{url}/retry", "user", headers={"Idempotency-Key": "again"}) for _ in range(2)
        )
        assert first == again and first["url"] != url
        lease = ready.lease(ready.agent())
        assert lease is not None and lease["job_id"] == first["id"] and lease["protocol"]["rounds"] == 3
        assert ready.report(lease).status_code == 200
        problem(ready.call("POST", f"{first['url']}/retry", "user"), 409)
        problem(ready.call("POST", "/jobs/job-nowhere/retry", "user"), 404)

    def test_the_job_that_queued_it_is_tried_again_instead_of_a_child(self, ready: Farm) -> None:
        search = ready.ok("POST", "/search", "user", json=SEARCH)
        job_id = ready.ok("GET", search["url"])["job_id"]
        with ready.database.write() as session:
            child_id = jobs.enqueue(
                session, kind=JobKind.MEASURE, now=ready.clock(), device="host", parent_id=job_id, key="k"
            ).id
        ready.ok("POST", f"{search['url']}/cancel", "user")
        assert job_id in problem(ready.call("POST", f"/jobs/{child_id}/retry", "user"), 409)["detail"]


class TestEqualWork:
    def test_the_same_request_of_one_user_is_one_job(self, ready: Farm) -> None:
        model_id = ready.upload()
        first, again = measure(ready, model_id), measure(ready, model_id)
        assert first.status_code == again.status_code == 202 and first.json()["id"] == again.json()["id"]
        assert measure(ready, model_id, rounds=4).json()["id"] != first.json()["id"]
        verified = SEARCH | {"verify": True}
        ids = {ready.ok("POST", "/search", "user", json=verified)["id"] for _ in range(3)}
        assert len(ids) == 1
        assert ready.ok("POST", "/search", "user", json=verified | {"seed": 1})["id"] not in ids

    def test_another_users_is_done_together_with_it(self, ready: Farm) -> None:
        model_id = ready.upload()
        first, second = measure(ready, model_id).json(), measure(ready, model_id, "user-2").json()
        assert first["id"] != second["id"]
        view = ready.ok("GET", second["url"])
        assert view["same_as"] == first["id"] and first["id"] in view["progress"]["detail"]
        agent_id = ready.agent()
        lease = ready.lease(agent_id)
        assert lease is not None and lease["job_id"] == first["id"]
        assert ready.lease(agent_id) is None, "it is measured once"
        assert ready.report(lease).status_code == 200
        views = [ready.ok("GET", job["url"]) for job in (first, second)]
        assert views[0]["result"] == views[1]["result"] and views[1]["status"] == "succeeded"
        assert measure(ready, model_id).json()["id"] not in (first["id"], second["id"])

    def test_the_cancellation_of_one_does_not_end_the_others(self, ready: Farm) -> None:
        model_id = ready.upload()
        made = []
        for role in ("user", "user-2", "user-3"):
            ready.clock.pass_seconds(1)  # the oldest goes on
            made.append(measure(ready, model_id, role).json())
        first, second, third = made
        agent_id = ready.agent()
        lease = ready.lease(agent_id)
        assert lease is not None and lease["job_id"] == first["id"]
        ready.ok("POST", f"{first['url']}/cancel", "user")
        assert ready.ok("GET", third["url"])["same_as"] == second["id"]
        lease = ready.lease(agent_id)
        assert lease is not None and lease["job_id"] == second["id"]
        ready.ok("POST", f"{third['url']}/cancel", "user-3")
        assert ready.report(lease).status_code == 200
        ends = [ready.ok("GET", job["url"])["status"] for job in (first, second, third)]
        assert ends == ["cancelled", "succeeded", "cancelled"]

    def test_equal_searches_of_two_users_share_the_result(self, ready: Farm) -> None:
        body = SEARCH | {"verify": True}
        first, second = (ready.ok("POST", "/search", role, json=body) for role in ("user", "user-2"))
        assert first["id"] != second["id"]
        fail_search(ready)
        assert [ready.ok("GET", search["url"])["status"] for search in (first, second)] == ["failed"] * 2
        assert ready.ok("GET", second["url"])["error"] == ready.ok("GET", first["url"])["error"]

    def test_one_left_behind_is_swept(self, ready: Farm) -> None:
        model_id = ready.upload()
        first, second = measure(ready, model_id).json(), measure(ready, model_id, "user-2").json()
        with ready.database.write() as session:
            row = jobs.get(session, first["id"])
            row.status, row.result, row.finished_at = "succeeded", {"measurement_id": "m"}, ready.clock()
            session.add(row)
        with ready.database.write() as session:
            assert sweeping.sweep(session, ready.clock()) == {"jobs ended that are the same as a finished one": 1}
        assert ready.ok("GET", second["url"])["result"] == {"measurement_id": "m"}


class TestLimits:
    @pytest.mark.parametrize(
        ("protocol", "status"),
        [
            ({"rounds": 1, "runs": 1, "min_secs": 0.0, "max_secs": 600.0}, 422),
            ({"rounds": 50, "max_secs": 30.0}, 422),
            ({"rounds": 5, "max_secs": 90.0}, 202),
            ({}, 202),
        ],
    )
    def test_a_users_session_is_bounded(self, ready: Farm, protocol: dict[str, Any], status: int) -> None:
        model_id = ready.upload()
        answer = measure(ready, model_id, **protocol)
        assert answer.status_code == status, answer.text
        if status == 422:
            assert "at most 900 s" in answer.json()["detail"]
            assert measure(ready, model_id, "admin", **protocol).status_code == 202

    def test_a_users_open_jobs_are_bounded(self, make_farm: Any, database_url: str) -> None:  # noqa: ANN401
        farm: Farm = make_farm(database_url=database_url, max_open_jobs=3)
        farm.agent()
        farm.supernet()
        models = [farm.upload(tiny_tflite(float(number))) for number in range(5)]
        made = [measure(farm, model_id).json() for model_id in models[:3]]
        assert measure(farm, models[0]).json() == made[0], "one that is joined takes no more room"
        for path, body in (
            ("/jobs", {"kind": "measure", "device": "host", "model_id": models[3]}),
            ("/search", SEARCH | {"allow_uncalibrated": True}),
            ("/subnets", {"arch": "S1"}),
        ):
            refused = problem(farm.call("POST", path, "user", json=body), 429)
            assert "3 of your jobs" in refused["detail"]
            assert farm.call("POST", path, "admin", json=body).status_code == 202
        assert measure(farm, models[4], "user-2").status_code == 202
        farm.ok("POST", f"{made[0]['url']}/cancel", "user")
        assert measure(farm, models[3]).status_code == 202
        problem(farm.call("POST", f"{made[0]['url']}/retry", "user"), 429)


def test_an_agent_asks_often_without_a_write(any_farm: Farm) -> None:
    """A renewal of a fresh lease changes nothing; a cancelled job is reported at once."""
    answer = any_farm.ok("POST", "/agents/register", "agent", json={"name": "a", "version": "1", "devices": []})
    assert 0 < answer["renew_seconds"] <= 2
    agent_id = any_farm.agent()
    job_id = any_farm.measure_job()
    lease = any_farm.lease(agent_id)
    assert lease is not None
    path, body = f"/leases/{lease['lease_id']}/renew", {"attempt": 1, "progress": {"stage": "measuring"}}
    first = any_farm.ok("POST", path, "agent", json=body)["expires_at"]
    any_farm.clock.pass_seconds(15)
    assert any_farm.ok("POST", path, "agent", json=body)["expires_at"] == first
    reported = any_farm.ok("POST", path, "agent", json=body | {"progress": {"stage": "measuring", "done": 1}})
    assert reported["expires_at"] > first and any_farm.ok("GET", f"/jobs/{job_id}")["progress"]["done"] == 1
    any_farm.clock.pass_seconds(25)
    assert any_farm.ok("POST", path, "agent", json=body)["expires_at"] > reported["expires_at"]
    any_farm.ok("POST", f"/jobs/{job_id}/cancel")
    problem(any_farm.call("POST", path, "agent", json=body), 409)
    assert any_farm.report(lease, session_body()).status_code == 409
