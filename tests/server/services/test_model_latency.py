"""The known latencies of a model are in its manifest and its card."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest

from elasticvit.archs.space import small
from elasticvit.export import export_net
from elasticvit.nn.random_net import random_net
from server.services import model_latency, models, predictors
from server.wire import LatencyAnswer, ModelSource
from tests.server.server_farm import Farm, session_body

PREDICTED = LatencyAnswer(
    predicted_ms=1.9, lower_ms=1.7, upper_ms=2.1, confidence=0.9, statistic="p50", calibrated=True
)


@pytest.fixture
def model_id(farm: Farm) -> str:
    return _stored(farm, "float32")


def _stored(farm: Farm, precision: str, source: ModelSource = "search") -> str:
    exported = export_net(random_net(small().smallest(), seed=len(precision)), None)
    with farm.database.write() as session:
        file = models.store_bytes(farm.blobs, exported.tflite)
        manifest = json.loads(exported.manifest.to_json()) | {"precision": precision}
        return models.add(session, models.NewModel(file, source, manifest, precision=precision), farm.clock()).id


def _latency(farm: Farm, model_id: str) -> Any:  # noqa: ANN401
    return farm.ok("GET", f"/models/{model_id}/download?format=manifest")["latency"]


def _measure(farm: Farm, agent_id: str, model_id: str, **body: Any) -> None:  # noqa: ANN401
    _report(farm, agent_id, model_id, session_body(**body))


def _report(farm: Farm, agent_id: str, model_id: str, body: dict[str, Any]) -> None:
    farm.ok("POST", "/jobs", "user", json={"kind": "measure", "device": "host", "model_id": model_id})
    lease = farm.lease(agent_id)
    assert lease is not None and farm.report(lease, body).status_code == 200


@pytest.mark.medium
def test_a_prediction_and_a_measurement_meet_in_one_entry(farm: Farm, model_id: str) -> None:
    predictor_id = farm.predictor(farm.supernet())
    with farm.database.write() as session:
        predictors_profile = predictors.get(session, predictor_id).profile_id
        model_latency.add_predicted(session, model_id, "host", predictors_profile, PREDICTED)
    _measure(farm, farm.agent(), model_id, model_ms=2.0)
    p50, p90 = _latency(farm, model_id)
    assert (p50["device"], p50["profile"], p50["statistic"]) == ("host", predictors_profile, "p50")
    assert (p50["predicted_ms"], p50["upper_ms"], p50["confidence"]) == (1.9, 2.1, 0.9)
    assert p50["measured_ms"] == pytest.approx(2.0, rel=0.01)
    assert p90["statistic"] == "p90" and "predicted_ms" not in p90
    card = farm.call("GET", f"/models/{model_id}/download?format=card").text
    assert "| host |" in card and "1.700 to 2.100" in card


def test_concurrent_updates_of_a_manifest_are_both_kept(any_farm: Farm) -> None:
    """Neither transaction overwrites what the other one wrote in the meantime."""
    model_id = _stored(any_farm, "float32")
    both = threading.Barrier(2)

    def add(device: str) -> None:
        both.wait(30)
        for number in range(10):
            with any_farm.database.write() as session:
                models.get(session, model_id)
                model_latency.add_predicted(session, model_id, f"{device}{number}", None, PREDICTED)

    threads = [threading.Thread(target=add, args=(device,)) for device in ("a", "b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(_latency(any_farm, model_id)) == 20


@pytest.mark.medium
def test_a_later_word_replaces_an_earlier_one(farm: Farm, model_id: str) -> None:
    farm.predictor(farm.supernet())
    agent_id = farm.agent()
    _measure(farm, agent_id, model_id, model_ms=2.0)
    _measure(farm, agent_id, model_id, model_ms=3.0)
    assert [round(row["measured_ms"], 1) for row in _latency(farm, model_id)] == [3.0, 3.0]


@pytest.mark.medium
def test_what_is_unstable_emulated_or_uncalibrated_is_not_in_the_manifest(farm: Farm, model_id: str) -> None:
    farm.predictor(farm.supernet())
    agent_id = farm.agent()
    restless = session_body(model_ms=1.0)["rounds"][:2] + session_body(model_ms=9.0)["rounds"][:3]
    _report(farm, agent_id, model_id, session_body() | {"rounds": restless})
    _report(farm, farm.agent(kinds={"host": "emulated"}), model_id, session_body(kind="emulated"))
    with farm.database.write() as session:
        model_latency.add_predicted(session, model_id, "host", None, PREDICTED.model_copy(update={"calibrated": False}))
    assert _latency(farm, model_id) == []


@pytest.mark.medium
def test_a_prediction_of_float32_is_none_of_int8(farm: Farm) -> None:
    model_id = _stored(farm, "int8")
    with farm.database.write() as session:
        model_latency.add_predicted(session, model_id, "host", None, PREDICTED)
    assert _latency(farm, model_id) == []


@pytest.mark.medium
def test_uploads_keep_their_own_manifest(farm: Farm) -> None:
    farm.predictor(farm.supernet())
    model_id = farm.upload()
    before = farm.ok("GET", f"/models/{model_id}/download?format=manifest")
    _measure(farm, farm.agent(), model_id)
    assert farm.ok("GET", f"/models/{model_id}/download?format=manifest") == before
