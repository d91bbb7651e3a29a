"""All connections of a server process: how many there are, which of them wait, and which have taken too long.

A connection waits while no request of it is being answered: it is new, idle, or its headers are still arriving. When
there are too many, the one that waits longest is closed for the newcomer, so that silent connections keep nobody out.
Where none waits, a newcomer is answered with 503, but for /healthz.

One look at all connections from time to time replaces timers: setting and cancelling one for each request costs more.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto
from functools import lru_cache
from typing import Protocol

from server.api.edge.bounds import SPARE_CONNECTIONS, Bounds


class Place(Enum):
    """What a newcomer gets."""

    NORMAL = auto()
    SPARE = auto()
    """Beyond the limit: only /healthz is answered."""
    NONE = auto()


class Connection(Protocol):
    """What this module needs of one."""

    def end(self) -> None:
        """Close at once, so that the descriptor is free."""

    def look(self, now_s: float) -> None:
        """End what has taken too long."""


@dataclass
class _Address:
    connections: int = 0
    waiting: OrderedDict[Connection, None] = field(default_factory=OrderedDict)


class Connections:
    """Belongs to one event loop, like the connections themselves."""

    def __init__(self, bounds: Bounds, loop: asyncio.AbstractEventLoop) -> None:
        self.bounds = bounds
        self._loop = loop
        self._all: dict[Connection, str] = {}
        self._waiting: OrderedDict[Connection, None] = OrderedDict()
        self._addresses: dict[str, _Address] = {}
        self._trusted = _matcher(bounds.trusted)
        self._looking: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._all)

    def add(self, connection: Connection, host: str) -> Place:
        """Count a new connection, which waits, and make room for it. With Place.NONE it is not counted."""
        key = address_key(host)
        address = self._addresses.setdefault(key, _Address())
        limited = not self._trusted(host)
        place = Place.NORMAL
        if limited and address.connections >= self.bounds.max_connections_per_address:
            place = self._room(address.waiting)
        if place is Place.NORMAL and len(self._all) >= self.bounds.max_connections:
            place = self._room(self._waiting)
        if place is Place.SPARE and len(self._all) >= self.bounds.max_connections + SPARE_CONNECTIONS:
            place = Place.NONE
        if place is Place.NONE:
            self._drop_if_empty(key)
            return place
        self._addresses[key] = address
        address.connections += 1
        self._all[connection] = key
        self.waits(connection)
        if self._looking is None:
            self._looking = self._loop.call_later(self.bounds.tick_seconds, self._look)
        return place

    def remove(self, connection: Connection) -> None:
        """Forget a connection that has ended; doing so twice is harmless."""
        key = self._all.get(connection)
        if key is None:
            return
        self.works(connection)
        del self._all[connection]
        self._addresses[key].connections -= 1
        self._drop_if_empty(key)

    def waits(self, connection: Connection) -> None:
        """No request of it is being answered from now on."""
        key = self._all.get(connection)
        if key is not None:
            self._waiting[connection] = None
            self._addresses[key].waiting[connection] = None

    def works(self, connection: Connection) -> None:
        """A request of it is being answered."""
        key = self._all.get(connection)
        if key is not None:
            self._waiting.pop(connection, None)
            self._addresses[key].waiting.pop(connection, None)

    def _room(self, waiting: OrderedDict[Connection, None]) -> Place:
        if not waiting:
            return Place.SPARE
        longest = next(iter(waiting))
        self.remove(longest)
        longest.end()
        return Place.NORMAL

    def _drop_if_empty(self, key: str) -> None:
        address = self._addresses.get(key)
        if address is not None and address.connections == 0:
            del self._addresses[key]

    def _look(self) -> None:
        now_s = self._loop.time()
        for connection in list(self._all):
            connection.look(now_s)
        self._looking = self._loop.call_later(self.bounds.tick_seconds, self._look) if self._all else None


@lru_cache(maxsize=4096)
def address_key(host: str) -> str:
    """Whose a connection is: of IPv6 the network of 64 bits, since a single machine has all of its addresses."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv4Address):
        return host
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((int(address) >> 64 << 64, 64)))


def _matcher(trusted: tuple[str, ...]) -> Callable[[str], bool]:
    networks = [ipaddress.ip_network(text, strict=False) for text in trusted]

    def matches(host: str) -> bool:
        try:
            address = ipaddress.ip_address(host.partition("%")[0])
        except ValueError:
            return False
        return any(address in network for network in networks)

    return matches if networks else lambda _host: False
