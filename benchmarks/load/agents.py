"""A farm of agents that wait for jobs: what they cost while nothing happens, and how soon a queued job reaches one.

Every job must be claimed once and leave one measurement; each report is sent twice.
"""

from __future__ import annotations

import asyncio
import collections
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.load.client import run_loop
from benchmarks.load.filling import Filled, describe, measured
from benchmarks.load.servers import Served
from benchmarks.load.wire import Wire
from device_agent.uplink.registration import LEAST_WAIT, MAX_WAIT_SECONDS

SHARED_WIRES = 16
PATIENCE_SECONDS = 60.0


@dataclass(frozen=True)
class Queueing:
    """Jobs that are queued one after the other, at a steady rate."""

    jobs: int
    jobs_a_second: float


@dataclass(frozen=True)
class Delivered:
    """Latencies in ms, sorted: from the request that queued a job until its agent had the lease."""

    queueing: Queueing
    latencies_ms: list[float]

    def percentile_ms(self, share: float) -> float:
        if not self.latencies_ms:
            return float("inf")
        return self.latencies_ms[min(len(self.latencies_ms) - 1, int(share * len(self.latencies_ms)))]


@dataclass(frozen=True)
class Farmed:
    """What the agents cost and got; `delivered` has one entry for each rate."""

    agents: int
    idle_cpu_share: float
    delivered: list[Delivered]
    claimed_twice: int
    lost: int
    measured_twice: int


def farm(
    served: Served,
    filled: Filled,
    agents: int,
    queueings: Sequence[Queueing],
    settle_seconds: float,
    idle_seconds: float,
) -> Farmed:
    """`settle_seconds` pass first, until all agents have sent a heartbeat and the waits from before it are over."""
    return run_loop(_Farm(served, filled, agents).run(queueings, settle_seconds, idle_seconds))


@dataclass
class _Farm:
    served: Served
    filled: Filled
    agents: int
    queued_s: dict[str, float] = field(default_factory=dict)
    leased_s: dict[str, float] = field(default_factory=dict)
    claims: collections.Counter[str] = field(default_factory=collections.Counter)

    async def run(self, queueings: Sequence[Queueing], settle_seconds: float, idle_seconds: float) -> Farmed:
        self._shared = [Wire(self.served.port, self.filled.agent) for _ in range(SHARED_WIRES)]
        registered = await asyncio.gather(*(self._register(number) for number in range(self.agents)))
        served = [asyncio.create_task(self._serve(number, about)) for number, about in enumerate(registered)]
        beats = [asyncio.create_task(self._beat(number, about)) for number, about in enumerate(registered)]
        await asyncio.sleep(settle_seconds)
        before = self.served.usage().cpu_seconds
        await asyncio.sleep(idle_seconds)
        idle_share = (self.served.usage().cpu_seconds - before) / idle_seconds
        delivered = [await self._deliver(queueing) for queueing in queueings]
        for task in (*served, *beats):
            task.cancel()
        counts = await self._count()
        twice = sum(number > 1 for number in self.claims.values())
        return Farmed(self.agents, idle_share, delivered, twice, *counts)

    def _wire(self) -> Wire:
        return random.choice(self._shared)

    async def _register(self, number: int) -> dict[str, Any]:
        body = {
            "name": f"load-{number}",
            "version": "1",
            "devices": [describe(f"load-{number}").model_dump(mode="json")],
        }
        status, answer = await self._wire().call("POST", "/agents/register", body)
        assert status == 200, answer
        registered: dict[str, Any] = answer
        return registered

    async def _beat(self, number: int, about: dict[str, Any]) -> None:
        body = {"agent_id": about["agent_id"], "devices": [{"name": f"load-{number}", "state": "idle"}]}
        seconds = about["heartbeat_seconds"]  # the first one comes soon, as an agent sends it when it starts
        await asyncio.sleep(random.random() * seconds)
        while True:
            _status, reply = await self._wire().call("POST", "/agents/heartbeat", body)
            # As the device agent does while its device waits for jobs.
            await asyncio.sleep(reply.get("idle_heartbeat_seconds") or reply["heartbeat_seconds"])

    async def _serve(self, number: int, about: dict[str, Any]) -> None:
        wire = Wire(self.served.port, self.filled.agent)
        wait_seconds = min(about.get("wait_seconds") or 0.0, MAX_WAIT_SECONDS)  # as the device agent does
        asked = {"agent_id": about["agent_id"], "devices": [f"load-{number}"]}
        await asyncio.sleep(random.random() * 2)
        while True:
            if wait_seconds:
                asked["wait_seconds"] = random.uniform(LEAST_WAIT, 1.0) * wait_seconds
            status, lease = await wire.call("POST", "/leases", asked)
            if status == 200:
                self.leased_s[lease["job_id"]] = time.perf_counter()
                self.claims[lease["job_id"]] += 1
                await self._report(wire, number, lease)
            elif not wait_seconds:
                await asyncio.sleep(about["poll_seconds"])

    async def _report(self, wire: Wire, number: int, lease: dict[str, Any]) -> None:
        session = measured(f"load-{number}").model_dump(mode="json", exclude_none=True)
        body = {"lease_id": lease["lease_id"], "attempt": lease["attempt"], "outcome": "measured", "session": session}
        for _ in range(2):  # the second must change nothing
            status, answer = await wire.call("POST", f"/leases/{lease['lease_id']}/report", body)
            assert status == 200, answer

    async def _deliver(self, queueing: Queueing) -> Delivered:
        before = set(self.queued_s)
        await self._queue(queueing, len(before))
        await self._settle()
        mine = [job_id for job_id in self.queued_s if job_id not in before and job_id in self.leased_s]
        latencies_ms = sorted((self.leased_s[job_id] - self.queued_s[job_id]) * 1e3 for job_id in mine)
        return Delivered(queueing, latencies_ms)

    async def _queue(self, queueing: Queueing, first: int) -> None:
        wire = Wire(self.served.port, self.filled.admin)
        for number in range(first, first + queueing.jobs):
            body = {"kind": "measure", "model_id": self.filled.model_id, "device": f"load-{number % self.agents}"}
            body["protocol"] = {"runs": 1 + number % 9000}  # type: ignore[assignment]
            begun_s = time.perf_counter()
            status, answer = await wire.call("POST", "/jobs", body)
            assert status == 202, answer
            self.queued_s[answer["id"]] = begun_s
            await asyncio.sleep(max(0.0, 1 / queueing.jobs_a_second - (time.perf_counter() - begun_s)))

    async def _settle(self) -> None:
        deadline_s = time.perf_counter() + PATIENCE_SECONDS
        while len(self.leased_s) < len(self.queued_s) and time.perf_counter() < deadline_s:
            await asyncio.sleep(0.2)
        await asyncio.sleep(2.0)  # for the last reports

    async def _count(self) -> tuple[int, int]:
        """How many jobs have not succeeded, and how many have more than one measurement."""
        wire = Wire(self.served.port, self.filled.admin)
        lost = 0
        for job_id in self.queued_s:
            _status, job = await wire.call("GET", f"/jobs/{job_id}")
            lost += job["status"] != "succeeded"
        of_job: collections.Counter[str] = collections.Counter()
        token = ""
        while True:
            query = f"?max_results=200&page_token={token}" if token else "?max_results=200"
            _status, page = await wire.call("GET", f"/measurements{query}")
            of_job.update(item["job_id"] for item in page["items"])
            token = page["next_page_token"]
            if token is None:
                return lost, sum(of_job[job_id] > 1 for job_id in self.queued_s)
