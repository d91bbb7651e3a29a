"""The benchmarks' command line."""

import pytest

from benchmarks.__main__ import BENCHMARKS, main


def test_help_lists_all_names_and_runs_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in BENCHMARKS)


def test_an_unknown_name_is_refused_with_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["search", "nope"]) == 2
    message = capsys.readouterr().err
    assert "'nope'" in message and all(name in message for name in BENCHMARKS)
