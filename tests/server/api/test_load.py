"""What keeps the service quick under load: short pages, ETags, requests and streams that wait on events.

Farms never look for lost hints (`look_seconds` is an hour): whoever is woken here, is woken by an event.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from anyio.to_thread import run_sync

from server.api import waits
from server.api.app import create_app
from server.services import claims, job_ends, jobs, quick_measure, submissions
from server.services.askers import SERVICE
from server.settings import Settings
from server.store.tables import Job
from server.wire import JobKind, JobRequest, JobStatus, Progress
from tests.server.server_farm import Farm, TestClient, describe, problem

PATIENCE_SECONDS = 60.0
LONG = "x" * 40_000  # a result as long as that of a search


def finished_jobs(farm: Farm, number: int, result: dict[str, Any] | None = None) -> list[str]:
    with farm.database.write() as session:
        made = [
            jobs.add_done(
                session, kind=JobKind.SUBNET, now=farm.clock(), payload={"arch": LONG}, result=result or {"long": LONG}
            )
            for _ in range(number)
        ]
        return [job.id for job in made]


def queued_job(farm: Farm) -> str:
    with farm.database.write() as session:
        return jobs.enqueue(session, kind=JobKind.SUBNET, now=farm.clock()).id


@pytest.mark.parametrize("max_results", [50, 200])
def test_a_page_of_jobs_is_short_and_the_next_one_goes_on(any_farm: Farm, max_results: int) -> None:
    made = finished_jobs(any_farm, 230)
    seen: list[str] = []
    query: dict[str, Any] = {"max_results": max_results}
    while True:
        answer = any_farm.call("GET", "/jobs", "viewer", params=query)
        assert answer.status_code == 200 and len(answer.content) < 64_000
        page = answer.json()
        assert all(item["result"] is None and item["status"] == "succeeded" for item in page["items"])
        seen += [item["id"] for item in page["items"]]
        if page["next_page_token"] is None:
            break
        query["page_token"] = page["next_page_token"]
    assert sorted(seen) == sorted(made) and seen == sorted(made, reverse=True)
    assert any_farm.ok("GET", f"/jobs/{made[0]}", "viewer")["result"] == {"long": LONG}


def test_a_list_shows_a_job_as_it_is_now(any_farm: Farm) -> None:
    job_id = queued_job(any_farm)
    assert any_farm.ok("GET", "/jobs")["items"][0]["status"] == "queued"
    any_farm.ok("POST", f"/jobs/{job_id}/cancel")
    assert any_farm.ok("GET", "/jobs")["items"][0]["status"] == "cancelled"
    assert any_farm.ok("GET", "/jobs", params={"status": "queued"})["items"] == []


def test_a_page_of_models_leaves_out_manifests(any_farm: Farm) -> None:
    model_id = any_farm.upload()
    [item] = any_farm.ok("GET", "/models", "viewer")["items"]
    whole = any_farm.ok("GET", f"/models/{model_id}", "viewer")
    assert item == whole | {"manifest": None, "arch": None} and whole["manifest"]


def test_who_has_a_thing_gets_304_until_it_changes(any_farm: Farm) -> None:
    job_id = queued_job(any_farm)
    path = f"/jobs/{job_id}"
    first = any_farm.call("GET", path, "viewer")
    tag = first.headers["etag"]
    for held in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        same = any_farm.call("GET", path, "viewer", headers={"If-None-Match": held})
        assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", tag)
    any_farm.ok("POST", f"{path}/cancel")
    changed = any_farm.call("GET", path, "viewer", headers={"If-None-Match": tag})
    assert changed.status_code == 200 and changed.headers["etag"] != tag and changed.json()["status"] == "cancelled"
    again = any_farm.call("GET", path, "viewer")  # now from what was made before
    assert again.json() == changed.json() and again.headers["etag"] == changed.headers["etag"]


def test_an_unknown_thing_and_a_wrong_role_are_refused_as_before(any_farm: Farm) -> None:
    job_id = queued_job(any_farm)
    any_farm.ok("GET", f"/jobs/{job_id}", "viewer")  # kept from here on
    problem(any_farm.call("GET", "/jobs/job-x", "viewer"), 404)
    problem(any_farm.call("GET", f"/jobs/{job_id}", "agent"), 403)
    problem(any_farm.call("GET", f"/jobs/{job_id}", None), 401)
    problem(any_farm.call("GET", f"/jobs/{job_id}/events", "agent"), 403)
    problem(any_farm.call("GET", "/searches/search-x/events", "viewer"), 404)
    problem(any_farm.call("GET", f"/jobs/{job_id}?wait_seconds=31", "viewer"), 422)


def later(work: Callable[[], None]) -> threading.Thread:
    """Does the work when a request is likely to wait already; it is right in either order."""

    def run() -> None:
        time.sleep(0.3)
        work()

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def finish(farm: Farm, job_id: str) -> None:
    with farm.database.write() as session:
        claimed = claims.claim_compute(session, "a-worker", (JobKind.SUBNET,), farm.clock())
        assert claimed is not None and claimed.job.id == job_id
        job_ends.finish(session, claimed.lease_id, claimed.attempt, {"done": True}, farm.clock())


def test_a_request_that_waits_is_answered_by_the_event(any_farm: Farm) -> None:
    job_id = queued_job(any_farm)
    thread = later(lambda: finish(any_farm, job_id))
    assert any_farm.ok("GET", f"/jobs/{job_id}?wait_seconds=30", "viewer")["status"] == "succeeded"
    thread.join()


def test_a_request_that_waits_is_answered_in_time_without_an_event(any_farm: Farm) -> None:
    job_id = queued_job(any_farm)
    assert any_farm.ok("GET", f"/jobs/{job_id}?wait_seconds=0.2", "viewer")["status"] == "queued"
    tag = any_farm.call("GET", f"/jobs/{job_id}", "viewer").headers["etag"]
    same = any_farm.call("GET", f"/jobs/{job_id}?wait_seconds=0.2", "viewer", headers={"If-None-Match": tag})
    assert same.status_code == 304


def test_an_agent_that_waits_gets_the_job_by_the_event(any_farm: Farm) -> None:
    agent_id = any_farm.agent()
    model_id = any_farm.upload()
    body = {"kind": "measure", "device": "host", "model_id": model_id}
    any_farm.secret("user")
    thread = later(lambda: any_farm.ok("POST", "/jobs", "user", json=body))
    lease = any_farm.ok(
        "POST", "/leases", "agent", json={"agent_id": agent_id, "devices": ["host"], "wait_seconds": 30}
    )
    thread.join()
    assert lease["device"] == "host"
    # Nothing else is queued: without wait_seconds the answer comes at once.
    assert any_farm.lease(agent_id) is None


def test_registering_says_how_long_a_lease_may_be_waited_for(farm: Farm) -> None:
    body = {"name": "beside-host", "version": "1", "devices": [describe("host")]}
    # Its beginning counts as a heartbeat: the next one must begin before the device counts as offline, after 30 s.
    assert farm.ok("POST", "/agents/register", "agent", json=body)["wait_seconds"] == 25.0


def events(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    """The views of a stream of `status` events."""
    for line in lines:
        if line.startswith("data: "):
            yield json.loads(line.removeprefix("data: "))


def test_events_follow_a_job_to_its_end(any_farm: Farm) -> None:
    job_id = queued_job(any_farm)
    with any_farm.database.write() as session:
        claimed = claims.claim_compute(session, "a-worker", (JobKind.SUBNET,), any_farm.clock())
        assert claimed is not None

    def go_on() -> None:
        with any_farm.database.write() as session:
            progress = Progress(stage="half", done=1, total=2)
            claims.renew(session, claimed.lease_id, claimed.attempt, any_farm.clock(), 60, progress)

    def end() -> None:
        with any_farm.database.write() as session:
            job_ends.finish(session, claimed.lease_id, claimed.attempt, {"done": True}, any_farm.clock())

    async def follow() -> list[dict[str, Any]]:
        state = any_farm.state
        stream = waits.stream(state.watch, state.things.jobs, job_id, job_id, None)
        seen = [await anext(stream) for _ in range(2)]  # how soon to come back, and the job as it is
        for work in (go_on, end):
            await run_sync(work)
            seen.append(await anext(stream))
        assert [chunk async for chunk in stream] == []
        return list(events(iter(b"".join(seen).decode().splitlines())))

    views = any_farm.client.portal.call(follow)  # type: ignore[union-attr]
    assert [view["status"] for view in views] == ["leased", "running", "succeeded"]
    assert views[1]["progress"]["stage"] == "half" and views[2]["result"] == {"done": True}


def test_who_comes_back_to_the_events_gets_only_what_changed(any_farm: Farm) -> None:
    [job_id] = finished_jobs(any_farm, 1)
    first = any_farm.call("GET", f"/jobs/{job_id}/events", "viewer").text
    [last] = [line.removeprefix("id: ") for line in first.splitlines() if line.startswith("id: ")]
    headers = {"Last-Event-ID": last}
    assert (
        list(events(iter(any_farm.call("GET", f"/jobs/{job_id}/events", "viewer", headers=headers).text.split("\n"))))
        == []
    )
    other = any_farm.call("GET", f"/jobs/{job_id}/events", "viewer", headers={"Last-Event-ID": "of another server"})
    assert len(list(events(iter(other.text.splitlines())))) == 1


def test_two_servers_of_one_database_wake_each_other(any_farm: Farm, database_url: str) -> None:
    settings = Settings(home=any_farm.home, database_url=database_url, sweep_seconds=3600, look_seconds=3600)
    app = create_app(settings, any_farm.clock)
    with TestClient(app) as client:
        other = Farm(client=client, clock=any_farm.clock, home=any_farm.home, state=app.state.server)
        for farm in (any_farm, other):
            listener = farm.database.hints.postgres
            assert listener is None or listener.listening(PATIENCE_SECONDS)
        for here, there in ((any_farm, other), (other, any_farm)):
            job_id = queued_job(here)
            here.secret("user"), there.secret("viewer")
            thread = later(lambda here=here, job_id=job_id: here.ok("POST", f"/jobs/{job_id}/cancel"))  # type: ignore[misc]
            assert there.ok("GET", f"/jobs/{job_id}?wait_seconds=30", "viewer")["status"] == JobStatus.CANCELLED
            thread.join()


def test_a_measurement_is_queued_alike_by_the_quick_and_the_thorough_way(any_farm: Farm) -> None:
    any_farm.agent()
    body = JobRequest(kind=JobKind.MEASURE, device="host", model_id=any_farm.upload())
    plan = quick_measure.Plan.of(body)
    assert plan is not None
    work = submissions.DeviceWork(JobKind.MEASURE, "host", plan.payload, plan.model_id, quick_measure.MEASURE_PRIORITY)
    wanted = quick_measure.Wanted(plan, any_farm.clock(), 3, SERVICE)
    stored = []
    for quick in (True, False):
        with any_farm.database.write() as session:
            way = quick_measure.queue(session, wanted) if quick else None
            job_id = (way or submissions.queue_or_join(session, work, wanted.now, 3, SERVICE)).id
        stored.append(jobs_row(any_farm, job_id))
        # While it is open, both ways answer an equal request with it.
        with any_farm.database.write() as session:
            assert quick_measure.queue(session, wanted) == submissions.submit(session, body, wanted.now, 3, SERVICE)
            assert submissions.queue_or_join(session, work, wanted.now, 3, SERVICE).id == job_id
        any_farm.ok("POST", f"/jobs/{job_id}/cancel")
    assert stored[0] == stored[1]


def jobs_row(farm: Farm, job_id: str) -> dict[str, Any]:
    with farm.database.read() as session:
        return session.get_one(Job, job_id).model_dump(exclude={"id"})


def test_heartbeats_that_say_nothing_new_are_written_together(any_farm: Farm) -> None:
    agent_id = any_farm.agent()
    beat = {"agent_id": agent_id, "devices": [{"name": "host", "state": "busy", "conditions": {"load": 1}}]}
    any_farm.ok("POST", "/agents/heartbeat", "agent", json=beat)
    assert any_farm.ok("GET", "/devices/host")["state"] == "busy"  # a change is written at once
    any_farm.clock.pass_seconds(5)
    any_farm.ok("POST", "/agents/heartbeat", "agent", json=beat)
    any_farm.client.portal.call(any_farm.state.heartbeats.flush)  # type: ignore[union-attr]
    seen = any_farm.ok("GET", "/devices/host")["last_seen_at"]
    assert seen == any_farm.clock().isoformat().replace("+00:00", "Z")
    for _ in range(8):  # more than the time after which a device is offline
        any_farm.clock.pass_seconds(5)
        any_farm.ok("POST", "/agents/heartbeat", "agent", json=beat)
    # What is overdue is written soon, with all that comes meanwhile.
    deadline_s = time.monotonic() + PATIENCE_SECONDS
    while any_farm.ok("GET", "/devices/host")["state"] != "busy":
        assert time.monotonic() < deadline_s
        time.sleep(0.1)


def test_a_heartbeat_of_an_agent_that_lost_its_device_is_refused(any_farm: Farm) -> None:
    first = any_farm.agent("one")
    beat = {"agent_id": first, "devices": [{"name": "host", "state": "idle"}]}
    any_farm.ok("POST", "/agents/heartbeat", "agent", json=beat)
    any_farm.agent("two")  # of the same token: it has the device now
    problem(any_farm.call("POST", "/agents/heartbeat", "agent", json=beat), 404)


def test_heartbeats_of_another_token_are_refused_whatever_is_known(any_farm: Farm) -> None:
    agent_id = any_farm.agent()
    beat = {"agent_id": agent_id, "devices": [{"name": "host", "state": "idle"}]}
    any_farm.ok("POST", "/agents/heartbeat", "agent", json=beat)
    problem(any_farm.call("POST", "/agents/heartbeat", "agent-2", json=beat), 403)
    problem(any_farm.call("POST", "/leases", "agent-2", json={"agent_id": agent_id, "devices": ["host"]}), 403)


def test_agents_of_a_new_kind_of_device_register_at_once(any_farm: Farm) -> None:
    any_farm.secret("agent")
    with ThreadPoolExecutor(8) as pool:
        ids = list(pool.map(lambda number: any_farm.agent(f"agent-{number}", (f"phone-{number}",)), range(8)))
    assert len(set(ids)) == 8 and len(any_farm.ok("GET", "/profiles")["items"]) == 1
