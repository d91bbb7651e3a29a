"""Clients that follow one job by server-sent events: what the server holds for them, and that all see the end."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from benchmarks.load.client import run_loop
from benchmarks.load.filling import Filled
from benchmarks.load.servers import Served
from benchmarks.load.wire import Wire

PATIENCE_SECONDS = 60.0


@dataclass(frozen=True)
class Followed:
    streams: int
    more_mb: float
    ended: int
    end_seconds: float


def follow(served: Served, filled: Filled, streams: int) -> Followed:
    return run_loop(_follow(served, filled, streams))


async def _follow(served: Served, filled: Filled, streams: int) -> Followed:
    admin = Wire(served.port, filled.admin)
    # Nobody claims it: `host` has no agent here.
    body = {"kind": "measure", "model_id": filled.model_id, "device": "host", "protocol": {"runs": 1, "rounds": 5}}
    status, job = await admin.call("POST", "/jobs", body)
    assert status == 202, job
    before_mb = served.usage().rss_mb
    wires = [Wire(served.port, filled.user) for _ in range(streams)]
    readers = [await wire.open(f"{job['url']}/events") for wire in wires]
    more_mb = served.usage().rss_mb - before_mb
    loop = asyncio.get_running_loop()
    begun_s = loop.time()
    await admin.call("POST", f"{job['url']}/cancel")
    ends = await asyncio.gather(*(_sees_the_end(reader) for reader in readers))
    seconds = loop.time() - begun_s
    for wire in (*wires, admin):
        wire.close()
    return Followed(streams, more_mb, sum(ends), seconds)


async def _sees_the_end(reader: asyncio.StreamReader) -> bool:
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            content = await reader.readuntil(b'"status":"cancelled"')
    except (TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        return False
    return b"event: status" in content
