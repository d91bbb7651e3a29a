"""Uploads at the API: bounded in number and bytes, checked apart, and never in the way of others."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import httpx
import pytest

from server.api.file_body import FormFile, pieces
from server.errors import BadValue, Busy
from server.services.uploads import UploadLimits, Uploads
from tests.server.server_farm import Farm, on_a_socket, problem, tiny_tflite
from tests.server.services.hostile_tflite import shared_tflite


@pytest.mark.parametrize("shares", [{"subgraphs": 2000, "tensors": 2000}, {"inputs": 1000, "name": b"n" * 50_000}])
def test_an_upload_that_costs_more_than_its_size_is_refused(any_farm: Farm, shares: dict[str, int]) -> None:
    document = problem(any_farm.call("POST", "/models", "user", content=shared_tflite(**shares)), 422)  # type: ignore[arg-type]
    assert "this server takes" in document["detail"]
    assert any_farm.ok("GET", "/models")["items"] == [] and any_farm.left_behind() == []


@pytest.mark.medium
def test_many_uploads_at_once_are_all_answered(any_farm: Farm) -> None:
    any_farm.secret("user")
    contents = [tiny_tflite(float(number)) for number in range(12)]
    with ThreadPoolExecutor(12) as threads:
        answers = list(threads.map(lambda content: any_farm.call("POST", "/models", "user", content=content), contents))
    assert {answer.status_code for answer in answers} == {201}
    assert len(any_farm.ok("GET", "/models")["items"]) == 12 and any_farm.left_behind() == []


def test_one_user_leaves_room_for_others() -> None:
    async def run() -> None:
        uploads = Uploads(UploadLimits(uploads=2, unfinished_bytes=100, wait_seconds=0.01))
        async with uploads.admitted("a") as first:
            first.add_bytes(50)
            with pytest.raises(Busy):
                first.add_bytes(1)
            with pytest.raises(Busy):
                async with uploads.admitted("a"):
                    pass
            async with uploads.admitted("b") as other:
                other.add_bytes(50)
                with pytest.raises(Busy) as busy:
                    async with uploads.admitted("c"):
                        pass
                assert busy.value.headers == {"Retry-After": "5"}
        async with uploads.admitted("a") as again:
            again.add_bytes(50)

    asyncio.run(run())


def test_an_upload_waits_for_its_turn() -> None:
    async def run() -> list[str]:
        uploads = Uploads(UploadLimits(uploads=1, unfinished_bytes=100, wait_seconds=60))
        order = []

        async def one(name: str) -> None:
            async with uploads.admitted(name):
                order.append(f"{name} begins")
                await asyncio.sleep(0)
                order.append(f"{name} ends")

        await asyncio.gather(*(one(name) for name in "abc"))
        return order

    assert asyncio.run(run()) == [f"{name} {what}" for name in "abc" for what in ("begins", "ends")]


def test_those_that_wait_are_bounded() -> None:
    async def run() -> None:
        uploads = Uploads(UploadLimits(uploads=1, unfinished_bytes=100, wait_seconds=60, waiting=0))
        async with uploads.admitted("a"):
            with pytest.raises(Busy):
                async with uploads.admitted("b"):
                    pass

    asyncio.run(run())


def test_unfinished_files_are_bounded(make_farm: Callable[..., Farm]) -> None:
    farm = make_farm(max_upload_mb=0.001, unfinished_uploads_mb=0.001)
    assert farm.state.settings.unfinished_uploads_bytes == 2000
    assert farm.call("POST", "/models", "user", content=tiny_tflite()).status_code == 201


FORM = (
    b'--x\r\nContent-Disposition: form-data; name="note"\r\n\r\nhello\r\n'
    b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.tflite"\r\n'
    b"Content-Type: application/octet-stream\r\n\r\nthe\r\n--bytes\r\n--x--\r\n"
)


@pytest.mark.parametrize("step", [1, 2, 7, 1000])
def test_a_form_is_read_in_pieces_of_any_size(step: int) -> None:
    form = FormFile(b"x")
    found = [piece for at in range(0, len(FORM), step) for piece in form.feed(FORM[at : at + step])]
    form.finish()
    assert b"".join(found) == b"the\r\n--bytes"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no form",
        FORM[:-20],
        FORM.replace(b"filename", b"nofile"),
        FORM.replace(b'"note"', b'"file"; filename="b"'),
        FORM[:-4].replace(b'"file"', b'"other"') + b"--\r\n",
        b"".join(b'--x\r\nContent-Disposition: form-data; name="n"\r\n\r\n\r\n' for _ in range(20)) + b"--x--\r\n",
        b"--x\r\n" + b"n" * 100_000 + b": v\r\n\r\n",
    ],
)
def test_a_form_that_is_not_well_formed_is_refused(body: bytes) -> None:
    def read() -> None:
        form = FormFile(b"x")
        form.feed(body)
        form.finish()

    with pytest.raises(BadValue):
        read()


def test_small_chunks_are_written_together() -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(3 << 17):
            yield b"x"

    async def run() -> list[int]:
        return [len(piece) async for piece in pieces(chunks())]

    assert asyncio.run(run()) == [1 << 18, 1 << 17]


@pytest.mark.medium
def test_uploads_that_stall_hold_up_nobody_else(make_farm: Callable[..., Farm]) -> None:
    """More of them than there are threads for requests; none of them holds one."""
    farm = make_farm(max_uploads=120)
    secret, head = farm.secret("user"), b"POST /models HTTP/1.1\r\nHost: here\r\nContent-Length: 1000000\r\n"
    with on_a_socket(farm) as url, ExitStack() as sockets:
        for _ in range(60):
            stalled = sockets.enter_context(socket.create_connection(("127.0.0.1", int(url.rsplit(":", 1)[1]))))
            stalled.sendall(head + f"Authorization: Bearer {secret}\r\n\r\n".encode() + b"half of it")
        headers = {"Authorization": f"Bearer {farm.secret('admin')}"}
        answer = httpx.post(f"{url}/models", headers=headers, content=tiny_tflite(), timeout=60)
        assert answer.status_code == 201
        assert len(httpx.get(f"{url}/models", headers=headers, timeout=60).json()["items"]) == 1
