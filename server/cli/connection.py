"""One server as the commands call it: a refused or failed call ends the command with one sentence and exit status 1.

The token is sent to the server and printed nowhere: no message holds it, and no exception that could hold it escapes.
"""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import IO, Any, NoReturn

import httpx
import typer

from elasticvit.atomic import write_atomically
from elasticvit.errors import ElasticVitError
from server.wire import JobStatus
from server.wire.connect import AddressError, checked_token, http_client
from server.wire.polling import views_until_finished

POLL_SECONDS = 0.3
TIMEOUT_SECONDS = 60.0
TOKEN_VARIABLE = "ELASTICVIT_TOKEN"


class Client:
    """Calls the server at `url` with the caller's token."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._token = read_token()
        headers = {"Authorization": f"Bearer {self._token}"}
        try:
            self._http = http_client(url, timeout_seconds=TIMEOUT_SECONDS, headers=headers)
        except AddressError as error:
            end(str(error))

    def call(self, method: str, path: str, **arguments: Any) -> Any:  # noqa: ANN401 - JSON
        """The JSON of an answer, None for one without a body. `arguments` are those of `httpx.Client.request`."""
        response = self.raw(method, path, **arguments)
        try:
            return response.json() if response.content else None
        except ValueError:
            end(f"{self._url} answered with something other than JSON: is it the URL of an ElasticViT server?")

    def raw(self, method: str, path: str, **arguments: Any) -> httpx.Response:  # noqa: ANN401 - httpx's arguments
        """An answer with a status of success."""
        try:
            response = self._http.request(method, path, **arguments)
        except httpx.ConnectError as error:
            self._end(f"no server at {self._http.base_url}: {error}; start one with `make run`")
        except httpx.TimeoutException:
            self._end(f"{self._http.base_url} did not answer within {TIMEOUT_SECONDS:g} s: try again later")
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            self._end(f"{method} {path} failed: {error or type(error).__name__}")
        except UnicodeError:
            self._end("an argument holds characters that cannot be sent: give it in UTF-8")
        except ValueError as error:  # such as a budget of "nan"
            self._end(f"an argument cannot be sent: {error}")
        if not response.is_success:
            self._end(_detail(response))
        return response

    def wait(self, path: str) -> dict[str, Any]:
        """The view of a job or a search as soon as it is finished; each new stage is printed to stderr.

        Ctrl-C ends the command and leaves the work running.
        """
        printed = None
        view: dict[str, Any] = {}
        for view in views_until_finished(lambda: self.call("GET", path), POLL_SECONDS):
            progress = view.get("progress")
            stage = f"{view['status']}: {progress['stage']}" if progress else view["status"]
            if stage != printed:
                typer.echo(stage, err=True)
                printed = stage
        return view

    def wait_for_success(self, path: str) -> dict[str, Any]:
        """The view of a job or a search that succeeded. If it ends otherwise, print it and end with status 1."""
        view = self.wait(path)
        if view["status"] != JobStatus.SUCCEEDED:
            show(view)
            error = view.get("error")
            end(f"{path} ended as {view['status']}" + (f": {error['detail']}" if error else ""))
        return view

    def _end(self, message: str) -> NoReturn:
        end(message.replace(self._token, "(token)"))


def read_token() -> str:
    """The caller's token: of ELASTICVIT_TOKEN, or of `admin.token` in ELASTICVIT_HOME."""
    if secret := os.environ.get(TOKEN_VARIABLE):
        return _checked(secret, TOKEN_VARIABLE)
    file = Path(os.environ.get("ELASTICVIT_HOME", ".elasticvit")) / "admin.token"
    try:
        return _checked(file.read_text(), str(file))
    except UnicodeDecodeError:
        end(f"{file} does not hold a token: it is not a text file")
    except OSError as error:
        end(
            f"no token: set {TOKEN_VARIABLE}, or ELASTICVIT_HOME to the folder with admin.token "
            f"({file}: {error.strerror})"
        )


def _checked(secret: str, source: str) -> str:
    if (token := checked_token(secret)) is None:
        end(f"{source} does not hold a token: copy it again, alone on one line")
    return token


def open_upload(file: Path) -> IO[bytes]:
    """A regular file with content, open for reading; anything else ends the command."""
    try:
        about = file.stat()
        if stat.S_ISDIR(about.st_mode):
            end(f"cannot upload {file}: it is a folder; give a .tflite file")
        if not stat.S_ISREG(about.st_mode):
            end(f"cannot upload {file}: it is a pipe, a socket or a device; give a .tflite file")
        if about.st_size == 0:
            end(f"cannot upload {file}: it is empty; give a .tflite file")
        return file.open("rb")
    except OSError as error:
        end(f"cannot upload {file}: {error.strerror}")
    except ValueError as error:
        end(f"cannot upload {str(file)!r}: {error}")


def write_download(path: Path, data: bytes) -> None:
    """Write a whole file or none, and say so on stderr."""
    try:
        write_atomically(path, data, error=ElasticVitError)
    except ElasticVitError as error:
        end(str(error))
    except ValueError as error:
        end(f"cannot write {str(path)!r}: {error}")
    typer.echo(f"wrote {path} ({len(data) / 1e6:.2f} MB)", err=True)


def show(value: Any) -> None:  # noqa: ANN401 - JSON
    """Print JSON to stdout."""
    typer.echo(json.dumps(value, indent=2))


def end(message: str) -> NoReturn:
    """Print one sentence to stderr and end the command with status 1."""
    typer.echo(f"error: {message}", err=True)
    raise typer.Exit(1)


def _detail(response: httpx.Response) -> str:
    try:
        return f"{response.status_code}: {response.json()['detail']}"
    except (ValueError, KeyError, TypeError):
        return f"{response.status_code}: {response.text[:500]}"
