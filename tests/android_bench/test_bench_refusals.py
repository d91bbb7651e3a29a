"""What android_bench refuses: an exit code, one sentence on stderr, nothing on stdout, nothing left behind."""

import os
import random
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Outcome = subprocess.CompletedProcess[str]
Run = Callable[..., Outcome]

ARGUMENT, LIBRARY, MODEL, CPU, WRITE = 2, 3, 4, 5, 6


def assert_refused(outcome: Outcome, code: int, *fragments: str) -> None:
    assert outcome.returncode == code, outcome.stderr
    assert outcome.stdout == ""
    last = outcome.stderr.strip().splitlines()[-1]
    assert last.startswith("android_bench: error: ")
    for fragment in fragments:
        assert fragment in last


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("runs", "0"),
        ("runs", "-1"),
        ("runs", "many"),
        ("runs", "1e3"),
        ("runs", ""),
        ("runs", "99999999999999999999"),
        ("threads", "0"),
        ("threads", "2x"),
        ("warmup_runs", "-1"),
        ("min_secs", "-1"),
        ("min_secs", "nan"),
        ("max_secs", "inf"),
        ("max_secs", "0"),
        ("warmup_secs", "soon"),
        ("cpu_mask", "0"),
        ("cpu_mask", "xyz"),
        ("cpu_mask", "0x"),
        ("seed", "-3"),
        ("seed", "18446744073709551615"),
        ("model", ""),
    ],
)
def test_bad_value(run_bench: Run, flag: str, value: str) -> None:
    assert_refused(run_bench(**{flag: value}), ARGUMENT, "--" + flag.replace("_", "-"))


def test_bad_arguments(run_bench: Run) -> None:
    assert_refused(run_bench(model=None), ARGUMENT, "--model")
    assert_refused(run_bench(min_secs=5, max_secs=1), ARGUMENT, "--max-secs 1", "--min-secs 5")
    assert_refused(run_bench(nonsense=1), ARGUMENT, "--nonsense", "--help")


def test_value_is_missing(bench_program: Path) -> None:
    outcome = subprocess.run([str(bench_program), "--model"], capture_output=True, text=True, timeout=10, check=False)
    assert_refused(outcome, ARGUMENT, "--model", "value")


def test_switch_takes_no_value_and_equals_sign_is_as_good_as_a_space(bench_program: Path) -> None:
    command = [str(bench_program), "--profile=1", "--runs=3"]
    outcome = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    assert_refused(outcome, ARGUMENT, "--profile")
    outcome = subprocess.run([bench_program, "--runs=no"], capture_output=True, text=True, timeout=10, check=False)
    assert_refused(outcome, ARGUMENT, "--runs", "'no'")


@pytest.mark.parametrize("flag", ["--help", "--version"])
def test_help_and_version(bench_program: Path, flag: str) -> None:
    outcome = subprocess.run([bench_program, flag], capture_output=True, text=True, timeout=10, check=True)
    assert "android_bench" in outcome.stdout
    assert outcome.stderr == ""
    if flag == "--help":
        for code in range(2, 9):
            assert f"\n  {code}  " in outcome.stdout


def test_library_is_missing_or_unfit(run_bench: Run, tmp_path: Path) -> None:
    assert_refused(run_bench(lib=tmp_path / "absent.so"), LIBRARY, "absent.so", "--lib")
    assert_refused(run_bench(lib=None), LIBRARY, "libLiteRt.so")  # none beside the program
    (tmp_path / "text.so").write_text("not a library")
    assert_refused(run_bench(lib=tmp_path / "text.so"), LIBRARY, "text.so")
    assert_refused(run_bench(lib="libm.so.6"), LIBRARY, "lacks LiteRt")  # a library, but another one


