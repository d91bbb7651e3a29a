"""The load benchmark in small: both servers answer, no job is lost or doubled, and all streams see their end."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
PATIENCE_SECONDS = 600


@pytest.mark.long
@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_the_load_benchmark_runs_and_finds_nothing_wrong(database: str) -> None:
    command = [sys.executable, "-m", "benchmarks.load", "--quick", "--database", database]
    done = subprocess.run(
        command, cwd=REPOSITORY, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
    assert "claimed twice 0, lost 0, measured twice 0" in done.stdout
    assert done.stdout.count("refused 0") == 5
