"""Commands in surroundings that are not UTF-8."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from elasticvit.cli.console import EXIT_USAGE, errors

ASCII = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}


@pytest.mark.medium
@pytest.mark.parametrize("module", ["elasticvit.cli", "server.cli.main"])
def test_help_is_printed_where_stdout_is_ascii(module: str) -> None:
    run = (
        f"from {module} import main; main()"
        if module == "server.cli.main"
        else f"import runpy; runpy.run_module({module!r}, run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", run, "finetune", "--help"],
        env=ASCII,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0 and "--supernet" in done.stdout and not done.stderr


def test_a_name_that_is_not_utf8_ends_with_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as ended, errors():
        (tmp_path / "a.txt").write_text("caf\udce9", "utf-8")
    assert ended.value.exit_code == EXIT_USAGE
    assert "a name cannot be written as utf-8" in capsys.readouterr().err
