"""Hints that something changed, for those who wait for it: threads and coroutines of this and of other processes.

A transaction collects its topics by `hint`; `Database.write` sends them when it is committed, never before. SQLite's
processes reach each other by datagrams (`server.wakeup`), PostgreSQL's by LISTEN and NOTIFY. A hint carries no content
and may be lost: whoever gets one looks, and whoever waits looks by itself every few seconds.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager

from sqlalchemy import text
from sqlmodel import Session

from server.store.postgres_hints import CHANNEL, PostgresListener
from server.wakeup import ANY, Datagrams

COMPUTE = "compute"
"""A compute job was queued."""
QUEUE = "queue"
"""Something changed that may let queued jobs be claimed, on whichever device."""
AGENTS = "agents"
"""A device or an agent changed hands: what is known of all agents is to be read again."""
MAX_PAYLOAD_BYTES = 7900  # PostgreSQL takes less than 8000
Wake = Callable[[], None]


def job_topic(job_id: str) -> str:
    """A job changed: its status, its progress or its result."""
    return f"job:{job_id}"


def device_topic(name: str) -> str:
    """A measuring job was queued for this device."""
    return f"device:{name}"


def hint(session: Session, *topics: str) -> None:
    """Tell those who wait for these topics, once the transaction is committed."""
    session.info.setdefault("hints", {}).update(dict.fromkeys(topics))


def hinted(session: Session) -> list[str]:
    """The topics of a transaction, each once."""
    return list(session.info.get("hints", ()))


class Hints:
    """The hints of one database in one process."""

    def __init__(self, url: str) -> None:
        self._lock = threading.Lock()
        self._wakes: dict[str, list[Wake]] = {}
        self._quiet: set[str] = set()
        self._sender = secrets.token_hex(8)
        self.postgres = PostgresListener(url, self._received) if url.startswith("postgresql") else None
        self._datagrams = Datagrams(url) if self.postgres is None else None

    def listen(self) -> None:
        """Receive the hints of other processes, too, until `close`."""
        if self.postgres is not None:
            self.postgres.start()
        if self._datagrams is not None:
            self._datagrams.listen(self._deliver)

    def close(self) -> None:
        if self.postgres is not None:
            self.postgres.close()
        if self._datagrams is not None:
            self._datagrams.close()

    @contextmanager
    def subscribed(self, topics: Collection[str], wake: Wake) -> Iterator[None]:
        """Inside, `wake` is called for every hint on one of the topics, in any thread; it must not wait."""
        with self._lock:
            for topic in topics:
                self._wakes.setdefault(topic, []).append(wake)
        try:
            yield
        finally:
            with self._lock:
                for topic in topics:
                    self._wakes[topic].remove(wake)
                    if not self._wakes[topic]:
                        del self._wakes[topic]

    def waiter(self, topic: str = COMPUTE) -> threading.Event:
        """An event that every hint on the topic sets, as long as this object lives; its thread clears it before it
        looks."""
        event = threading.Event()
        with self._lock:
            self._wakes.setdefault(topic, []).append(event.set)
        return event

    def note_quiet(self, topics: Collection[str]) -> None:
        """Call before looking for what the topics stand for: from then on `quiet` says whether a hint has come."""
        with self._lock:
            self._quiet.update(topics)

    def forget_quiet(self, topics: Collection[str]) -> None:
        """Something was found there."""
        with self._lock:
            self._quiet.difference_update(topics)

    def quiet(self, topics: Collection[str]) -> bool:
        """Whether no hint came on any of the topics since each was noted; False where hints may have been missed."""
        return (self.postgres is None or self.postgres.connected) and self._quiet.issuperset(topics)

    def topics(self, prefix: str) -> list[str]:
        """The topics with this prefix that somebody waits for now, without the prefix."""
        with self._lock:
            return [topic.removeprefix(prefix) for topic in self._wakes if topic.startswith(prefix)]

    def wake(self, topics: Collection[str]) -> None:
        """Wake those who wait in this process, without telling the others."""
        self._deliver(topics)

    def before_commit(self, session: Session) -> None:
        """PostgreSQL sends what the transaction hinted with its commit."""
        topics = hinted(session)
        if topics and self.postgres is not None:
            payload = "\n".join([self._sender, *topics])
            if len(payload.encode()) > MAX_PAYLOAD_BYTES:
                payload = f"{self._sender}\n{ANY}"
            session.execute(text("SELECT pg_notify(:channel, :payload)"), {"channel": CHANNEL, "payload": payload})

    def after_commit(self, topics: Collection[str]) -> None:
        """Wake this process, and those that read the same SQLite file."""
        if not topics:
            return
        self._deliver(topics)
        if self._datagrams is not None:
            self._datagrams.send(topics)

    def _received(self, payload: str) -> None:
        sender, *topics = payload.split("\n")
        if sender != self._sender:
            self._deliver(topics)

    def _deliver(self, topics: Collection[str]) -> None:
        with self._lock:
            if ANY in topics or QUEUE in topics:
                self._quiet.clear()
            else:
                self._quiet.difference_update(topics)
            if ANY in topics:
                wakes = [wake for wakes in self._wakes.values() for wake in wakes]
            else:
                wakes = [wake for topic in topics for wake in self._wakes.get(topic, ())]
        for wake in wakes:
            wake()
