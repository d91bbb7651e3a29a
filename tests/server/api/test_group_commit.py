"""Group commit: what many ask for at once is done by one transaction, and each gets its own answer."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import httpx
import pytest
from anyio import CapacityLimiter
from fastapi import Request
from sqlalchemy.exc import IntegrityError
from sqlmodel import Session, select

from server.api.batches import Batches
from server.api.edge.bodies import Departed
from server.errors import BadValue, TooMany
from server.services import quick_measure
from server.services.askers import Asker
from server.store.tables import Job
from server.wire import Accepted, JobKind, JobRequest, MeasureProtocol
from tests.server.server_farm import Farm, on_a_socket

PATIENCE_SECONDS = 60.0


class Client(Request):
    """A request whose client may have left."""

    def __init__(self, gone: bool = False) -> None:
        super().__init__({"type": "http"})
        self.gone = gone

    async def is_disconnected(self) -> bool:
        return self.gone


def test_measurements_that_are_asked_for_at_once_are_queued_by_one_transaction(any_farm: Farm) -> None:
    """Equal ones of one owner are one job, each owner's limit counts, and what is wrong concerns nobody else."""
    any_farm.agent()
    model_id, now = any_farm.upload(), any_farm.clock()

    def wanted(runs: int, owner: str, device: str = "host", max_secs: float = 1.0) -> quick_measure.Wanted:
        protocol = MeasureProtocol(runs=runs, max_secs=max_secs)
        body = JobRequest(kind=JobKind.MEASURE, device=device, model_id=model_id, protocol=protocol)
        plan = quick_measure.Plan.of(body)
        assert plan is not None
        asker = Asker(owner, max_open_jobs=2, max_session_seconds=60.0, may_change_all=False)
        return quick_measure.Wanted(plan, now, 3, asker)

    asked = [wanted(1, "ann"), wanted(1, "ann"), wanted(2, "ann"), wanted(3, "ann"), wanted(1, "bob")]
    asked += [wanted(4, "bob", device="nowhere"), wanted(5, "bob", max_secs=50.0), wanted(6, "bob")]
    with any_farm.database.write() as session:
        answers = quick_measure.queue_all(session, asked)
    first, again, second, beyond, same, unknown, too_long, last = answers
    assert isinstance(first, Accepted) and first == again
    assert isinstance(second, Accepted) and isinstance(last, Accepted)
    assert isinstance(beyond, TooMany) and isinstance(too_long, BadValue)
    assert same is None and unknown is None  # the thorough way joins the one and refuses the other
    with any_farm.database.read() as session:
        assert set(session.exec(select(Job.id))) == {first.id, second.id, last.id}


def test_requests_that_arrive_during_a_transaction_share_the_next_one(any_farm: Farm) -> None:
    any_farm.agent()
    model_id, admin = any_farm.upload(), any_farm.secret("admin")
    batches: list[int] = []
    work = any_farm.state.measuring._work

    def counted(wanted: Sequence[quick_measure.Wanted]) -> Sequence[Any]:
        batches.append(len(wanted))
        time.sleep(0.2)
        return work(wanted)

    any_farm.state.measuring._work = counted
    bodies = [
        {"kind": "measure", "device": "host", "model_id": model_id, "protocol": {"runs": runs}} for runs in range(1, 21)
    ]
    with on_a_socket(any_farm) as url, ThreadPoolExecutor(len(bodies)) as pool:
        headers = {"Authorization": f"Bearer {admin}"}
        post = partial(httpx.post, f"{url}/jobs", headers=headers, timeout=PATIENCE_SECONDS)
        answers = list(pool.map(lambda body: post(json=body), bodies))
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["id"] for answer in answers}) == sum(batches) == len(bodies)
    assert len(batches) < len(bodies) / 2


def test_a_batch_has_answers_and_refusals_and_leaves_out_who_has_gone() -> None:
    done: list[Sequence[int]] = []
    release = threading.Event()

    def work(asked: Sequence[int]) -> list[int | Exception]:
        done.append(asked)
        release.wait(PATIENCE_SECONDS)
        return [BadValue("odd") if number % 2 else number for number in asked]

    async def run() -> list[Any]:
        batches: Batches[int, int] = Batches(work, CapacityLimiter(1))
        first = asyncio.create_task(batches.answer(0, Client()))
        while not done:
            await asyncio.sleep(0.01)
        rest = [asyncio.create_task(batches.answer(number, Client(gone=number == 3))) for number in (1, 2, 3, 4)]
        await asyncio.sleep(0.05)
        rest[3].cancel()
        release.set()
        return list(await asyncio.gather(first, *rest, return_exceptions=True))

    first, odd, even, gone, given_up = asyncio.run(run())
    assert (first, even) == (0, 2) and isinstance(odd, BadValue) and isinstance(gone, Departed)
    assert isinstance(given_up, asyncio.CancelledError)
    assert [list(asked) for asked in done] == [[0], [1, 2]]


def test_what_fails_as_a_whole_fails_for_all_of_a_batch_and_for_nobody_after_it() -> None:
    broken = [True]

    def work(asked: Sequence[int]) -> Sequence[int]:
        if broken:
            raise OSError("no space left")
        return asked

    async def run() -> None:
        batches: Batches[int, int] = Batches(work, CapacityLimiter(1))
        failed = await asyncio.gather(
            *(batches.answer(number, Client()) for number in range(3)), return_exceptions=True
        )
        assert all(isinstance(error, OSError) for error in failed)
        broken.clear()
        assert await batches.answer(7, Client()) == 7

    asyncio.run(run())


def test_a_batch_that_cannot_be_stored_is_queued_one_by_one(any_farm: Farm, monkeypatch: pytest.MonkeyPatch) -> None:
    any_farm.agent()
    model_id, queue_all = any_farm.upload(), quick_measure.queue_all
    refused: list[int] = []

    def refused_once(session: Session, wanted: Sequence[quick_measure.Wanted]) -> list[quick_measure.Outcome]:
        if not refused:  # as if a model was deleted between the look and the insert
            refused.append(len(wanted))
            raise IntegrityError("INSERT", {}, Exception("FOREIGN KEY constraint failed"))
        return queue_all(session, wanted)

    monkeypatch.setattr(quick_measure, "queue_all", refused_once)
    any_farm.ok("POST", "/jobs", json={"kind": "measure", "device": "host", "model_id": model_id})
    assert refused == [1]
