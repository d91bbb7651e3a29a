"""What the service accepted, and whether each of it ended as it should."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks.soak.client import Client

FINISHED = ("succeeded", "failed", "cancelled")


@dataclass(frozen=True)
class Verdict:
    """How the work ended. `lost` were accepted and are unknown now; `doubled` exist more often than they were accepted,
    or brought more than one measurement; `stuck` were not finished in time. `failures` are details of failed work."""

    searches: int
    verified: int
    measurements: int
    uploads: int
    outcomes: dict[str, int]
    lost: int
    doubled: int
    stuck: int
    failures: list[str]

    def figures(self) -> dict[str, object]:
        return asdict(self)


@dataclass
class Ledger:
    """URLs of accepted work, and ids of uploaded models. `before` are the ids of what a home had before the run."""

    before: frozenset[str] = frozenset()
    searches: list[str] = field(default_factory=list)
    jobs: list[str] = field(default_factory=list)
    models: list[str] = field(default_factory=list)

    def open(self, client: Client) -> int:
        """How much of the newest accepted work is not finished."""
        return sum(client.get(url)["status"] not in FINISHED for url in [*self.searches[-8:], *self.jobs[-8:]])

    def judge(self, client: Client, seconds: float) -> Verdict:
        """Wait at most `seconds` for the rest of the work, and judge all of it."""
        views = self._finished(client, time.monotonic() + seconds)
        searches, direct, uploads = _stored(client)
        ours = {_id(url) for url in self.searches}
        measured = Counter(view["job_id"] for view in client.pages_of("/measurements"))
        accepted_jobs, accepted_models = {_id(url) for url in self.jobs}, set(self.models)
        lost = len(ours - searches) + len(accepted_jobs - direct) + len(accepted_models - uploads)
        unknown = (searches | direct | uploads) - ours - accepted_jobs - accepted_models - self.before
        doubled = len(unknown)
        doubled += sum(count > 1 for count in measured.values())
        return Verdict(
            searches=len(self.searches),
            verified=sum(_is_verified(view) for view in views),
            measurements=len(self.jobs),
            uploads=len(self.models),
            outcomes=dict(Counter(view["status"] for view in views)),
            lost=lost,
            doubled=doubled,
            stuck=sum(view["status"] not in FINISHED for view in views),
            failures=[view["error"]["detail"] for view in views if view["error"]][:20],
        )

    def _finished(self, client: Client, deadline: float) -> list[dict[str, Any]]:
        views = {}
        for url in [*self.searches, *self.jobs]:
            views[url] = client.get(url)
            while views[url]["status"] not in FINISHED and time.monotonic() < deadline:
                time.sleep(0.5)
                views[url] = client.get(url)
        return list(views.values())


def _stored(client: Client) -> tuple[set[str], set[str], set[str]]:
    """The ids of searches, of measurements that were asked for, and of uploads."""
    searches = {view["id"] for view in client.pages_of("/searches")}
    direct = {view["id"] for view in client.pages_of("/jobs", kind="measure") if view["parent_id"] is None}
    return searches, direct, {view["id"] for view in client.pages_of("/models", source="upload")}


def stored(client: Client) -> frozenset[str]:
    """The ids of all that a service has been asked for."""
    return frozenset().union(*_stored(client))


def _id(url: str) -> str:
    return url.rsplit("/", 1)[1]


def _is_verified(view: dict[str, Any]) -> bool:
    models = (view.get("result") or {}).get("models") or []
    return any(latency["verified"] for model in models for latency in model["latency"].values())
