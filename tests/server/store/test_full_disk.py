"""A disk that is full to the last byte: refusals that change nothing, answers that only read, and no lasting damage."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from server.services import presence
from server.services.clock_jumps import Jumps
from tests.server.server_farm import Farm, on_a_socket, problem, tiny_tflite
from tests.small_disk import filled, small_filesystem

DISK_BYTES = 8_000_000
pytestmark = pytest.mark.medium


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_filesystem(tmp_path / "home", DISK_BYTES) as folder:
        yield folder


@pytest.fixture
def farm(disk: Path, make_farm: Callable[..., Farm]) -> Farm:
    farm = make_farm(min_free_mb=1.0)
    assert farm.home == disk
    farm.supernet()
    farm.secret("user")
    farm.secret("agent")
    return farm


def test_posts_are_507_and_store_nothing_and_reads_go_on(farm: Farm) -> None:
    farm.predictor()
    model, job = farm.upload(), farm.measure_job()
    counted = {path: len(farm.ok("GET", path)["items"]) for path in ("/models", "/jobs", "/tokens", "/measurements")}
    blobs = farm.blob_count()
    with filled(farm.home):
        refused = {
            "/models": {"content": tiny_tflite(3.0) + bytes(100_000)},
            "/jobs": {"json": {"kind": "measure", "device": "host", "model_id": model}},
            "/search": {"json": {"device": "host", "budget": {"latency_ms": 5.0}}},
            "/tokens": {"json": {"name": "x", "role": "viewer"}},
        }
        for path, body in refused.items():
            for _ in range(20):  # a log that is written over takes some rows more
                answer = farm.call("POST", path, **body)  # type: ignore[arg-type]
                if answer.status_code == 507:
                    break
                assert answer.status_code in (201, 202), answer.text
                counted[{"/search": "/jobs"}.get(path, path)] += 1
            problem(answer, 507, "infra")
        for path in (*counted, f"/jobs/{job}", f"/models/{model}", "/devices/host", "/predictors", "/metrics"):
            assert farm.call("GET", path).status_code == 200, path
        assert farm.call("GET", f"/models/{model}/download").content == tiny_tflite()
        assert farm.call("GET", "/healthz", None).status_code == 200
        answer = farm.call("GET", "/readyz", None)
        assert answer.status_code == 503 and "disk" in answer.json()["waiting_for"]
        for path, count in counted.items():
            assert len(farm.ok("GET", path)["items"]) == count, path
    assert farm.blob_count() == blobs and not farm.left_behind()
    assert farm.call("GET", "/readyz", None).status_code == 200
    assert farm.upload(tiny_tflite(3.0))
    with closing(sqlite3.connect(farm.home / "farm.db")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_requests_that_share_a_transaction_are_refused_together_and_none_of_them_is_stored(farm: Farm) -> None:
    farm.agent()
    model_id, admin = farm.upload(), farm.secret("admin")
    stored, refused = 0, 0

    def post(runs: int) -> httpx.Response:
        body = {"kind": "measure", "device": "host", "model_id": model_id, "protocol": {"runs": runs}}
        return httpx.post(f"{url}/jobs", json=body, headers={"Authorization": f"Bearer {admin}"}, timeout=60.0)

    with on_a_socket(farm) as url, ThreadPoolExecutor(20) as pool:
        with filled(farm.home):
            fill_the_log_of_the_database(farm)
            for answer in pool.map(post, range(1, 101)):
                refused += answer.status_code == 507
                stored += answer.status_code == 202
        assert refused > 50 and refused + stored == 100, "a log that is written over takes some rows more"
        assert len(farm.ok("GET", "/jobs", params={"max_results": 200})["items"]) == stored
        assert {answer.status_code for answer in pool.map(post, range(201, 221))} == {202}
    assert len(farm.ok("GET", "/jobs", params={"max_results": 200})["items"]) == stored + 20


def test_leases_that_run_out_meanwhile_are_taken_back_afterwards(farm: Farm) -> None:
    agent = farm.agent()
    job = farm.measure_job()
    lease = farm.lease(agent)
    assert lease is not None
    sweeper = farm.state.sweeper
    sweeper._jumps = Jumps(lambda: farm.clock().timestamp())  # time passes, the clock is not set
    with filled(farm.home):
        farm.clock.pass_seconds(100)
        fill_the_log_of_the_database(farm)
        for _ in range(3):
            sweeper._try()
        assert sweeper.last.failures == 3 and "no space" in str(sweeper.last.why)
        answer = farm.call("GET", "/readyz", None)
        assert answer.status_code == 503 and {"database", "disk"} <= set(answer.json()["waiting_for"])
        assert farm.ok("GET", f"/jobs/{job}")["status"] in ("leased", "running")
    sweeper._try()
    assert farm.ok("GET", f"/jobs/{job}")["status"] == "queued"
    assert farm.call("GET", "/readyz", None).status_code == 200


def fill_the_log_of_the_database(farm: Farm) -> None:
    """SQLite writes over the part of its log that is in the database by now; after that nothing is taken."""
    member = presence.Member.of_this_process("server")
    for number in range(500):
        try:
            with farm.database.write() as session:
                presence.mark(session, presence.Member(f"{member.id}-{number}", "server"), farm.clock())
        except Exception:
            return
    raise AssertionError("the disk is not full")


@pytest.mark.parametrize("gone", [(), ("-shm",), ("-shm", "-wal")], ids=["killed", "without shm", "stopped"])
def test_a_database_is_opened_and_read_on_a_full_disk(gone: tuple[str, ...], farm: Farm, tmp_path: Path) -> None:
    """Also where SQLite has to make the files beside it; what it cannot make ends as DiskFull, and later it goes on."""
    model = farm.upload()
    home = tmp_path / "other"
    with closing(sqlite3.connect(farm.home / "farm.db")) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    shutil.copytree(farm.home, home)
    with small_filesystem(tmp_path / "disk", DISK_BYTES) as disk:
        for path in home.glob("farm.db*"):
            if not path.name.endswith(gone or ("none",)):
                shutil.copy(path, disk)
        shutil.copy(home / "admin.token", disk)
        with filled(disk):
            opened = opening(disk)
        assert opened in ([model], ["DiskFull"])
        assert opened == [model] or gone, "nothing had to be made"
        assert opening(disk) == [model]


def opening(home: Path) -> list[str]:
    """What a process that opens the home reads: its models, or the name of the error."""
    code = (
        "import sys; from pathlib import Path\n"
        "from sqlmodel import select\n"
        "from server import logs; logs.configure('error')\n"
        "from server.errors import ServerError; from server.store.tables import Model\n"
        "from server.services.home import prepare\n"
        "from server.settings import Settings\n"
        "try:\n"
        "  database = prepare(Settings(home=Path(sys.argv[1])))\n"
        "  with database.read() as session: print(*session.exec(select(Model.id)))\n"
        "except ServerError as error: print(type(error).__name__)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(home)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()
