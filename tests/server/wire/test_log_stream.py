"""Log lines are dropped and counted where they cannot be written, and log files stay small."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from server import logs
from server.wire.log_file import LogFile
from server.wire.log_stream import LogStream
from tests.small_disk import small_disk

CONFIGURE = {
    "server": "from server import logs; logs.configure('info', file)",
    "agent": "from device_agent import logs; logs.configure('info', file)",
}


def reported(count: int) -> str:
    return f"{count} dropped"


@pytest.fixture
def descriptor(tmp_path: Path) -> Iterator[int]:
    file = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    yield file
    os.close(file)


def replace(descriptor: int, path: str | Path, flags: int = os.O_WRONLY | os.O_APPEND) -> None:
    other = os.open(path, flags)
    os.dup2(other, descriptor)
    os.close(other)


def test_lines_that_a_full_disk_refuses_are_counted_and_reported(descriptor: int, tmp_path: Path) -> None:
    stream = LogStream(reported, descriptor)
    stream.write("first\n")
    replace(descriptor, "/dev/full")
    stream.write("lost\n")
    stream.write("lost\nlost, too\n")
    replace(descriptor, tmp_path / "log")
    stream.write("second\n")
    stream.write("third\n")
    assert (tmp_path / "log").read_text() == "first\n3 dropped\nsecond\nthird\n"


def test_a_line_that_was_torn_ends_before_the_next_one(descriptor: int, tmp_path: Path) -> None:
    stream = LogStream(reported, descriptor)
    with small_disk(10):
        stream.write("a line that is too long\n")
        stream.write("another\n")
    stream.write("whole\n")
    assert (tmp_path / "log").read_text() == "a line tha\n2 dropped\nwhole\n"


def test_a_reader_that_stopped_or_is_gone_does_not_stop_the_writer() -> None:
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    stream = LogStream(reported, writer)
    for number in range(3):
        stream.write(f"{number}" * 3000 + "\n")
    assert os.read(reader, 100_000).startswith(b"000")
    stream.write("again\n")
    assert os.read(reader, 100_000) == b"2 dropped\nagain\n"
    os.close(reader)
    stream.write("to nobody\n")
    os.close(writer)


def test_what_no_encoding_holds_is_escaped(descriptor: int, tmp_path: Path) -> None:
    LogStream(reported, descriptor).write("a lone \udc80\n")
    assert (tmp_path / "log").read_text() == "a lone \\udc80\n"


def files(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in sorted(folder.glob("log*"))}


def test_a_new_file_is_begun_and_the_oldest_goes(descriptor: int, tmp_path: Path) -> None:
    file = LogFile(tmp_path / "log", max_bytes=10, kept=3, descriptors=(descriptor,))
    file.open()
    stream = LogStream(reported, descriptor, file)
    for number in range(9):
        stream.write(f"line {number}\n")
    assert files(tmp_path) == {
        "log": "line 8\n",
        "log.1": "line 6\nline 7\n",
        "log.2": "line 4\nline 5\n",
    }


def test_a_line_that_another_process_left_torn_is_ended(descriptor: int, tmp_path: Path) -> None:
    (tmp_path / "log").write_text("a tor")
    LogFile(tmp_path / "log", descriptors=(descriptor,)).open()
    LogStream(reported, descriptor).write("whole\n")
    assert files(tmp_path) == {"log": "a tor\nwhole\n"}


def test_two_processes_write_to_one_file(descriptor: int, tmp_path: Path) -> None:
    other = os.dup(descriptor)
    streams = []
    for one in (descriptor, other):
        file = LogFile(tmp_path / "log", max_bytes=10, kept=3, descriptors=(one,))
        file.open()
        streams.append(LogStream(reported, one, file))
    streams[0].write("a long line\n")
    streams[0].write("first\n")  # in a new file
    streams[1].write("second\n")
    streams[1].write("third\n")
    os.close(other)
    assert files(tmp_path) == {"log": "third\n", "log.1": "first\nsecond\n", "log.2": "a long line\n"}


LOGGING = """
import os, sys, structlog
from pathlib import Path
file = Path(sys.argv[1]) if len(sys.argv) > 1 else None
{configure}
class Odd:
    def __repr__(self): raise ValueError
log = structlog.get_logger()
log.info("begun")
os.write(2, b"of a library\\n") if file else None
try:
    1 / 0
except ZeroDivisionError:
    log.exception("failed", text="\\udc80")
"""


@pytest.mark.medium
@pytest.mark.parametrize("program", CONFIGURE)
def test_a_process_writes_all_its_words_to_its_file_and_goes_on_without_one(program: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", LOGGING.format(configure=CONFIGURE[program])]
    file = tmp_path / "logs" / "it.log"
    done = subprocess.run([*command, str(file)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    text = file.read_text()
    assert all(words in text for words in ("begun", "of a library", "failed", "ZeroDivisionError", "udc80"))
    with Path("/dev/full").open("wb") as full:
        assert subprocess.run(command, stdout=full, stderr=full, check=False).returncode == 0
    done = subprocess.run([*command, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "cannot be opened" in done.stderr and "ZeroDivisionError" in done.stderr


def test_a_value_that_cannot_be_written_costs_its_line_only(capfd: pytest.CaptureFixture[str]) -> None:
    class Odd:
        def __repr__(self) -> str:
            raise ValueError

    try:
        logs.configure("info")
        structlog.get_logger().info("odd", value=Odd())
        structlog.get_logger().info("even")
    finally:
        structlog.reset_defaults()
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    assert [line["event"] for line in lines] == ["a log line could not be written: ValueError", "even"]
