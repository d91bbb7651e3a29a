"""What is used stays in the cache; what was not used for longest goes."""

from __future__ import annotations

import pytest

from server.compute.lru_cache import LruCache


def test_the_least_recently_used_value_is_dropped() -> None:
    made: list[str] = []
    cache: LruCache[str, str] = LruCache(2)

    def get(key: str) -> str:
        return cache.get(key, lambda: made.append(key) or key.upper())  # type: ignore[func-returns-value]

    assert [get(key) for key in "abacab"] == list("ABACAB")
    assert made == ["a", "b", "c", "b"], "`a` was used between `b` and `c`, so that `c` replaced `b`"


def test_a_value_is_replaced_and_one_that_cannot_be_made_is_not_kept() -> None:
    cache: LruCache[str, int] = LruCache(2)
    cache.put("a", 1)
    cache.put("b", 2)
    cache.put("a", 3)
    cache.put("c", 4)
    assert cache.get("a", lambda: 0) == 3
    with pytest.raises(ZeroDivisionError):
        cache.get("b", lambda: 1 // 0)
    assert cache.get("b", lambda: 5) == 5
