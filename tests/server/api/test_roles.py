"""Which role may do what: every route of the OpenAPI document with every kind of token, over HTTP.

A new route needs an entry in `ALLOWED`. Tokens are checked before bodies: what is sent here is valid nowhere.
"""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.server.server_farm import Farm, problem

ROLES = ("admin", "user", "viewer", "agent")
ANYBODY = frozenset(("nobody", *ROLES))
READ = frozenset(("admin", "user", "viewer"))
WORK = frozenset(("admin", "user"))
AGENTS = frozenset(("admin", "agent"))
ADMIN = frozenset(("admin",))
# An agent downloads only the files of the leases that it holds; here it holds none. See test_device_owners.
DOWNLOAD = READ
ALLOWED: dict[tuple[str, str], frozenset[str]] = {
    ("GET", "/healthz"): ANYBODY,
    ("GET", "/readyz"): ANYBODY,
    ("GET", "/metrics"): READ,
    ("POST", "/search"): WORK,
    ("GET", "/searches"): READ,
    ("GET", "/searches/{search_id}"): READ,
    ("GET", "/searches/{search_id}/events"): READ,
    ("POST", "/searches/{search_id}/cancel"): WORK,
    ("POST", "/subnets"): WORK,
    ("POST", "/models"): WORK,
    ("GET", "/models"): READ,
    ("GET", "/models/{model_id}"): READ,
    ("GET", "/models/{model_id}/download"): DOWNLOAD,
    ("GET", "/blobs/{sha256}"): DOWNLOAD,
    ("GET", "/supernets"): READ,
    ("POST", "/supernets"): ADMIN,
    ("GET", "/supernets/{name}"): READ,
    ("POST", "/jobs"): WORK,
    ("GET", "/jobs"): READ,
    ("GET", "/jobs/{job_id}"): READ,
    ("GET", "/jobs/{job_id}/events"): READ,
    ("POST", "/jobs/{job_id}/cancel"): WORK,
    ("POST", "/jobs/{job_id}/retry"): WORK,
    ("GET", "/devices"): READ,
    ("GET", "/devices/{name}"): READ,
    ("POST", "/devices/{name}/rebind"): ADMIN,
    ("GET", "/profiles"): READ,
    ("GET", "/profiles/{profile_id}"): READ,
    ("GET", "/predictors"): READ,
    ("GET", "/predictors/{predictor_id}"): READ,
    ("GET", "/measurements"): READ,
    ("GET", "/measurements/{measurement_id}"): READ,
    ("POST", "/tokens"): ADMIN,
    ("GET", "/tokens"): ADMIN,
    ("DELETE", "/tokens/{token_id}"): ADMIN,
    ("POST", "/agents/register"): AGENTS,
    ("POST", "/agents/heartbeat"): AGENTS,
    ("POST", "/leases"): AGENTS,
    ("POST", "/leases/{lease_id}/renew"): AGENTS,
    ("POST", "/leases/{lease_id}/report"): AGENTS,
}
IDS = {"sha256": "0" * 64}


def routes(farm: Farm) -> set[tuple[str, str]]:
    document = farm.client.get("/openapi.json").json()
    return {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}


def call(farm: Farm, route: tuple[str, str], authorization: str | None) -> Any:  # noqa: ANN401
    method, path = route
    address = re.sub(r"\{(\w+)\}", lambda match: IDS.get(match[1], "unknown"), path)
    body = {"nonsense": 1} if method == "POST" else None
    headers = {} if authorization is None else {"Authorization": authorization}
    return farm.client.request(method, address, headers=headers, json=body)


def test_every_route_is_in_the_matrix(farm: Farm) -> None:
    assert routes(farm) == set(ALLOWED)


def test_every_role_may_do_what_the_matrix_says_and_nothing_else(any_farm: Farm) -> None:
    wrong = []
    for route, allowed in ALLOWED.items():
        for role in ROLES:
            secret = any_farm.secret(role)
            answer = call(any_farm, route, f"Bearer {secret}")
            assert secret not in answer.text, "a token is never sent back"
            if answer.status_code >= 500 and route != ("GET", "/readyz"):
                wrong.append(f"{role} {route}: {answer.status_code}")
            if (role in allowed) == (answer.status_code in (401, 403)):
                wrong.append(f"{role} {route}: {answer.status_code}")
            elif role not in allowed:
                problem(answer, 403)
    assert wrong == []


@pytest.mark.parametrize("kind", ["none", "unknown", "basic", "malformed", "empty", "revoked"])
def test_without_a_valid_token_nothing_is_allowed_but_health(farm: Farm, kind: str) -> None:
    made = farm.ok("POST", "/tokens", json={"name": "gone", "role": "admin"})
    farm.ok("DELETE", f"/tokens/{made['id']}")
    authorization = {
        "none": None,
        "unknown": "Bearer evt_" + "0" * 64,
        "basic": "Basic YWRtaW46YWRtaW4=",
        "malformed": f"Bearer {farm.secret('admin')} and more",
        "empty": "Bearer ",
        "revoked": f"Bearer {made['token']}",
    }[kind]
    for route, allowed in ALLOWED.items():
        answer = call(farm, route, authorization)
        if "nobody" in allowed:
            assert answer.status_code in (200, 503), route
        else:
            assert problem(answer, 401), route
            assert answer.headers["www-authenticate"] == "Bearer"
