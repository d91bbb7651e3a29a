"""The demonstration on a machine that others use, too."""

from typing import Any

import pytest

from server.demo.run import SEARCHES, undisturbed

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
