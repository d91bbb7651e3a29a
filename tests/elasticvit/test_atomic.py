"""Files that appear whole or not at all."""

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from elasticvit.atomic import (
    atomic_file,
    atomic_folder,
    check_out,
    make_folder,
    part_file,
    remove_part_folders,
    write_atomically,
    write_files,
)
from elasticvit.errors import DataError, ElasticVitError
from tests.small_disk import small_disk

Write = Callable[..., None]
LARGE = b"new" * 10_000


def _streamed(path: Path, data: bytes, **options: object) -> None:
    with atomic_file(path, single_writer=True, **options) as file:  # type: ignore[arg-type]
        file.write(data[:10])
        file.write(data[10:])


def _among_others(path: Path, data: bytes, **options: object) -> None:
    write_files({path.with_name("first"): b"", path: data}, **options)  # type: ignore[arg-type]


WRITERS: tuple[Write, ...] = (write_atomically, _streamed, _among_others)


@pytest.mark.parametrize("write", WRITERS)
def test_a_file_is_replaced_and_nothing_is_left_behind(write: Write, tmp_path: Path) -> None:
    path = tmp_path / "file"
    for data in (b"old", LARGE, b""):
        write(path, data)
        assert path.read_bytes() == data
    assert {entry.name for entry in tmp_path.iterdir()} <= {"file", "first"}


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("error", [None, DataError])
def test_a_full_disk_keeps_what_was_there(write: Write, error: type[ElasticVitError] | None, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with small_disk(1000), pytest.raises(error or OSError, match="File too large"):
        write(path, LARGE, error=error)
    assert list(tmp_path.iterdir()) == [path] and path.read_bytes() == b"old"


@pytest.mark.parametrize("write", WRITERS)
def test_what_is_no_file_is_not_replaced(write: Write, tmp_path: Path) -> None:
    pipe, folder = tmp_path / "pipe", tmp_path / "folder"
    os.mkfifo(pipe)
    folder.mkdir()
    for path, why in ((pipe, "a device or a pipe"), (folder, "a folder")):
        with pytest.raises(DataError, match=why):
            write(path, b"new", error=DataError)
    assert pipe.is_fifo() and folder.is_dir() and {entry.name for entry in tmp_path.iterdir()} == {"pipe", "folder"}
    with pytest.raises(DataError, match="names no file"):
        write_atomically(Path(), b"", error=DataError)


def test_several_files_are_written_or_none(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_bytes(b"old")
    with small_disk(1000), pytest.raises(OSError, match="File too large"):
        write_files({first: b"new", second: LARGE})
    assert list(tmp_path.iterdir()) == [first] and first.read_bytes() == b"old"
    with pytest.raises(DataError, match=f"there is no folder {tmp_path}/missing"):
        write_files({first: b"new", tmp_path / "missing" / "third": b""}, error=DataError)
    assert first.read_bytes() == b"old"


def test_an_error_of_the_caller_keeps_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(ZeroDivisionError), atomic_file(path, error=DataError) as file:
        file.write(b"new")
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == [path] and path.read_bytes() == b"old"


def test_modes_follow_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_atomically(tmp_path / "file", b"")
        write_atomically(tmp_path / "secret", b"", mode=0o600)
    finally:
        os.umask(before)
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("file", "secret")]
    assert modes == [0o640, 0o600]


def test_missing_folders_are_made_on_request(tmp_path: Path) -> None:
    path = tmp_path / "one" / "two" / "file"
    with pytest.raises(OSError, match="there is no folder"):
        write_atomically(path, b"")
    write_atomically(path, b"new", parents=True)
    assert path.read_bytes() == b"new"
    with pytest.raises(DataError, match="cannot make the folder"):
        make_folder(path / "below", DataError)
    with pytest.raises(DataError, match="one of the inputs"):
        check_out(path, [path], DataError)


@pytest.mark.medium
def test_a_killed_single_writer_leaves_one_file_that_the_next_overwrites(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path; from elasticvit.atomic import atomic_file\n"
        "with atomic_file(Path(sys.argv[1]), single_writer=True) as file:\n"
        "    file.write(b'half'); file.flush(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    path = tmp_path / "file"
    path.write_bytes(b"old")
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", code, str(path)], check=False)
        assert done.returncode == -signal.SIGKILL and path.read_bytes() == b"old"
        assert sorted(entry.name for entry in tmp_path.iterdir()) == [".file.part", "file"]
    write_atomically(path, b"new", single_writer=True)
    assert list(tmp_path.iterdir()) == [path] and path.read_bytes() == b"new"


def test_a_part_file_gets_a_name_that_is_known_late(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with part_file(tmp_path / ".part", mode=0o600) as part:
        part.file.write(LARGE)
        assert path.read_bytes() == b"old" and stat.S_IMODE(part.path.stat().st_mode) == 0o600
        part.keep(path)
    assert list(tmp_path.iterdir()) == [path] and path.read_bytes() == LARGE
    with part_file(tmp_path / ".part") as part:
        part.file.write(b"not kept")
        with pytest.raises(FileExistsError), part_file(tmp_path / ".part"):
            pass
        assert part.path.exists(), "a file of another writer is not removed"
    assert list(tmp_path.iterdir()) == [path] and path.read_bytes() == LARGE


def _is_complete(folder: Path) -> bool:
    return (folder / "facts").is_file()


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "folder"
    with pytest.raises(ZeroDivisionError), atomic_folder(path) as part:
        (part / "facts").touch()
        raise ZeroDivisionError
    assert list(path.parent.iterdir()) == []
    path.mkdir()
    (path / "torn").touch()
    with atomic_folder(path, _is_complete) as part:
        (part / "facts").write_bytes(b"first")
        assert not _is_complete(path)
    assert [file.name for file in path.iterdir()] == ["facts"] and list(path.parent.iterdir()) == [path]
    with atomic_folder(path, _is_complete) as part:
        (part / "facts").write_bytes(b"second")
    assert (path / "facts").read_bytes() == b"first" and list(path.parent.iterdir()) == [path]


@pytest.mark.medium
def test_what_killed_writers_of_a_folder_left_is_removed(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path; from elasticvit.atomic import atomic_folder\n"
        "with atomic_folder(Path(sys.argv[1])) as part:\n"
        "    (part / 'half').touch(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    for name in ("a[b]", "a[b]-longer"):
        done = subprocess.run([sys.executable, "-c", code, str(tmp_path / name)], check=False)
        assert done.returncode == -signal.SIGKILL
    remove_part_folders(tmp_path / "a[b]")
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".a[b]-longer-")
