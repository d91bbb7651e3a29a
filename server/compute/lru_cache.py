"""A cache that keeps what was used last."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class LruCache(Generic[K, V]):
    """Up to `max_items` values by key; the least recently used one is dropped first. Not for several threads at once.

    `functools.lru_cache` does the same for values that depend on nothing but their key.
    """

    def __init__(self, max_items: int) -> None:
        self._max_items = max_items
        self._values: OrderedDict[K, V] = OrderedDict()

    def get(self, key: K, make: Callable[[], V]) -> V:
        """The value of a key, which `make` returns if there is none. What it raises comes through."""
        if key not in self._values:
            self.put(key, make())
        self._values.move_to_end(key)
        return self._values[key]

    def put(self, key: K, value: V) -> None:
        """Set the value of a key."""
        self._values[key] = value
        self._values.move_to_end(key)
        while len(self._values) > self._max_items:
            self._values.popitem(last=False)
