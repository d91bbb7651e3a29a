"""Waiting for a job ends with its last view, or in time."""

from __future__ import annotations

import pytest

from server.wire.polling import finished_view, views_until_finished


def test_every_view_is_seen_up_to_the_finished_one() -> None:
    statuses = iter(["queued", "running", "failed", "not asked for"])
    views = views_until_finished(lambda: {"status": next(statuses)}, 0.0)
    assert [view["status"] for view in views] == ["queued", "running", "failed"]


def test_the_finished_view() -> None:
    statuses = iter(["leased", "succeeded"])
    assert finished_view(lambda: {"status": next(statuses)}, 0.0, 60.0) == {"status": "succeeded"}


def test_what_does_not_finish_in_time() -> None:
    with pytest.raises(TimeoutError, match=r"within 0\.01 s"):
        finished_view(lambda: {"status": "queued"}, 0.001, 0.01)