def test_model_is_absent_or_no_file(run_bench: Run, tmp_path: Path) -> None:
    assert_refused(run_bench(model="absent.tflite"), MODEL, "absent.tflite", "path")
    assert_refused(run_bench(model=tmp_path), MODEL, "not a file")
    os.mkfifo(tmp_path / "pipe")
    assert_refused(run_bench(model=tmp_path / "pipe"), MODEL, "not a file")


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"", "empty"),
        (b"\0", "not a .tflite"),
        (b"PK\3\4 a zip file, say", "not a .tflite"),
        (b"\x10\0\0\0TFL3", "truncated"),
        (b"\xff\xff\xff\xffTFL3" + b"\0" * 64, "damaged"),
        (b"\x08\0\0\0TFL3\0\0\0\x80" + b"\0" * 64, "damaged"),
    ],
)
def test_model_is_no_tflite(run_bench: Run, tmp_path: Path, content: bytes, word: str) -> None:
    (tmp_path / "bad.tflite").write_bytes(content)
    assert_refused(run_bench(model="bad.tflite"), MODEL, "bad.tflite", word)


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9, 0.99])
def test_model_is_truncated(run_bench: Run, bench_models: Path, tmp_path: Path, kept: float) -> None:
    whole = (bench_models / "convnet.tflite").read_bytes()
    (tmp_path / "cut.tflite").write_bytes(whole[: int(len(whole) * kept)])
    assert_refused(run_bench(model="cut.tflite"), MODEL)


def test_model_is_not_supported(run_bench: Run, bench_models: Path) -> None:
    assert_refused(run_bench(model=bench_models / "bad_index.tflite"), MODEL, "rejected by LiteRT")
    assert_refused(run_bench(model=bench_models / "text.tflite"), MODEL, "text")


@pytest.mark.medium
def test_no_damaged_model_ends_in_a_signal(run_bench: Run, bench_models: Path, tmp_path: Path) -> None:
    """LiteRT itself crashes on about a third of these; a damaged weight is no damage, so some succeed."""
    rng = random.Random(5)
    whole = (bench_models / "two_by_two.tflite").read_bytes()
    codes = []
    for _ in range(40):
        damaged = bytearray(whole)
        for _ in range(rng.choice((1, 2, 8))):
            damaged[rng.randrange(8, len(damaged))] = rng.randrange(256)
        (tmp_path / "damaged.tflite").write_bytes(damaged)
        outcome = run_bench(model="damaged.tflite", runs=1, max_secs="0.1")
        codes.append(outcome.returncode)
        if outcome.returncode:
            assert outcome.returncode in {MODEL, 7, 8}, outcome.stderr
            assert "android_bench: error: " in outcome.stderr
    assert MODEL in codes


def test_cpus_and_threads_that_are_not_there(run_bench: Run) -> None:
    beyond = os.sysconf("SC_NPROCESSORS_CONF") + 64
    assert_refused(run_bench(cpu_mask=f"{1 << beyond:x}"), CPU, "--cpu-mask")
    one = f"{1 << min(os.sched_getaffinity(0)):x}"
    assert_refused(run_bench(cpu_mask=one, threads=2), CPU, "--threads 2")


def test_result_cannot_be_written(run_bench: Run, tmp_path: Path) -> None:
    assert_refused(run_bench(out="absent/result.json"), WRITE, "absent/result.json")
    assert_refused(run_bench(out=tmp_path), WRITE, "folder")
    assert_refused(run_bench(out="/proc/result.json"), WRITE)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write anywhere")
def test_folder_is_read_only(run_bench: Run, tmp_path: Path) -> None:
    (tmp_path / "sealed").mkdir(mode=0o500)
    assert_refused(run_bench(out="sealed/result.json"), WRITE, "sealed")


def test_reader_of_stdout_has_gone_but_the_file_is_whole(bench_program: Path, run_bench: Run, tmp_path: Path) -> None:
    command = run_bench(out="result.json").args
    (tmp_path / "result.json").unlink()
    read_end, write_end = os.pipe()
    os.close(read_end)
    outcome = subprocess.run(
        command, stdout=write_end, stderr=subprocess.PIPE, text=True, timeout=60, cwd=tmp_path, check=False
    )
    os.close(write_end)
    assert outcome.returncode == WRITE
    assert "stdout" in outcome.stderr
    assert (tmp_path / "result.json").read_text().endswith("}")
