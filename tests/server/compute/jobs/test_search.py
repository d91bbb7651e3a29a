"""Searches with scripted measurements and a stand-in for the exporter: rounds of verification, bounds, ranking.

Database, supernet, choice and predictor are real. What a device and the exporting process would give is scripted here.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from elasticvit.archs.space import Codes
from elasticvit.costs.flops import macs
from elasticvit.search.limits import LimitError
from server.compute.jobs.choose import choose
from server.compute.jobs.search import SHRINK, VERIFY_ROUNDS
from server.compute.task import Lost
from server.errors import BadValue, Infeasible
from server.services import models
from server.services.spaces import size_mb
from server.store.tables import Measurement, Model
from tests.server.compute.jobs.scripted_search import (
    Setting,
    StandInExporter,
    latency,
    measured,
    never,
    top1,
)


@pytest.mark.medium
def test_without_verify_nothing_is_measured(setting: Setting) -> None:
    task, exporter = setting.task(never, count=3), StandInExporter()
    result = setting.run(task, exporter)
    assert [answer["verified"] for answer in map(latency, result["models"])] == [False] * 3
    assert len(result["models"]) == len({model["arch_id"] for model in result["models"]}) == 3
    assert all(latency(model)["upper_ms"] <= setting.budget_ms for model in result["models"] + result["frontier"])
    assert task.stages == [("searching", 0, None), *(("exporting", i, 3) for i in range(3))]
    assert [model["terms"] for model in result["models"]] == ["for tests"] * 3 and result["note"] is None
    with setting.farm.database.read() as session:
        model = models.get(session, result["models"][0]["model_id"])
    assert model.manifest["latency"] == [], "an uncalibrated estimate is not written into manifests"


@pytest.mark.medium
def test_a_measurement_within_the_budget_verifies_the_file(setting: Setting) -> None:
    task = setting.task(lambda model, _key: measured(model, 0.9 * setting.budget_ms), verify=True)
    (answer,) = setting.run(task)["models"]
    assert task.sessions == [(answer["arch_id"], "verify")]
    assert latency(answer)["verified"] is True
    assert latency(answer)["measured_ms"] == pytest.approx(0.9 * setting.budget_ms)
    assert latency(answer)["measured_raw_ms"] == pytest.approx(1.8 * setting.budget_ms)


@pytest.mark.medium
@pytest.mark.parametrize(("statistic", "verified"), [("p50", True), ("p90", False)])
def test_the_statistic_of_the_request_is_held_to_the_budget(setting: Setting, statistic: str, verified: bool) -> None:
    def measure(model: Model, _key: str) -> Measurement:
        return measured(model, 0.9 * setting.budget_ms, p90_ms=1.01 * setting.budget_ms)

    task = setting.task(measure, verify=True, statistic=statistic)
    (answer,) = setting.run(task)["models"]
    assert latency(answer)["verified"] is verified


@pytest.mark.medium
def test_a_miss_lowers_the_bound_of_the_next_choice_by_its_ratio(setting: Setting) -> None:
    exporter, budget_ms = StandInExporter(), setting.budget_ms

    def measure(model: Model, _key: str) -> Measurement:
        return measured(model, (1.25 if len(exporter.archs) == 1 else 0.95) * budget_ms)

    task = setting.task(measure, verify=True)
    result = setting.run(task, exporter)
    first, second = exporter.archs
    assert setting.upper_ms(second) <= SHRINK * budget_ms / 1.25 < setting.upper_ms(first) <= budget_ms
    assert task.sessions == [(first.id, "verify"), (second.id, "verify")]
    (answer,) = result["models"]
    assert answer["arch_id"] == second.id and latency(answer)["verified"] is True
    assert max(latency(candidate)["upper_ms"] for candidate in result["frontier"]) > setting.upper_ms(second), (
        "the frontier stays that of the budget"
    )


@pytest.mark.medium
def test_bounds_multiply_over_the_rounds_which_are_limited(setting: Setting) -> None:
    exporter, ratios = StandInExporter(), (1.1, 1.2, 1.3, 1.4)

    def measure(model: Model, _key: str) -> Measurement:
        return measured(model, ratios[len(exporter.archs) - 1] * setting.budget_ms)

    task = setting.task(measure, verify=True)
    (answer,) = setting.run(task, exporter)["models"]
    assert len(exporter.archs) == len(task.sessions) == VERIFY_ROUNDS
    bound_ms = setting.budget_ms
    for arch, ratio in zip(exporter.archs, ratios, strict=False):
        assert setting.upper_ms(arch) <= bound_ms
        bound_ms *= SHRINK / ratio
    assert latency(answer)["verified"] is False
    assert answer["arch_id"] == exporter.archs[0].id, "of those that miss the budget the most accurate is returned"


@pytest.mark.medium
def test_a_bound_below_the_smallest_network_ends_the_rounds(setting: Setting) -> None:
    task = setting.task(lambda model, _key: measured(model, 1000 * setting.budget_ms), verify=True)
    (answer,) = setting.run(task)["models"]
    assert len(task.sessions) == 1 and latency(answer)["verified"] is False
    assert latency(answer)["measured_ms"] == pytest.approx(1000 * setting.budget_ms)


@pytest.mark.medium
def test_an_unstable_session_is_repeated_once(setting: Setting) -> None:
    def measure(model: Model, key: str) -> Measurement:
        return measured(model, 0.9 * setting.budget_ms, stable=key == "verify-again")

    task = setting.task(measure, verify=True)
    result = setting.run(task)
    (answer,) = result["models"]
    assert task.sessions == [(answer["arch_id"], "verify"), (answer["arch_id"], "verify-again")]
    assert latency(answer)["verified"] is True and result["note"] is None


@pytest.mark.medium
@pytest.mark.parametrize(("ratio", "rounds"), [(0.9, 1), (1.1, VERIFY_ROUNDS)])
def test_an_unstable_measurement_never_verifies(setting: Setting, ratio: float, rounds: int) -> None:
    """But one above the budget lowers the bound all the same."""
    task = setting.task(lambda model, _key: measured(model, ratio * setting.budget_ms, stable=False), verify=True)
    result = setting.run(task)
    (answer,) = result["models"]
    assert "its measurement was disturbed (" in result["note"] and answer["model_id"] in result["note"]
    assert [key for _, key in task.sessions] == ["verify", "verify-again"] * rounds
    assert latency(answer)["verified"] is False and latency(answer)["measured_ms"] is not None


@pytest.mark.medium
def test_sessions_that_fail_leave_the_answer_unverified(setting: Setting) -> None:
    task = setting.task(lambda _model, _key: None, verify=True)
    (answer,) = setting.run(task)["models"]
    assert [key for _, key in task.sessions] == ["verify", "verify-again"]
    assert latency(answer)["verified"] is False and latency(answer)["measured_ms"] is None


@pytest.mark.medium
def test_without_an_anchor_reference_nothing_is_verified(setting: Setting) -> None:
    """As on an uncalibrated profile: there are raw latencies only, which the budget does not speak of."""
    task = setting.task(lambda model, _key: measured(model, None), verify=True)
    (answer,) = setting.run(task)["models"]
    assert len(task.sessions) == 1 and latency(answer)["verified"] is False
    assert latency(answer)["measured_ms"] is None and latency(answer)["measured_raw_ms"] is not None


@pytest.mark.medium
def test_verified_answers_come_first_then_the_more_accurate(setting: Setting) -> None:
    exporter = StandInExporter()

    def measure(model: Model, _key: str) -> Measurement:
        """Only the second answer of the first round keeps the budget; then nothing does."""
        fits = model.arch_id == exporter.archs[1].id
        return measured(model, (0.9 if fits else 1.05) * setting.budget_ms)

    task = setting.task(measure, verify=True, count=3)
    answers = setting.run(task, exporter)["models"]
    assert len(answers) == 3, "of all that were measured as many as the request counts"
    assert answers[0]["arch_id"] == exporter.archs[1].id
    assert [latency(answer)["verified"] for answer in answers] == [True, False, False]
    missed = [answer["accuracy"]["value"] for answer in answers[1:]]
    every = sorted({arch.id: top1(arch) for arch in exporter.archs if arch != exporter.archs[1]}.values())
    assert missed == every[::-1][:2] and answers[0]["accuracy"]["value"] < missed[0]


@pytest.mark.medium
def test_several_verified_answers_stay_in_order_of_accuracy(setting: Setting) -> None:
    task = setting.task(lambda model, _key: measured(model, 0.9 * setting.budget_ms), verify=True, count=4)
    values = [answer["accuracy"]["value"] for answer in setting.run(task)["models"]]
    assert len(values) == len(task.sessions) == 4 and values == sorted(values, reverse=True)


@pytest.mark.medium
def test_reported_accuracies_do_not_order_answers(setting: Setting) -> None:
    """It comes from images that choose nothing: by them the best of several would look better than it is."""
    task = setting.task(lambda model, _key: measured(model, 0.9 * setting.budget_ms), verify=True, count=4)
    answers = setting.run(task, StandInExporter(reported=lambda arch: 1 - top1(arch)))["models"]
    values = [answer["accuracy"]["value"] for answer in answers]
    assert len(values) == 4 and values == sorted(values), "the smallest reported first, which was predicted the best"


@pytest.mark.medium
@pytest.mark.parametrize(("change", "allowed"), [(-0.05, False), (-0.03, True), (0.01, True), (None, True)])
def test_a_precision_that_costs_more_top1_than_allowed_is_refused(
    setting: Setting, change: float | None, allowed: bool
) -> None:
    loose = {"latency_ms": 2 * float(setting.predictor.largest_upper_ms(0.9)[0])}
    task = setting.task(never, precision="int8", max_accuracy_drop=0.03, budget=loose)
    if allowed:
        result = setting.run(task, StandInExporter(change))
        assert result["models"][0]["precision"] == "int8" and "not for this precision" in result["note"]
    else:
        with pytest.raises(BadValue, match=r"0\.0500 of top-1"):
            setting.run(task, StandInExporter(change))


def test_a_budget_that_no_network_keeps_is_infeasible(setting: Setting) -> None:
    task = setting.task(never, budget={"latency_ms": 0.5 * setting.smallest_ms})
    with pytest.raises(Infeasible) as caught:
        setting.run(task)
    assert caught.value.extras["binding"] == "latency_ms"
    assert caught.value.extras["smallest_ms"] == pytest.approx(setting.smallest_ms)


@pytest.mark.medium
def test_a_lost_job_ends_in_the_middle_of_its_exports(setting: Setting) -> None:
    task, exporter = setting.task(never, count=3), StandInExporter()
    task.ended = Lost()
    with pytest.raises(Lost):
        setting.run(task, exporter)
    assert exporter.archs == [] and setting.farm.ok("GET", "/models")["items"] == []


def test_a_request_of_an_older_version_that_is_not_supported_fails_in_the_job(setting: Setting) -> None:
    """It may wait in the queue of an older home; POST /search refuses it today."""
    task = setting.task(never)
    task.job.payload = {**task.job.payload, "request": {**task.job.payload["request"], "max_peak_memory_mb": 9.0}}
    with pytest.raises(BadValue, match="max_size_mb"):
        setting.run(task)


def chosen(setting: Setting, **more: Any) -> Codes:  # noqa: ANN401
    request = setting.request(count=5, **more)
    return choose(request, setting.served, setting.predictor, setting.budget_ms).best


@pytest.mark.medium
def test_choices_keep_every_bound_of_the_request(setting: Setting) -> None:
    space, free = setting.served.space, chosen(setting)
    sizes_mb = size_mb(space)
    bound_macs = int(0.8 * max(macs(space.decode(code)) for code in free))
    bound_mb = 0.9 * float(sizes_mb.total(free).max())
    bounded = chosen(setting, max_macs=bound_macs, max_size_mb=bound_mb)
    assert len(free) == len(bounded) == 5
    assert all(macs(space.decode(code)) <= bound_macs for code in bounded)
    assert (sizes_mb.total(bounded) <= bound_mb).all()
    assert not all(macs(space.decode(code)) <= bound_macs for code in free), "the bound binds"


@pytest.mark.medium
def test_choices_stay_within_the_accuracy_drop(setting: Setting) -> None:
    """Of the predicted top-1, below the best of the space; where the budget does not allow that, it binds."""
    predict = setting.served.accuracy.predict
    best = float(predict(setting.served.space.encode(setting.served.space.largest())[None])[0])
    reached = float(predict(chosen(setting)).max())
    drop = best - reached
    assert drop > 0.001
    assert (predict(chosen(setting, max_accuracy_drop=drop + 0.001)) >= best - drop - 0.001 - 1e-9).all()
    with pytest.raises(LimitError) as caught:
        chosen(setting, max_accuracy_drop=drop / 10)
    assert "max_accuracy_drop" in caught.value.binding


@pytest.mark.medium
def test_choices_depend_on_the_seed_alone(setting: Setting) -> None:
    assert np.array_equal(chosen(setting, seed=3), chosen(setting, seed=3))
    assert np.array_equal(chosen(setting, seed=None), chosen(setting, seed=0))
