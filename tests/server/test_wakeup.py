"""Datagrams between the processes of one home."""

import queue

import pytest

from server.wakeup import ANY, MAX_BYTES, Datagrams

PATIENCE_SECONDS = 60


@pytest.mark.parametrize("url", ["sqlite:////tmp/home/farm.db", "sqlite:////tmp/caf\udce9/farm.db"], ids=ascii)
def test_a_sender_reaches_the_listeners_of_its_database_and_no_other(url: str) -> None:
    received: queue.Queue[list[str]] = queue.Queue()
    strange: list[list[str]] = []
    listener, other, sender = Datagrams(url), Datagrams(f"{url}-other"), Datagrams(url)
    listener.listen(received.put)
    other.listen(strange.append)
    sender.send(["compute", "job:job-1"])
    assert received.get(timeout=PATIENCE_SECONDS) == ["compute", "job:job-1"]
    assert strange == []
    for one in (listener, other, sender):
        one.close()


def test_more_topics_than_fit_into_a_datagram_are_sent_as_any() -> None:
    received: queue.Queue[list[str]] = queue.Queue()
    listener, sender = Datagrams("sqlite:////tmp/many/farm.db"), Datagrams("sqlite:////tmp/many/farm.db")
    listener.listen(received.put)
    sender.send([f"job:job-{number}" for number in range(MAX_BYTES)])
    assert received.get(timeout=PATIENCE_SECONDS) == [ANY]
    listener.close()
    sender.close()


def test_a_listener_does_not_hear_itself() -> None:
    received: queue.Queue[list[str]] = queue.Queue()
    listener, sender = Datagrams("sqlite:////tmp/self/farm.db"), Datagrams("sqlite:////tmp/self/farm.db")
    listener.listen(received.put)
    listener.send(["mine"])
    sender.send(["theirs"])
    assert received.get(timeout=PATIENCE_SECONDS) == ["theirs"]
    listener.close()
    sender.close()
