"""Files, tokens and addresses that the client commands cannot use: one sentence, no traceback, no token."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from typer.testing import Result

from tests.server.cli.conftest import Run, Served
from tests.server.server_farm import tiny_tflite

SECRET = "evt_a-very-secret-one"
NOBODY = "http://127.0.0.1:9"


def sentence(result: Result) -> str:
    """The only line of a command that was refused."""
    assert result.exit_code == 1 and isinstance(result.exception, SystemExit), repr(result.exception)
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ") and result.stdout == ""
    return line.removeprefix("error: ")


@pytest.mark.parametrize("kind", ["absent", "folder", "empty", "pipe", "device", "name", "loop", "below a file"])
def test_what_is_no_file_is_not_uploaded(run: Run, tmp_path: Path, kind: str) -> None:
    file = tmp_path / "model.tflite"
    match kind:
        case "folder":
            file.mkdir()
        case "empty":
            file.touch()
        case "pipe":
            os.mkfifo(file)
        case "device":
            file = Path("/dev/zero")
        case "name":
            file = tmp_path / ("x" * 300)
        case "loop":
            file.symlink_to(file)
        case "below a file":
            (tmp_path / "plain").touch()
            file = tmp_path / "plain" / "model.tflite"
    message = sentence(run("models", "upload", file, "--url", NOBODY, ELASTICVIT_TOKEN=SECRET))
    assert message.startswith(f"cannot upload {file}: ") and SECRET not in message


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read everything")
def test_a_file_that_may_not_be_read_is_not_uploaded(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "model.tflite"
    file.write_bytes(tiny_tflite())
    file.chmod(0)
    assert "Permission denied" in sentence(run("models", "upload", file, ELASTICVIT_TOKEN=SECRET))


def test_a_file_that_breaks_while_it_is_read_is_named(run: Run, served: Served) -> None:
    environment = {"ELASTICVIT_HOME": str(served.farm.home), "ELASTICVIT_URL": served.url}
    message = sentence(run("models", "upload", "/proc/self/mem", **environment))
    assert "/proc/self/mem" in message


def test_a_file_with_a_name_that_is_not_utf8_is_uploaded(run: Run, served: Served, tmp_path: Path) -> None:
    file = tmp_path / os.fsdecode(b"caf\xe9.tflite")
    file.write_bytes(tiny_tflite())
    done = run("models", "upload", file, ELASTICVIT_HOME=str(served.farm.home), ELASTICVIT_URL=served.url)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["source"] == "upload"


@pytest.mark.medium
@pytest.mark.parametrize("out", ["", "folder", "absent/model.tflite", "plain/model.tflite", "x" * 300])
def test_a_download_that_cannot_be_written_is_refused(run: Run, served: Served, tmp_path: Path, out: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "plain").touch()
    model_id = served.farm.upload()
    environment = {"ELASTICVIT_HOME": str(served.farm.home), "ELASTICVIT_URL": served.url}
    message = sentence(run("models", "download", model_id, tmp_path / out if out else "/", **environment))
    assert message.startswith("cannot write ")
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.medium
def test_a_download_does_not_replace_a_pipe(run: Run, served: Served, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    environment = {"ELASTICVIT_HOME": str(served.farm.home), "ELASTICVIT_URL": served.url}
    message = sentence(run("models", "download", served.farm.upload(), tmp_path / "pipe", **environment))
    assert message.startswith("cannot write ") and (tmp_path / "pipe").is_fifo()


def test_a_download_is_whole(run: Run, served: Served, tmp_path: Path) -> None:
    model_id = served.farm.upload(tiny_tflite(3.0))
    environment = {"ELASTICVIT_HOME": str(served.farm.home), "ELASTICVIT_URL": served.url}
    done = run("models", "download", model_id, tmp_path / "model.tflite", **environment)
    assert done.exit_code == 0, done.output
    assert (tmp_path / "model.tflite").read_bytes() == tiny_tflite(3.0)


def test_a_supernet_that_is_not_there_is_not_added(run: Run, tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for name in ("absent", "loop"):
        message = sentence(run("supernets", "add", tmp_path / name, ELASTICVIT_TOKEN=SECRET))
        assert message.startswith(f"cannot add {tmp_path / name}: ")


@pytest.mark.parametrize("token", [f"{SECRET}\x00x", f"{SECRET}\x01", f"é{SECRET}", f"{SECRET}\r{SECRET}", " \r\n"])
def test_what_is_no_token_is_refused_and_not_printed(run: Run, tmp_path: Path, token: str) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "admin.token").write_bytes(token.encode())
    results = [run("models", "list", "--url", NOBODY, ELASTICVIT_HOME=str(home))]
    if "\x00" not in token:
        results.append(run("models", "list", "--url", NOBODY, ELASTICVIT_TOKEN=token))
    for result in results:
        message = sentence(result)
        assert "does not hold a token" in message and SECRET not in message


def test_bytes_that_are_no_text_are_no_token(run: Run, tmp_path: Path) -> None:
    (tmp_path / "admin.token").write_bytes(b"\xff\xfe" + SECRET.encode("utf-16-le"))
    message = sentence(run("models", "list", ELASTICVIT_HOME=str(tmp_path)))
    assert "admin.token does not hold a token" in message


@pytest.mark.medium
@pytest.mark.parametrize("ending", ["\r", "\r\n", "\n", " "])
def test_the_line_end_of_a_copied_token_does_no_harm(run: Run, served: Served, ending: str) -> None:
    token = served.farm.secret("admin") + ending
    done = run("models", "list", ELASTICVIT_TOKEN=token, ELASTICVIT_URL=served.url)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout) == []


def test_a_refused_call_does_not_print_the_token(run: Run, served: Served) -> None:
    message = sentence(run("models", "list", ELASTICVIT_TOKEN=SECRET, ELASTICVIT_URL=served.url))
    assert message.startswith("401: ") and SECRET not in message


@pytest.mark.parametrize(
    "url", ["localhost:8000", "ftp://127.0.0.1", "http://", "http://[::1", "http://::1:8000", "http://127.0.0.1:port"]
)
def test_what_is_no_address_is_refused(run: Run, url: str) -> None:
    assert "not the URL of a server" in sentence(run("models", "list", "--url", url, ELASTICVIT_TOKEN=SECRET))


@pytest.mark.medium
def test_a_server_that_is_away_is_named_without_a_password_in_its_url(run: Run) -> None:
    message = sentence(run("models", "list", "--url", NOBODY, ELASTICVIT_TOKEN=SECRET))
    assert message.startswith(f"no server at {NOBODY}")
    message = sentence(run("models", "list", "--url", f"http://me:{SECRET}@127.0.0.1:port", ELASTICVIT_TOKEN="evt_x"))
    assert SECRET not in message


def test_a_server_of_another_kind_is_refused(run: Run, served: Served) -> None:
    message = sentence(run("models", "list", "--url", f"{served.url}/docs", ELASTICVIT_TOKEN=SECRET))
    assert message.startswith("404: ")


@pytest.mark.parametrize("arguments", [("nan",), ("1.0", "--supernet", "\udcff")])
def test_an_argument_that_cannot_be_sent_is_refused(run: Run, arguments: tuple[str, ...]) -> None:
    sentence(run("search", "host", *arguments, "--url", NOBODY, ELASTICVIT_TOKEN=SECRET))
