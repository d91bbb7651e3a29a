"""Too many connections: those that wait make room, those that work do not, and /healthz always answers."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack

import pytest

from server.api.edge.bounds import SPARE_CONNECTIONS, Bounds
from server.api.edge.connections import Connections, Place, address_key
from tests.server.api.edge.edge_farm import App, eventually, is_open, rest, serving, status

pytestmark = pytest.mark.medium
GET = b"GET %s HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
HEALTH, WAIT, OTHER = GET % b"/healthz", GET % b"/wait", GET % b"/x"


@pytest.mark.parametrize("begun", [b"", b"GET /x HTTP/1.1\r\nHost: a\r\nX-A: "])
def test_silent_connections_keep_nobody_out(begun: bytes) -> None:
    with serving(App(), max_connections=20) as server, ExitStack() as stack:
        silent = [stack.enter_context(server.say(begun)) for _ in range(100)]
        assert status(server.ask(HEALTH)) == status(server.ask(OTHER)) == 200
        eventually(lambda: sum(map(is_open, silent)) <= 20)
        assert is_open(silent[-1]) and not is_open(silent[0])
        assert status(server.ask(HEALTH)) == 200


def test_where_all_work_a_newcomer_gets_503_and_health_an_answer() -> None:
    with serving(App(), max_connections=20) as server:
        busy = [server.say(WAIT) for _ in range(20)]
        eventually(lambda: server.app.waiting == 20)
        refused = server.ask(OTHER)
        assert status(refused) == 503 and b"retry-after" in refused
        assert status(server.ask(HEALTH)) == 200
        silent = [server.connect() for _ in range(3 * SPARE_CONNECTIONS)]
        assert status(server.ask(HEALTH)) == 200
        eventually(lambda: sum(map(is_open, silent)) <= SPARE_CONNECTIONS)
        server.app.go.set()
        assert all(status(rest(connection)) == 200 for connection in busy)
        assert status(server.ask(OTHER)) == 200
        for connection in silent:
            connection.close()


def test_one_address_does_not_take_all_unless_it_is_a_trusted_proxy() -> None:
    with serving(App(), max_connections=100, max_connections_per_address=10) as server:
        busy = [server.say(WAIT) for _ in range(10)]
        eventually(lambda: server.app.waiting == 10)
        assert status(server.ask(OTHER)) == 503 and status(server.ask(HEALTH)) == 200
        server.app.go.set()
        assert all(status(rest(connection)) == 200 for connection in busy)
    with serving(App(), max_connections=100, max_connections_per_address=10, trusted=("127.0.0.0/8",)) as server:
        silent = [server.connect() for _ in range(50)]
        eventually(lambda: server.connections == 50)
        assert all(map(is_open, silent))
        for connection in silent:
            connection.close()


class Silent:
    """A connection that does nothing."""

    def __init__(self) -> None:
        self.ended = False

    def end(self) -> None:
        self.ended = True

    def look(self, now_s: float) -> None:
        pass


def test_room_is_made_by_the_one_that_waits_longest() -> None:
    loop = asyncio.new_event_loop()
    pool = Connections(Bounds(max_connections=3, max_connections_per_address=2, backlog=1), loop)
    first, second, third = Silent(), Silent(), Silent()
    assert [pool.add(each, host) for each, host in ((first, "a"), (second, "b"), (third, "b"))] == [Place.NORMAL] * 3
    pool.works(first)
    pool.waits(first)  # now it waits for the shortest time
    assert pool.add(Silent(), "c") is Place.NORMAL
    assert (first.ended, second.ended, third.ended) == (False, True, False)
    mine = Silent()
    assert pool.add(mine, "a") is Place.NORMAL and third.ended and not first.ended
    pool.works(mine)
    pool.works(first)
    assert pool.add(Silent(), "a") is Place.SPARE
    pool.remove(first)
    pool.remove(first)
    assert pool.add(Silent(), "a") is Place.NORMAL
    loop.close()


def test_of_ipv6_a_network_counts_as_one_address() -> None:
    assert address_key("2001:db8:0:1::5") == address_key("2001:db8:0:1:ffff::1") != address_key("2001:db8:0:2::5")
    assert address_key("::ffff:10.0.0.1") == address_key("10.0.0.1") != address_key("10.0.0.2")
    assert address_key("fe80::1%eth0") == address_key("fe80::2")
    assert address_key("") == ""
