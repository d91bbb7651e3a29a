"""The loop: one action after another while the service lives, then the verdict."""

from __future__ import annotations

import random
import secrets
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from benchmarks.soak.client import Client
from benchmarks.soak.ledger import Ledger, Verdict, stored
from benchmarks.soak.plan import ALL, Amounts, counted
from benchmarks.soak.service import Service, Usage

MAX_OPEN = 6
READY_SECONDS = 300.0
SAMPLE_SECONDS = 20.0
PROTOCOL = {"rounds": 2, "runs": 5, "min_secs": 0.0}
Say = Callable[[str], None]


@dataclass(frozen=True)
class Sample:
    """The service at one moment."""

    at_seconds: float
    usage: dict[str, Usage]
    disk_mb: dict[str, float]


@dataclass(frozen=True)
class Outcome:
    """A run: the verdict, the samples, what was done, and the answers that the client saw, by status."""

    verdict: Verdict
    samples: Sequence[Sample]
    actions: dict[str, int]
    answers: dict[str, int]
    seconds: float
    models_mb: tuple[float, float]
    """All models that the service has, at the beginning and at the end: what the stored files should grow by."""

    def figures(self) -> dict[str, object]:
        return {
            "seconds": round(self.seconds),
            "actions": self.actions,
            "answers": self.answers,
            **self.verdict.figures(),
            "memory_mb": {kind: _halves(self.samples, kind) for kind in ("server", "worker", "exporter", "agent")},
            "descriptors": {kind: _descriptors(self.samples, kind) for kind in ("server", "worker", "agent")},
            "disk_mb": {
                kind: [round(sample.disk_mb[kind], 1) for sample in (self.samples[0], self.samples[-1])]
                for kind in self.samples[0].disk_mb
            },
            "models_mb": [round(size_mb, 1) for size_mb in self.models_mb],
        }


@dataclass
class Soak:
    """One run against a service. `pause_seconds` lie between the beginnings of two actions, on average."""

    service: Service
    client: Client
    rng: random.Random
    pause_seconds: float
    say: Say
    ledger: Ledger = field(default_factory=Ledger)
    samples: list[Sample] = field(default_factory=list)
    _range_ms: tuple[float, float] = (0.0, 0.0)
    _file: bytes = b""
    _begun: float = 0.0
    _models_mb: float = 0.0

    def run(self, amounts: Amounts, drain_seconds: float) -> Outcome:
        """All actions, then the verdict over what the service has done `drain_seconds` after the last of them."""
        self._begin()
        actions = amounts.actions(self.rng)
        due_s = self._begun
        for number, action in enumerate(actions):
            self.say(f"{time.monotonic() - self._begun:6.0f} s  {number + 1}/{len(actions)}  {action}")
            self._do(action)
            due_s += self.rng.uniform(0.0, 2.0 * self.pause_seconds)
            self._wait_until(due_s)
        self.client.wait_ready(READY_SECONDS)
        verdict = self.ledger.judge(self.client, drain_seconds)
        self._sample()
        seconds = time.monotonic() - self._begun
        models_mb = self._models_mb, self.client.models_mb()
        return Outcome(verdict, self.samples, counted(actions), dict(self.client.seen), seconds, models_mb)

    def _begin(self) -> None:
        self._begun = time.monotonic()
        newest = self.client.get("/predictors", device="host", max_results=1)["items"][0]
        self._range_ms = newest["smallest"]["upper_ms"], newest["largest"]["upper_ms"]
        anchor = self.client.get("/models", source="anchor", max_results=1)["items"][0]
        self._file = self.client.bytes_of(anchor["download_url"])
        self._models_mb, self.ledger.before = self.client.models_mb(), stored(self.client)
        self._sample()

    def _do(self, action: str) -> None:
        if action.startswith("kill "):
            self._kill(action.removeprefix("kill "))
        elif action == "search":
            self.ledger.searches.append(self._search()["url"])
        elif action == "upload" or not self.ledger.models:
            # Bytes after the end of a flatbuffer change its hash and nothing else.
            content = self._file + secrets.token_bytes(16)
            self.ledger.models.append(self.client.create("/models", content=content)["id"])
        else:
            body = {"kind": "measure", "device": "host", "model_id": self.rng.choice(self.ledger.models)}
            self.ledger.jobs.append(self.client.create("/jobs", json=body | {"protocol": self._protocol()})["url"])

    def _protocol(self) -> dict[str, Any]:
        """No two alike: an equal job that is still open would be answered by the same job."""
        return PROTOCOL | {"runs": self.rng.randrange(5, 10_000), "max_secs": 0.2}

    def _search(self) -> Any:  # noqa: ANN401
        low_ms, high_ms = self._range_ms
        budget_ms = low_ms + self.rng.uniform(0.05, 0.9) * (high_ms - low_ms)
        body = {"device": "host", "budget": {"latency_ms": budget_ms}, "verify": self.rng.random() < 0.5}
        return self.client.create("/search", json=body | {"seed": self.rng.randrange(2**31)})

    def _kill(self, kind: str) -> None:
        if kind == ALL:
            self.service.kill_all()
        else:
            self.service.kill(kind)
        if kind == ALL or not self.service.running:
            self.service.start()

    def _wait_until(self, due_s: float) -> None:
        """Wait, and longer while much work is open: the queue is not what is tested."""
        while time.monotonic() < due_s or self._is_full():
            if time.monotonic() - self._begun > self.samples[-1].at_seconds + SAMPLE_SECONDS:
                self._sample()
            time.sleep(0.5)

    def _is_full(self) -> bool:
        try:
            return self.ledger.open(self.client) >= MAX_OPEN
        except (TimeoutError, httpx.HTTPStatusError):
            return False

    def _sample(self) -> None:
        at_seconds = time.monotonic() - self._begun
        self.samples.append(Sample(at_seconds, self.service.usage(), self.service.disk_mb()))


def _halves(samples: Sequence[Sample], kind: str) -> list[float]:
    """The medians of the memory of both halves of a run: level when they are alike."""
    used = [sample.usage[kind].memory_mb for sample in samples if sample.usage[kind].memory_mb > 0]
    middle = len(used) // 2
    return [round(statistics.median(half), 1) for half in (used[:middle], used[middle:]) if half]


def _descriptors(samples: Sequence[Sample], kind: str) -> list[int]:
    used = [sample.usage[kind].descriptors for sample in samples if sample.usage[kind].descriptors > 0]
    middle = len(used) // 2
    return [max(half) for half in (used[:middle], used[middle:]) if half]
