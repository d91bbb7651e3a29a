"""What cannot be an architecture of the supernet is refused by POST, before anything is queued."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from elasticvit.archs.published import published
from elasticvit.archs.space import small
from tests.elasticvit.training.tiny_training import tiny_space
from tests.server.server_farm import Farm, problem
from tests.server.supernet_files import supernet_file

TINY = json.loads(tiny_space().smallest().to_json())
DEEP: Any = 1
for _ in range(200):
    DEEP = [DEEP]
NONSENSE: dict[str, Any] = {
    "a word": "nonsense",
    "an id that nobody has": "0123456789ab",
    "blank": "   ",
    "half of JSON": '{"resolution": 32',
    "digits": "9" * 20_000,
    "an empty object": {},
    "an empty list": [],
    "an unknown field": {**TINY, "extra": 1},
    "a missing field": {name: value for name, value in TINY.items() if name != "vit"},
    "a text for a number": {**TINY, "resolution": "32"},
    "a truth for a number": {**TINY, "resolution": True},
    "a fraction": {**TINY, "resolution": 32.0},
    "a huge number": {**TINY, "resolution": 10**400},
    "a huge text": {**TINY, "resolution": "x" * 50_000},
    "a list for an object": {**TINY, "stem": [1, 2]},
    "null": {**TINY, "stem": None},
    "too many blocks": {**TINY, "stem": {**TINY["stem"], "blocks": TINY["stem"]["blocks"] * 1000}},
    "nested": {**TINY, "vit": DEEP},
    "a nested list": DEEP,
    "ten nothings": [None] * 10,
    "ten texts": ["a"] * 10,
    "huge depths": [32, [8] * 7, [10**9] * 7, *[[1]] * 7],
    "endless depths": [32, [8] * 7, [1e308] * 7, *[[1]] * 7],
    "negative depths": [32, [8] * 7, [-1] * 7, *[[]] * 7],
    "a long list": list(range(9_000)),
    "of another space": json.loads(small().largest().to_json()),
    "of the paper's space": published("S1").to_moonlit(),
    "a published name of another space": "S1",
}


@pytest.fixture(scope="module")
def tiny_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return supernet_file(tmp_path_factory.mktemp("supernet") / "tiny.safetensors")


@pytest.fixture
def tiny(farm: Farm, tiny_file: Path) -> Farm:
    farm.ok("POST", "/supernets", json={"path": str(tiny_file)})
    return farm


def test_nonsense_is_refused_and_named(tiny: Farm) -> None:
    for name, arch in NONSENSE.items():
        answer = tiny.call("POST", "/subnets", "user", json={"arch": arch, "supernet": "tiny"})
        assert answer.status_code in (404, 422), f"{name}: {answer.status_code} {answer.text[:300]}"
        assert 0 < len(problem(answer, answer.status_code)["detail"]) < 3000, name
    assert tiny.ok("GET", "/jobs")["items"] == []


def test_the_space_of_a_supernet_may_be_known_by_its_name_only(farm: Farm) -> None:
    farm.supernet()  # of the paper's space, by name
    assert farm.call("POST", "/subnets", "user", json={"arch": "S1"}).status_code == 202
    for arch in (TINY, json.loads(small(10).largest().to_json())):
        refused = problem(farm.call("POST", "/subnets", "user", json={"arch": arch}), 422)
        assert "does not contain this architecture" in refused["detail"]


@pytest.mark.parametrize(("bound", "smallest"), [("max_macs", 1), ("max_size_mb", 0.001)])
def test_a_size_that_no_network_has_is_refused(tiny: Farm, bound: str, smallest: float) -> None:
    tiny.agent()
    body = {"device": "host", "budget": {"latency_ms": 5.0}, "allow_uncalibrated": True, "supernet": "tiny"}
    refused = problem(tiny.call("POST", "/search", "user", json=body | {bound: smallest}), 422)
    assert refused["binding"] == bound and refused["smallest"] > smallest and bound in refused["detail"]
    enough = int(refused["smallest"]) + 1
    assert tiny.call("POST", "/search", "user", json=body | {bound: enough}).status_code == 202
