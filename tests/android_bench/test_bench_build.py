"""Building the program and finding LiteRT's library."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from android_bench import build
from android_bench.errors import BenchBuildError

E_MACHINE_AARCH64 = 183


def test_host_build_runs_and_is_kept(bench_program: Path) -> None:
    before = bench_program.stat()
    assert build.build_host() == bench_program
    assert bench_program.stat().st_mtime_ns == before.st_mtime_ns
    outcome = subprocess.run([bench_program, "--version"], capture_output=True, text=True, timeout=10, check=True)
    assert outcome.stdout.startswith("android_bench ")


@pytest.mark.medium
def test_two_builders_at_once_both_get_the_program(tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        made = list(pool.map(lambda _: build.build_host(tmp_path), range(2)))
    assert made[0] == made[1]
    subprocess.run([made[0], "--version"], timeout=10, check=True, stdout=subprocess.DEVNULL)
    assert list(made[0].parent.iterdir()) == [made[0]]


@pytest.mark.medium
def test_phone_build_is_a_64_bit_arm_program(tmp_path: Path) -> None:
    header = build.build_phone_glibc(tmp_path).read_bytes()[:20]
    assert header[:4] == b"\x7fELF"
    assert header[4] == 2  # 64 bits
    assert int.from_bytes(header[18:20], "little") == E_MACHINE_AARCH64


def test_build_id_follows_the_content(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"one")
    (tmp_path / "b").write_bytes(b"two")
    ids = {build.build_id(tmp_path / name) for name in ("a", "b", "a")}
    assert len(ids) == 2
    assert all(len(one) == 12 for one in ids)


def test_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(BenchBuildError, match="file/build"):
        build.build_host(tmp_path / "file" / "build")


def test_library_is_found_without_importing_it() -> None:
    code = "import sys; from android_bench import build; build.host_library(); print('ai_edge_litert' in sys.modules)"
    outcome = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert outcome.stdout.strip() == "False"
    assert build.host_library().name == "libLiteRt.so"
    assert build.host_library_version().count(".") >= 1


def test_missing_packages_say_what_to_install(tmp_path: Path) -> None:
    code = (
        "import sys; sys.path = [sys.argv[1]] + [p for p in sys.path if 'site-packages' not in p]\n"
        "from android_bench import build\n"
        "compile_host = lambda: build.build_host(build.Path(sys.argv[2]))\n"
        "for call in (build.host_library, build.host_library_version, compile_host):\n"
        "    try: call()\n"
        "    except build.BenchBuildError as error: print(error)\n"
    )
    command = [sys.executable, "-S", "-c", code, str(build.SOURCES.parent), str(tmp_path)]
    outcome = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert outcome.stdout.count("pip install 'elasticvit[host]'") == 3, outcome.stdout
