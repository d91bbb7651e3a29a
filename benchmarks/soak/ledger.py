"""What the service accepted, and whether each of it ended as it should."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks.soak.client import Client

FINISHED = ("succeeded", "failed", "cancelled")
PAGE = 200


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
    """URLs of accepted work, and ids of uploaded models."""

    searches: list[str] = field(default_factory=list)
    jobs: list[str] = field(default_factory=list)
    models: list[str] = field(default_factory=list)

    def open(self, client: Client) -> int:
        """How much of the newest accepted work is not finished."""
        return sum(client.get(url)["status"] not in FINISHED for url in [*self.searches[-8:], *self.jobs[-8:]])

    def judge(self, client: Client, seconds: float) -> Verdict:
        """Wait at most `seconds` for the rest of the work, and judge all of it."""
        views = self._finished(client, time.monotonic() + seconds)
        searches = {view["id"] for view in _all(client, "/searches")}
        jobs = {view["id"]: view for view in _all(client, "/jobs", kind="measure")}
        uploads = {view["id"] for view in _all(client, "/models", source="upload")}
        ours = {_id(url) for url in self.searches}
        measured = Counter(view["job_id"] for view in _all(client, "/measurements"))
        direct = {job for job, view in jobs.items() if view["parent_id"] is None}
        accepted_jobs, accepted_models = {_id(url) for url in self.jobs}, set(self.models)
        lost = len(ours - searches) + len(accepted_jobs - direct) + len(accepted_models - uploads)
        doubled = len(searches - ours) + len(direct - accepted_jobs) + len(uploads - accepted_models)
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


def _all(client: Client, path: str, **parameters: Any) -> Iterator[dict[str, Any]]:  # noqa: ANN401
    token: str | None = None
    while True:
        more = {"page_token": token} if token else {}
        page = client.get(path, max_results=PAGE, **parameters, **more)
        yield from page["items"]
        token = page["next_page_token"]
        if token is None:
            return


def _id(url: str) -> str:
    return url.rsplit("/", 1)[1]


def _is_verified(view: dict[str, Any]) -> bool:
    models = (view.get("result") or {}).get("models") or []
    return any(latency["verified"] for model in models for latency in model["latency"].values())
