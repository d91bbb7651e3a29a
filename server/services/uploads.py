"""How many uploads there are at a time, how much disk their unfinished files take, and who checks them.

All limits are of one server process. An upload that has to wait does so before its body is read, and holds no thread.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from server.errors import Busy
from server.services import models
from server.store.blobs import Draft

CHECKS = 2
"""Files that are checked at a time; each check is a process."""
RETRY_SECONDS = 5


@dataclass(frozen=True)
class UploadLimits:
    """Uploads at a time, and bytes of their unfinished files; `share` of each is one user's."""

    uploads: int
    unfinished_bytes: int
    wait_seconds: float = 20.0
    waiting: int = 100
    share: float = 0.5

    def uploads_of_one(self) -> int:
        return max(1, int(self.uploads * self.share))

    def bytes_of_one(self) -> int:
        return int(self.unfinished_bytes * self.share)


class Uploads:
    """The uploads of one server process. Used by its event loop only."""

    def __init__(self, limits: UploadLimits) -> None:
        self.limits = limits
        self._running: Counter[str] = Counter()
        self._bytes: Counter[str] = Counter()
        self._waiting = 0
        self._changed = asyncio.Condition()
        self._checkers = ThreadPoolExecutor(CHECKS, thread_name_prefix="check-upload")

    @asynccontextmanager
    async def admitted(self, user: str) -> AsyncIterator[Upload]:
        """Wait for a turn. Raises Busy when it takes too long."""
        await self._enter(user)
        upload = Upload(self, user)
        try:
            yield upload
        finally:
            self._running[user] -= 1
            self._bytes[user] -= upload.unfinished_bytes
            self._running, self._bytes = +self._running, +self._bytes
            async with self._changed:
                self._changed.notify_all()

    def close(self) -> None:
        self._checkers.shutdown(wait=False, cancel_futures=True)

    async def _enter(self, user: str) -> None:
        if not self._free(user):
            await self._wait(user)
        self._running[user] += 1

    async def _wait(self, user: str) -> None:
        if self._waiting >= self.limits.waiting:
            raise _busy()
        self._waiting += 1
        try:
            # Not `asyncio.wait_for`, which would let another one in between this turn and its being counted.
            async with asyncio.timeout(self.limits.wait_seconds), self._changed:
                await self._changed.wait_for(lambda: self._free(user))
        except TimeoutError as error:
            raise _busy() from error
        finally:
            self._waiting -= 1

    def _free(self, user: str) -> bool:
        return self._running.total() < self.limits.uploads and self._running[user] < self.limits.uploads_of_one()

    def add_bytes(self, user: str, size_bytes: int) -> None:
        """Raises Busy when the unfinished files of this user, or of all, would take too much."""
        of_all, of_one = self._bytes.total() + size_bytes, self._bytes[user] + size_bytes
        if of_all > self.limits.unfinished_bytes or of_one > self.limits.bytes_of_one():
            raise Busy("other unfinished uploads fill the space for them", retry_after_seconds=RETRY_SECONDS)
        self._bytes[user] = of_one

    async def check(self, draft: Draft) -> dict[str, Any]:
        """`models.check_upload` in a thread of its own. Raises as that does."""
        return await asyncio.get_running_loop().run_in_executor(self._checkers, models.check_upload, draft)


@dataclass
class Upload:
    """An upload that has its turn."""

    uploads: Uploads
    user: str
    unfinished_bytes: int = 0

    def add_bytes(self, size_bytes: int) -> None:
        """Before that many bytes are written. Raises Busy."""
        self.uploads.add_bytes(self.user, size_bytes)
        self.unfinished_bytes += size_bytes


def _busy() -> Busy:
    return Busy("too many uploads at a time", retry_after_seconds=RETRY_SECONDS)
