"""The program built for this machine, LiteRT's library, and models small enough to run in microseconds."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from android_bench.build import build_host, host_library
from tests.android_bench import tiny_model

# Few runs and no minimum times: what is tested is never a duration.
QUICK = {"--runs": "5", "--min-secs": "0", "--warmup-runs": "1", "--warmup-secs": "0"}
Outcome = subprocess.CompletedProcess[str]


@pytest.fixture(scope="session")
def bench_program() -> Path:
    return build_host()


@pytest.fixture(scope="session")
def bench_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of models: convnet, split, two_by_two, bad_index, unknown_shape (all .tflite)."""
    folder = tmp_path_factory.mktemp("bench_models")
    tiny_model.write_convnet(folder / "convnet.tflite")
    tiny_model.write_split_net(folder / "split.tflite")
    tiny_model.write_two_by_two(folder / "two_by_two.tflite")
    tiny_model.write_bad_tensor_index(folder / "bad_index.tflite")
    tiny_model.write_text_input(folder / "text.tflite")
    return folder


@pytest.fixture
def run_bench(bench_program: Path, bench_models: Path, tmp_path: Path) -> Callable[..., Outcome]:
    """Runs the program in an empty folder; a flag with the value None is left out, True stands alone."""

    def run(**flags: object) -> Outcome:
        options = {"--model": bench_models / "convnet.tflite", "--lib": host_library(), **QUICK}
        options |= {"--" + name.replace("_", "-"): value for name, value in flags.items()}
        command = [str(bench_program)]
        for name, value in options.items():
            if value is True:
                command.append(name)
            elif value is not None:
                command += [name, str(value)]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=tmp_path, check=False)

    return run


@pytest.fixture
def bench_result(run_bench: Callable[..., Outcome]) -> Callable[..., dict[str, Any]]:
    """Runs the program, which has to succeed, and gives its result."""

    def run(**flags: object) -> dict[str, Any]:
        outcome = run_bench(**flags)
        assert outcome.returncode == 0, outcome.stderr
        result = json.loads(outcome.stdout)
        assert isinstance(result, dict)
        return result

    return run
