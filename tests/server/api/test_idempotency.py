"""Idempotency-Key on every route that creates something, on both databases."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlmodel import func, select

from server.services import idempotency
from server.store.tables import IdempotencyKey
from tests.server.server_farm import Farm, problem, tiny_tflite
from tests.server.supernet_files import supernet_file


@pytest.fixture
def ready(any_farm: Farm) -> Farm:
    any_farm.agent()
    any_farm.supernet()
    return any_farm


def keyed(key: str) -> dict[str, str]:
    return {"Idempotency-Key": key}


def test_a_job_is_queued_once(ready: Farm) -> None:
    body = {"kind": "measure", "device": "host", "model_id": ready.upload()}
    first = ready.call("POST", "/jobs", "user", json=body, headers=keyed("k"))
    ready.ok("POST", f"{first.json()['url']}/cancel", "user")
    again = ready.call("POST", "/jobs", "user", json=body, headers=keyed("k"))
    assert again.status_code == first.status_code == 202 and again.json() == first.json()
    assert again.headers["location"] == first.headers["location"]
    problem(ready.call("POST", "/jobs", "user", json=body | {"protocol": {"rounds": 2}}, headers=keyed("k")), 422)
    assert ready.ok("POST", "/jobs", "user", json=body)["id"] != first.json()["id"]


def test_a_file_is_uploaded_once(ready: Farm) -> None:
    content = tiny_tflite(1.5)
    first, again = (ready.call("POST", "/models", "user", content=content, headers=keyed("k")) for _ in range(2))
    assert first.status_code == again.status_code == 201 and first.json() == again.json()
    problem(ready.call("POST", "/models", "user", content=tiny_tflite(2.5), headers=keyed("k")), 422)
    problem(ready.call("POST", "/models?name=other", "user", content=content, headers=keyed("k")), 422)
    assert ready.ok("POST", "/models", "user", content=content)["id"] != first.json()["id"]
    assert ready.ok("POST", "/models", "admin", content=content, headers=keyed("k"))["id"] != first.json()["id"]


def test_a_token_is_made_once_and_its_secret_is_not_kept(ready: Farm) -> None:
    body = {"name": "mine", "role": "user"}
    made = ready.ok("POST", "/tokens", json=body, headers=keyed("k"))
    refused = problem(ready.call("POST", "/tokens", json=body, headers=keyed("k")), 409)
    assert made["id"] in refused["detail"] and made["token"] not in refused["detail"]
    problem(ready.call("POST", "/tokens", json=body | {"name": "other"}, headers=keyed("k")), 422)
    assert [token["name"] for token in ready.ok("GET", "/tokens")["items"]].count("mine") == 1
    with ready.database.read() as session:
        assert made["token"] not in str([row.answer for row in session.exec(select(IdempotencyKey))])


def test_a_supernet_is_added_once(ready: Farm, tmp_path: Path) -> None:
    file = supernet_file(tmp_path / "tiny.safetensors")
    first = ready.call("POST", "/supernets", json={"path": str(file)}, headers=keyed("k"))
    file.unlink()
    again = ready.call("POST", "/supernets", json={"path": str(file)}, headers=keyed("k"))
    assert first.status_code == again.status_code == 201 and first.json() == again.json()
    assert again.headers["location"] == "/supernets/tiny"
    problem(ready.call("POST", "/supernets", json={"path": "/elsewhere"}, headers=keyed("k")), 422)


def test_of_requests_at_the_same_time_one_makes_the_thing(ready: Farm) -> None:
    body = {"arch": "S1"}

    def post(_number: int) -> Any:  # noqa: ANN401
        return ready.call("POST", "/subnets", "user", json=body, headers=keyed("k"))

    ready.secret("user")
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(post, range(8)))
    assert [answer.status_code for answer in answers] == [202] * 8
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert len(ready.ok("GET", "/jobs")["items"]) == 1


def test_keys_expire_and_are_bounded(ready: Farm, monkeypatch: pytest.MonkeyPatch) -> None:
    first = ready.ok("POST", "/subnets", "user", json={"arch": "S1"}, headers=keyed("old"))
    ready.clock.now += timedelta(days=idempotency.KEPT_DAYS, seconds=1)
    for number in range(5):
        ready.clock.pass_seconds(1)
        ready.ok("POST", "/subnets", "user", json={"arch": "S1"}, headers=keyed(f"new-{number}"))
    monkeypatch.setattr(idempotency, "MAX_KEYS", 3)
    with ready.database.write() as session:
        assert idempotency.sweep(session, ready.clock()) == 3
        assert idempotency.sweep(session, ready.clock()) == 0
        assert session.exec(select(func.count()).select_from(IdempotencyKey)).one() == 3
    assert ready.ok("POST", "/subnets", "user", json={"arch": "S1"}, headers=keyed("old"))["id"] != first["id"]
