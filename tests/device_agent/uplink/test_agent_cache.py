"""Model files by sha256: whole or not there, and never more than the cap."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from device_agent.cancellation import Cancellation
from device_agent.errors import Cancelled, InfraFault, ServerAway
from device_agent.uplink.cache import Cache, CorruptDownload
from server.wire import BlobRef

Source = Callable[[BlobRef], Iterator[bytes]]


def blob_of(data: bytes) -> BlobRef:
    sha256 = hashlib.sha256(data).hexdigest()
    return BlobRef(sha256=sha256, size_bytes=len(data), url=f"/blobs/{sha256}")


class Store:
    """A source of files that counts, in chunks of two bytes."""

    def __init__(self, *files: bytes) -> None:
        self.files = {blob_of(data).sha256: data for data in files}
        self.fetched: list[str] = []
        self.breaks = False

    @contextmanager
    def download(self, blob: BlobRef) -> Iterator[Iterator[bytes]]:
        self.fetched.append(blob.sha256)
        yield self._chunks(self.files[blob.sha256])

    def _chunks(self, data: bytes) -> Iterator[bytes]:
        for start in range(0, len(data), 2):
            if self.breaks and start > 2:
                raise ServerAway("the line broke")
            yield data[start : start + 2]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_fetched_once_and_stays(tmp_path: Path) -> None:
    store, blob = Store(b"abcdef"), blob_of(b"abcdef")
    for cache in (Cache(tmp_path, 100, store.download), Cache(tmp_path, 100, store.download)):
        for _ in range(2):
            with cache.hold(blob, Cancellation()) as path:
                assert path.read_bytes() == b"abcdef"
    assert store.fetched == [blob.sha256]
    assert names(tmp_path) == [blob.sha256]


def test_a_file_that_the_disk_damaged_is_fetched_again(tmp_path: Path) -> None:
    store, blob = Store(b"abcdef"), blob_of(b"abcdef")
    (tmp_path / blob.sha256).write_bytes(b"abcdeX")
    with Cache(tmp_path, 100, store.download).hold(blob, Cancellation()) as path:
        assert path.read_bytes() == b"abcdef"


@pytest.mark.parametrize("served", [b"abcdeX", b"abcd", b"", b"abcdefgh"])
def test_other_bytes_than_the_named_ones_leave_nothing(tmp_path: Path, served: bytes) -> None:
    store, blob = Store(), blob_of(b"abcdef")
    store.files[blob.sha256] = served
    with pytest.raises(CorruptDownload), Cache(tmp_path, 100, store.download).hold(blob, Cancellation()):
        pass
    assert names(tmp_path) == []


def test_a_broken_line_leaves_nothing_and_the_next_try_succeeds(tmp_path: Path) -> None:
    store, blob = Store(b"abcdef"), blob_of(b"abcdef")
    cache = Cache(tmp_path, 100, store.download)
    store.breaks = True
    with pytest.raises(ServerAway), cache.hold(blob, Cancellation()):
        pass
    assert names(tmp_path) == []
    store.breaks = False
    with cache.hold(blob, Cancellation()) as path:
        assert path.read_bytes() == b"abcdef"


def test_a_halt_ends_a_download(tmp_path: Path) -> None:
    store, cancellation = Store(b"abcdef"), Cancellation()
    cancellation.set("enough")
    with (
        pytest.raises(Cancelled, match="enough"),
        Cache(tmp_path, 100, store.download).hold(blob_of(b"abcdef"), cancellation),
    ):
        pass
    assert names(tmp_path) == []


def test_the_longest_unused_goes_first(tmp_path: Path) -> None:
    files = [b"aaaa", b"bbbb", b"cccc", b"dddd"]
    store = Store(*files)
    cache = Cache(tmp_path, 12, store.download)
    for age, data in zip((30, 20, 10), files[:3], strict=True):
        with cache.hold(blob_of(data), Cancellation()) as path:
            os.utime(path, ns=(0, path.stat().st_mtime_ns - age * 10**9))
    with cache.hold(blob_of(b"aaaa"), Cancellation()):  # used again, so now b is the oldest
        pass
    with cache.hold(blob_of(b"dddd"), Cancellation()):
        pass
    assert names(tmp_path) == sorted(blob_of(data).sha256 for data in (b"aaaa", b"cccc", b"dddd"))


def test_a_file_in_use_is_not_removed(tmp_path: Path) -> None:
    store = Store(b"aaaa", b"bbbb", b"cccc")
    cache = Cache(tmp_path, 8, store.download)
    with cache.hold(blob_of(b"aaaa"), Cancellation()) as kept:
        os.utime(kept, ns=(0, 0))
        for data in (b"bbbb", b"cccc"):
            with cache.hold(blob_of(data), Cancellation()):
                pass
        assert kept.exists()
        with (
            cache.hold(blob_of(b"bbbb"), Cancellation()),
            pytest.raises(InfraFault, match="CACHE_MB"),
            cache.hold(blob_of(b"cccc"), Cancellation()),
        ):
            pass


class GatedStore(Store):
    """A source whose file `gated` begins to come only when `gate` is set."""

    def __init__(self, gated: bytes, *files: bytes) -> None:
        super().__init__(gated, *files)
        self.gate, self.requested = threading.Event(), threading.Event()
        self._gated = blob_of(gated).sha256

    @contextmanager
    def download(self, blob: BlobRef) -> Iterator[Iterator[bytes]]:
        if blob.sha256 == self._gated:
            self.requested.set()
            assert self.gate.wait(30)
        with super().download(blob) as chunks:
            yield chunks


def hold(cache: Cache, data: bytes) -> bytes:
    with cache.hold(blob_of(data), Cancellation()) as path:
        return path.read_bytes()


def test_a_file_does_not_wait_for_the_download_of_another(tmp_path: Path) -> None:
    store = GatedStore(b"slow", b"fast")
    cache = Cache(tmp_path, 100, store.download)
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(hold, cache, b"slow")
        assert store.requested.wait(30)
        assert hold(cache, b"fast") == b"fast"
        assert not slow.done()
        store.gate.set()
        assert slow.result(30) == b"slow"


def test_two_devices_that_need_one_file_download_it_once(tmp_path: Path) -> None:
    store = GatedStore(b"slow")
    cache = Cache(tmp_path, 100, store.download)
    with ThreadPoolExecutor(4) as pool:
        holders = [pool.submit(hold, cache, b"slow") for _ in range(4)]
        assert store.requested.wait(30)
        store.gate.set()
        assert [holder.result(30) for holder in holders] == [b"slow"] * 4
    assert len(store.fetched) == 1


def test_downloads_at_once_do_not_exceed_the_cap_together(tmp_path: Path) -> None:
    store = GatedStore(b"aaaa", b"bbbb")
    cache = Cache(tmp_path, 7, store.download)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(hold, cache, b"aaaa")
        assert store.requested.wait(30)
        with pytest.raises(InfraFault, match="no room"):
            hold(cache, b"bbbb")
        store.gate.set()
        assert first.result(30) == b"aaaa"


def test_a_device_that_waits_for_a_download_can_be_cancelled(tmp_path: Path) -> None:
    store, cancellation = GatedStore(b"slow"), Cancellation()
    cache = Cache(tmp_path, 100, store.download)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(hold, cache, b"slow")
        assert store.requested.wait(30)
        cancellation.set("enough")
        with pytest.raises(Cancelled, match="enough"), cache.hold(blob_of(b"slow"), cancellation):
            pass
        store.gate.set()
        assert first.result(30) == b"slow"


def test_half_files_of_a_killed_agent_are_removed_at_start(tmp_path: Path) -> None:
    (tmp_path / f".{'0' * 64}.part").write_bytes(b"half")
    Cache(tmp_path, 100, Store().download)
    assert names(tmp_path) == []
