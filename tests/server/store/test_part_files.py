"""Files of the home folder appear whole or not at all, and what killed processes left is removed."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from server.errors import InfraError
from server.services.home import prepare
from server.settings import Settings
from server.store.blobs import copy_file, write_private
from server.store.part_files import PREFIX, STALE_SECONDS, part_file, remove_stale


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_a_kept_file_replaces_the_older_one(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_bytes(b"old")
    with part_file(tmp_path) as part:
        part.file.write(b"new")
        part.file.flush()
        assert target.read_bytes() == b"old" and part.path.read_bytes() == b"new"
        part.keep(target)
    assert target.read_bytes() == b"new" and names(tmp_path) == ["file"]


def test_nothing_is_left_of_a_file_that_is_not_kept(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_bytes(b"old")
    with pytest.raises(RuntimeError), part_file(tmp_path) as part:
        part.file.write(b"new")
        raise RuntimeError
    assert target.read_bytes() == b"old" and names(tmp_path) == ["file"]


def test_a_secret_is_private_from_the_start(tmp_path: Path) -> None:
    with part_file(tmp_path, mode=0o600) as part:
        assert stat.S_IMODE(part.path.stat().st_mode) == 0o600
    write_private(tmp_path / "token", "secret\n")
    assert stat.S_IMODE((tmp_path / "token").stat().st_mode) == 0o600
    assert (tmp_path / "token").read_text() == "secret\n" and names(tmp_path) == ["token"]
    (tmp_path / "folder").mkdir()
    with pytest.raises(InfraError, match="folder"):
        write_private(tmp_path / "folder", "secret\n")
    assert names(tmp_path) == ["token"]


def test_a_copy_that_fails_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"content")
    copy_file(tmp_path / "source", tmp_path / "target")
    assert (tmp_path / "target").read_bytes() == b"content"
    with pytest.raises(OSError, match="none"):
        copy_file(tmp_path / "none", tmp_path / "other")
    assert names(tmp_path) == ["source", "target"]


def folders_of(settings: Settings) -> tuple[Path, ...]:
    return (settings.home, settings.blobs_folder, settings.supernets_folder)


def left_in(settings: Settings) -> list[str]:
    return [path.name for folder in folders_of(settings) for path in folder.glob(f"{PREFIX}*")]


def test_a_start_removes_old_part_files_of_unknown_writers_from_every_folder(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "home")
    prepare(settings).close()
    elsewhere = f"{PREFIX}{'0' * 8}-1-abcdef"
    for folder in folders_of(settings):
        for name in (f"{PREFIX}old", f"{PREFIX}young", elsewhere):
            (folder / name).write_bytes(b"part")
        past = time.time() - 2 * STALE_SECONDS
        os.utime(folder / f"{PREFIX}old", (past, past))
    prepare(settings).close()
    assert sorted(left_in(settings)) == sorted([f"{PREFIX}young", elsewhere] * 3)


@pytest.mark.medium
@pytest.mark.parametrize("name", [None, f"{PREFIX}{{pid}}-0123456789ab"], ids=["written today", "of an older version"])
def test_a_start_removes_part_files_of_a_killed_process_at_once(name: str | None, tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "home")
    prepare(settings).close()
    code = (
        "import sys, time; from pathlib import Path; from server.store.part_files import part_file\n"
        "parts = [part_file(Path(folder)) for folder in sys.argv[1:]]\n"
        "for part in parts: part.__enter__()\n"
        "print('written', flush=True); time.sleep(600)"
    )
    writer = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, folders_of(settings))], stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout is not None and writer.stdout.readline() == "written\n"
    if name is not None:
        for folder in folders_of(settings):
            for path in folder.glob(f"{PREFIX}*"):
                path.rename(path.with_name(name.format(pid=writer.pid)))
    prepare(settings).close()
    assert len(left_in(settings)) == 3  # its writer lives
    writer.kill()
    writer.communicate()
    with part_file(settings.blobs_folder) as mine:
        prepare(settings).close()
        assert left_in(settings) == [mine.path.name]


def test_a_part_file_older_than_the_process_of_its_number_is_removed(tmp_path: Path) -> None:
    with part_file(tmp_path) as part:
        os.utime(part.path, (1, 1))
        remove_stale(tmp_path)
        assert names(tmp_path) == []
