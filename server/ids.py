"""Ids of stored things that sort by creation, also within one millisecond.

As with monotonic ULIDs (https://github.com/ulid/spec#monotonicity): a process that makes several ids in a millisecond
counts up from the first random one. So jobs are claimed, and lists are paged, in the order in which they were stored.
"""

from __future__ import annotations

import secrets
import threading
from datetime import datetime

RANDOM_BITS = 32
# The first id of a millisecond is below half, so that counting up from it has room.
FIRST_BITS = RANDOM_BITS - 1


class Ids:
    """Makes ids; of one process, those made later sort later as long as its clock is not set back. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last_ms, self._last_random = -1, 0

    def new(self, prefix: str, now: datetime) -> str:
        """`prefix`, a dash, 11 hexadecimal digits of milliseconds since 1970, 8 random ones."""
        now_ms = int(now.timestamp() * 1000)
        with self._lock:
            first = now_ms != self._last_ms
            self._last_random = secrets.randbits(FIRST_BITS) if first else self._last_random + 1
            self._last_ms = now_ms
            return f"{prefix}-{now_ms:011x}{self._last_random:08x}"


new_id = Ids().new
"""An id of this process."""
