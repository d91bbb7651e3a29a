"""The demonstration on a machine that others use, too."""

from typing import Any

import pytest

from server.demo.run import SEARCHES, DemoError, reachable_ms, undisturbed

DISTURBED, OVER, VERIFIED = (False, "disturbed"), (False, None), (True, None)


@pytest.mark.parametrize(
    ("answers", "searches"),
    [([VERIFIED], 1), ([OVER], 1), ([DISTURBED, VERIFIED], 2), ([DISTURBED] * SEARCHES, SEARCHES)],
    ids=["verified", "beyond the budget", "disturbed once", "disturbed always"],
)
def test_a_disturbed_search_is_made_again(answers: list[tuple[bool, str | None]], searches: int) -> None:
    results: list[dict[str, Any]] = []

    def search() -> dict[str, Any]:
        verified, note = answers[len(results)]
        results.append({"note": note, "models": [{"latency": {"host": {"verified": verified}}}]})
        return results[-1]

    assert undisturbed(search) is results[-1] and len(results) == searches


def test_what_is_reachable_is_of_the_default_supernet() -> None:
    items: dict[str, list[dict[str, Any]]] = {
        "/supernets": [{"name": "other", "is_default": False}, {"name": "mine", "is_default": True}],
        "/predictors": [_predictor("other", 1.0), _predictor("mine", 2.0), _predictor("mine", 3.0)],
    }

    def call(_method: str, path: str, **_arguments: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON
        return {"items": items[path]}

    assert reachable_ms(call) == (2.0, 20.0)
    items["/predictors"] = [_predictor("other", 1.0)]
    with pytest.raises(DemoError, match=r"for supernet 'mine'.*worker\.log"):
        reachable_ms(call)


def _predictor(supernet: str, smallest_ms: float) -> dict[str, Any]:
    bounds = {"smallest": {"upper_ms": smallest_ms}, "largest": {"upper_ms": 10 * smallest_ms}}
    return {"supernet": supernet, **bounds}
