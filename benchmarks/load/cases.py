"""Which requests are compared with the bare app's, and how fast they have to be."""

from __future__ import annotations

import json

from benchmarks.load.compare import Case
from benchmarks.load.filling import Filled

MANY, SOME = 200, 50  # connections
BODIES = 5000  # more than are sent in all rounds: an equal open job would be the answer otherwise


def cases(filled: Filled) -> tuple[Case, ...]:
    """Reads of one thing, a list, and work that is queued."""
    things = {"models": filled.model_id, "searches": filled.search_id, "jobs": filled.job_id}
    reads = tuple(
        Case(f"GET /{kind}/{{id}}", "GET", f"/{kind}/{thing_id}", MANY, 0.5, 3.0, token=filled.user)
        for kind, thing_id in things.items()
    )
    listed = Case("GET /jobs", "GET", "/jobs", MANY, 0.25, token=filled.user)
    body = {"kind": "measure", "model_id": filled.model_id, "device": "host"}
    bodies = tuple(
        json.dumps(body | {"protocol": {"runs": 1 + number, "rounds": 4}}).encode() for number in range(BODIES)
    )
    queued = Case("POST /jobs", "POST", "/jobs", SOME, 0.5, bodies=bodies, token=filled.admin)
    return (*reads, listed, queued)
