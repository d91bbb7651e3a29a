"""A service whose device was never measured."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server.server_farm import problem
from tests.service.conftest import copy
from tests.service.service_farm import Service, agent_command, elasticvit, free_port


@pytest.fixture
def uncalibrated(bare_home: Path, tmp_path: Path) -> Iterator[Service]:
    """Server and worker on a home without measurements; `up` would calibrate it."""
    service = Service(copy(bare_home, tmp_path / "home"), free_port())
    try:
        service.start(*elasticvit("serve"))
        service.start(*elasticvit("worker"))
        service.wait_serving()
        yield service
    finally:
        service.end()


@pytest.mark.slow
def test_before_calibration_only_an_explicit_estimate_is_given(uncalibrated: Service) -> None:
    body = {"device": "host", "budget": {"latency_ms": 20.0}}
    unknown = problem(uncalibrated.call("POST", "/search", json=body), 404)
    assert "start an agent" in unknown["detail"]
    uncalibrated.start(*agent_command(uncalibrated.home, uncalibrated.port))
    uncalibrated.wait_idle()
    refused = problem(uncalibrated.call("POST", "/search", json=body), 409)
    assert "calibrate" in refused["detail"] and "allow_uncalibrated" in refused["detail"]
    assert uncalibrated.ok("GET", "/searches")["items"] == []

    result = uncalibrated.search(20.0, allow_uncalibrated=True, verify=True)
    latency = result["models"][0]["latency"]["host"]
    assert result["predictor"] is None and latency["calibrated"] is False
    assert latency["upper_ms"] <= 20.0 and latency["verified"] is False
    assert latency["measured_ms"] is None and latency["measured_raw_ms"] > 0
    assert result["models"][0]["accuracy"]["source"] == "measured"

    url = uncalibrated.ask(1e-6, allow_uncalibrated=True)
    hopeless = uncalibrated.wait(url)
    assert hopeless["status"] == "failed" and hopeless["error"]["kind"] == "user"
    assert "latency_ms" in hopeless["error"]["detail"]
    uncalibrated.stop()
