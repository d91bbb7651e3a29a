"""What is decided before a body is read: addresses, methods, tokens, roles, sizes and shapes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from server.services import tokens
from server.wire import Role
from tests.server.server_farm import Farm, problem, session_body, tiny_tflite

ROLES = ("admin", "user", "viewer", "agent")
OPEN = ("/healthz", "/readyz")
READ = {"admin", "user", "viewer"}
CHANGE = {"admin", "user"}
AGENTS = {"admin", "agent"}


def never() -> Iterator[bytes]:
    """A body that must not be read."""
    raise AssertionError("the body was read")
    yield b""


@pytest.mark.parametrize("path", ["/search", "/models", "/leases/x/report", "/agents/register", "/nowhere"])
def test_without_a_token_no_byte_of_a_body_is_read(farm: Farm, path: str) -> None:
    refused = farm.call("POST", path, None, content=never())
    problem(refused, 404 if path == "/nowhere" else 401)
    assert refused.headers["connection"] == "close"
    for token in ("evt_" + "0" * 64, "x", "", "Ж", "a b", "x" * 20_000):
        headers = [(b"Authorization", f"Bearer {token}".encode())]
        assert farm.client.post(path, headers=headers, content=never()).status_code in (401, 404)


def test_with_another_role_no_byte_of_a_body_is_read(farm: Farm) -> None:
    problem(farm.call("POST", "/search", "viewer", content=never()), 403)
    problem(farm.call("POST", "/models", "agent", content=never()), 403)
    problem(farm.call("POST", "/leases/x/report", "user", content=never()), 403)
    problem(farm.call("PUT", "/search", "user", content=never()), 405)


def expected(method: str, path: str) -> set[str]:
    """The roles that may use a route, by the contract."""
    if path.startswith(("/agents", "/leases")):
        return AGENTS
    if path.startswith("/tokens") or path.endswith("/rebind") or (method, path) == ("POST", "/supernets"):
        return {"admin"}
    if path.endswith("/download") or path.startswith("/blobs"):
        return set(ROLES)
    return READ if method == "GET" else CHANGE


@pytest.mark.medium
def test_every_route_takes_the_tokens_of_its_roles_and_no_others(any_farm: Farm) -> None:
    document = any_farm.client.get("/openapi.json").json()
    cells = 0
    for path, methods in document["paths"].items():
        for method in methods:
            url = path.replace("{", "").replace("}", "")
            kind = method.upper()
            if path in OPEN:
                assert any_farm.call(kind, url, None).status_code in (200, 503)
                assert "security" not in methods[method]
                continue
            assert methods[method]["security"] == [{"HTTPBearer": []}]
            assert any_farm.call(kind, url, None).status_code == 401
            for role in ROLES:
                is_refused = "needs a token of role" in any_farm.call(kind, url, role).text
                assert is_refused != (role in expected(kind, path)), (kind, path, role)
                cells += 1
    assert cells > 100


def test_405_names_all_methods_of_an_address(farm: Farm) -> None:
    for method in ("PUT", "HEAD", "OPTIONS", "PATCH", "TRACE"):
        assert farm.call(method, "/models", None).headers["allow"] == "GET, POST"
    assert farm.call("POST", "/models/x", None).headers["allow"] == "GET"
    assert farm.call("GET", "/tokens/x").headers["allow"] == "DELETE"


def test_a_slash_at_the_end_leads_nowhere(farm: Farm) -> None:
    answer = farm.call("GET", "/jobs/", headers={"Host": "evil.example"}, follow_redirects=False)
    problem(answer, 404)
    assert "location" not in answer.headers
    problem(farm.call("GET", "/models/%00"), 404)


def test_a_revoked_token_is_refused_at_once(any_farm: Farm) -> None:
    made = any_farm.ok("POST", "/tokens", json={"name": "gone", "role": "viewer"})
    headers = {"Authorization": f"Bearer {made['token']}"}
    for _ in range(3):
        assert any_farm.client.get("/jobs", headers=headers).status_code == 200
    any_farm.ok("DELETE", f"/tokens/{made['id']}")
    problem(any_farm.client.get("/jobs", headers=headers), 401)


def test_a_token_of_another_process_is_known_at_once(any_farm: Farm) -> None:
    with any_farm.database.write() as session:
        secret = tokens.create(session, "other", Role.VIEWER, any_farm.clock()).token
    assert any_farm.client.get("/jobs", headers={"Authorization": f"bearer {secret}"}).status_code == 200


def test_two_authorizations_are_none(farm: Farm) -> None:
    secret = farm.secret("admin")
    twice = [("Authorization", f"Bearer {secret}"), ("Authorization", f"Bearer {secret}")]
    problem(farm.client.get("/jobs", headers=twice), 401)
    problem(farm.client.get(f"/jobs?token={secret}&access_token={secret}"), 401)


@pytest.mark.parametrize(
    ("role", "path", "most"),
    [
        ("user", "/search", 64_000),
        ("user", "/jobs", 64_000),
        ("agent", "/leases", 64_000),
        ("agent", "/agents/register", 512_000),
        ("agent", "/agents/heartbeat", 512_000),
        ("agent", "/leases/x/report", 16_000_000),
        ("admin", "/tokens", 64_000),
    ],
)
def test_each_route_has_its_limit(farm: Farm, role: str, path: str, most: int) -> None:
    assert farm.call("POST", path, role, content=b"[" + b" " * (most - 2) + b"]").status_code == 422
    announced = {"Content-Length": str(most + 1)}
    problem(farm.call("POST", path, role, content=never(), headers=announced), 413)
    pieces = (b" " * 10_000 for _ in range(most // 10_000 + 1))
    problem(farm.call("POST", path, role, content=pieces), 413)


def test_a_body_that_nobody_asked_for_is_bounded_too(farm: Farm) -> None:
    for method, path in (("POST", "/jobs/x/cancel"), ("DELETE", "/tokens/x")):
        announced = {"Content-Length": "100000000"}
        problem(farm.call(method, path, content=never(), headers=announced), 413)
        problem(farm.call(method, path, content=b"{}"), 404)


def test_max_body_mb_bounds_reports(make_farm: Callable[..., Farm]) -> None:
    farm = make_farm(max_body_mb=0.01)
    farm.agent()
    farm.measure_job()
    lease = farm.lease(farm.agent())
    assert lease is not None
    body: dict[str, Any] = session_body()
    problem(farm.report(lease, body | {"conditions": {"x": "y" * 20_000}}), 413)
    assert farm.report(lease, body).status_code == 200


@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate, gzip", "x"])
def test_encoded_bodies_are_415(farm: Farm, encoding: str) -> None:
    headers = {"Content-Encoding": encoding}
    problem(farm.call("POST", "/search", "user", content=never(), headers=headers), 415)
    problem(farm.call("POST", "/models", "user", content=never(), headers=headers), 415)
    plain = {"Content-Encoding": "identity"}
    assert farm.call("POST", "/models", "user", content=tiny_tflite(), headers=plain).status_code == 201


@pytest.mark.parametrize("text", ['{"a":' * 300 + "1" + "}" * 300, "[" * 30_000, '[{"a":' * 5000])
@pytest.mark.parametrize("path", ["/search", "/leases/x/report", "/agents/heartbeat"])
def test_json_that_nests_deep_is_422(farm: Farm, path: str, text: str) -> None:
    headers = {"Content-Type": "application/json"}
    answer = farm.call("POST", path, "admin", content=text, headers=headers)
    assert "nests deeper" in problem(answer, 422)["detail"]


def test_json_of_too_many_values_is_422_before_it_is_parsed(farm: Farm) -> None:
    text = b'{"a":[' + b"[]," * 2_000_000 + b"[]]}"
    answer = farm.call("POST", "/leases/x/report", "agent", content=text, headers={"Content-Type": "application/json"})
    assert "more than" in problem(answer, 422)["detail"]


def test_a_refusal_is_counted_by_its_route(farm: Farm) -> None:
    farm.call("GET", "/models/m-1", None)
    farm.call("GET", "/nowhere/1", None)
    text = farm.call("GET", "/metrics").text
    assert 'route="/models/{model_id}",status="401"' in text and 'route="unknown",status="404"' in text
    assert "nowhere" not in text and "m-1" not in text
