"""Parts of the edge by themselves: the shape of JSON, tokens that are kept, threads that are waited for, bounds."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from anyio import to_thread
from hypothesis import given
from hypothesis import strategies as st

from server.api.edge.admission import Admission
from server.api.edge.bodies import Departed
from server.api.edge.bounds import Bounds
from server.api.edge.json_shape import MAX_DEPTH, check_shape, depth
from server.api.edge.token_cache import MAX_UNKNOWN, TokenCache
from server.errors import BadValue, Unavailable
from server.settings import Settings
from server.store.tables import Token

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(alphabet='[]{}"\\,:x', max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text('[{"\\', max_size=3), inner, max_size=3),
    max_leaves=10,
)


def real_depth(value: object) -> int:
    if isinstance(value, dict):
        return 1 + max(map(real_depth, value.values()), default=0)
    if isinstance(value, list):
        return 1 + max(map(real_depth, value), default=0)
    return 0


@pytest.mark.medium
@given(VALUES)
def test_the_depth_of_json_is_found_without_parsing_it(value: object) -> None:
    assert depth(json.dumps(value).encode()) == real_depth(value)
    assert depth(json.dumps(value, ensure_ascii=False).encode()) == real_depth(value)


def test_brackets_in_strings_are_not_depth() -> None:
    check_shape(json.dumps({"log": "[" * 50_000 + '\\"{' * 100}).encode())
    check_shape(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH)
    with pytest.raises(BadValue, match="nests"):
        check_shape(b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1))
    check_shape(b"[1,2]" * 1000, max_values=10_000)
    with pytest.raises(BadValue, match="values"):
        check_shape(b"[" + b"1," * 20 + b"1]", max_values=20)


class Tokens:
    """A database of tokens that counts what it is asked."""

    def __init__(self, *known: str) -> None:
        self.known = set(known)
        self.asked: list[list[str]] = []
        self.fails = False
        self.go = threading.Event()
        self.go.set()

    def __call__(self, digests: Sequence[str]) -> Mapping[str, Token]:
        self.asked.append(list(digests))
        found = {digest: token(digest) for digest in digests if digest in self.known}
        self.go.wait(60)
        if self.fails:
            raise Unavailable("the database is gone")
        return found


def token(digest: str) -> Token:
    return Token(id=digest, name="t", role="user", secret_sha256=digest, created_at=datetime(2026, 1, 1, tzinfo=UTC))


@pytest.mark.medium
def test_a_flood_of_unknown_tokens_is_a_few_queries() -> None:
    async def flood() -> None:
        stored = Tokens("good")
        cache = TokenCache(stored, 2.0, lambda: 0.0)
        found = await asyncio.gather(*(cache.find(f"bad-{i}") for i in range(3000)), cache.find("good"))
        assert found[:-1] == [None] * 3000 and found[-1] is not None
        assert len(stored.asked) <= 10
        await asyncio.gather(*(cache.find(f"bad-{i}") for i in range(3000)))
        assert len(stored.asked) <= 10
        for i in range(2):
            await asyncio.gather(*(cache.find(f"worse-{i}-{j}") for j in range(MAX_UNKNOWN)))
        asked = len(stored.asked)
        assert await cache.find("good") is not None and len(stored.asked) == asked  # a flood pushes out no good ones

    asyncio.run(flood())


def test_what_is_kept_ends_with_its_lifetime_or_at_once() -> None:
    async def use() -> None:
        now_s = 0.0
        stored = Tokens("good")
        cache = TokenCache(stored, 2.0, lambda: now_s)
        for _ in range(5):
            assert await cache.find("good") is not None
        assert len(stored.asked) == 1
        stored.known.clear()
        assert await cache.find("good") is not None
        now_s = 2.1
        assert await cache.find("good") is None
        stored.known.add("good")
        assert await cache.find("good") is None
        cache.forget()
        assert await cache.find("good") is not None

    asyncio.run(use())


def test_a_token_revoked_while_it_is_asked_for_is_not_kept() -> None:
    async def race() -> None:
        stored = Tokens("good")
        stored.go.clear()
        cache = TokenCache(stored, 100.0)
        asking = asyncio.create_task(cache.find("good"))
        while not stored.asked:
            await asyncio.sleep(0.01)
        stored.known.clear()
        cache.forget()
        stored.go.set()
        assert await asking is not None  # it was good when the request came
        assert await cache.find("good") is None

    asyncio.run(race())


def test_a_lookup_that_fails_fails_those_who_wait_and_nobody_else() -> None:
    async def fail() -> None:
        stored = Tokens("good")
        stored.fails = True
        cache = TokenCache(stored, 2.0)
        results = await asyncio.gather(*(cache.find("good") for _ in range(5)), return_exceptions=True)
        assert all(isinstance(result, Unavailable) for result in results)
        stored.fails = False
        assert await cache.find("good") is not None

    asyncio.run(fail())


def test_the_work_of_a_client_that_left_while_it_waited_for_a_thread_is_not_begun() -> None:
    async def leave() -> None:
        to_thread.current_default_thread_limiter().total_tokens = 1
        admission, go, ran = Admission(), asyncio.Event(), list[str]()

        async def app(scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401
            ran.append(scope["path"])
            if scope["path"] == "first":
                await go.wait()
            assert (await receive())["type"] == "http.request"

        def client(path: str, *messages: str) -> asyncio.Task[None]:
            queue: asyncio.Queue[dict[str, str]] = asyncio.Queue()
            for message in messages:
                queue.put_nowait({"type": message})

            async def send(message: Any) -> None:  # noqa: ANN401
                raise AssertionError(message)

            return asyncio.create_task(admission.run(app, {"path": path}, queue.get, send))

        first = client("first", "http.request")
        await asyncio.sleep(0)
        left, stays = client("left", "http.request", "http.disconnect"), client("stays", "http.request")
        await asyncio.sleep(0.01)
        assert ran == ["first"]
        go.set()
        done = await asyncio.gather(first, left, stays, return_exceptions=True)
        assert ran == ["first", "stays"] and isinstance(done[1], Departed) and done[0] is done[2] is None

    asyncio.run(leave())


def test_the_number_of_connections_follows_from_the_limit_on_open_files() -> None:
    few = Bounds.of(Settings(), 1024)
    assert few.max_connections == 384 and few.max_connections_per_address == 192 and few.backlog == 128
    many = Bounds.of(Settings(), 1_000_000)
    assert many.max_connections == 4096 and many.max_connections_per_address == 2048
    asked = Bounds.of(Settings(max_connections=10_000, max_connections_per_address=50), 100_000)
    assert asked.max_connections == 10_000 and asked.max_connections_per_address == 50
    assert Bounds.of(Settings(max_connections=10_000), 1024).max_connections == 384


def test_proxies_are_named_by_address() -> None:
    assert Settings().proxies == ()
    assert Settings(trusted_proxies="10.0.0.5, 10.1.0.0/16,").proxies == ("10.0.0.5", "10.1.0.0/16")
    with pytest.raises(ValueError, match="evil"):
        Settings(trusted_proxies="10.0.0.5,evil")
