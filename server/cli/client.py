"""The HTTP commands of the `elasticvit` script, such as `search`. They only talk to a server."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Annotated, Any, NoReturn

import httpx
import typer

from server.wire import JobStatus

POLL_SECONDS = 0.3
FINISHED = {status.value for status in JobStatus if status.finished}

Url = Annotated[str, typer.Option("--url", envvar="ELASTICVIT_URL", help="Where the server is.")]
DEFAULT_URL = "http://127.0.0.1:8000"

app = typer.Typer(no_args_is_help=True)
devices_app = typer.Typer(no_args_is_help=True, help="The devices a server knows.")
jobs_app = typer.Typer(no_args_is_help=True, help="Queued and finished work.")
models_app = typer.Typer(no_args_is_help=True, help="Deployable files.")
supernets_app = typer.Typer(no_args_is_help=True, help="What answers come from.")
tokens_app = typer.Typer(no_args_is_help=True, help="Who may do what.")


class Client:
    """Calls one server with the caller's token; a refused call ends the command with the server's sentence."""

    def __init__(self, url: str) -> None:
        self._http = httpx.Client(base_url=url, headers={"Authorization": f"Bearer {_token()}"}, timeout=60.0)

    def call(self, method: str, path: str, **arguments: Any) -> Any:  # noqa: ANN401 - JSON
        response = self.raw(method, path, **arguments)
        return response.json() if response.content else None

    def raw(self, method: str, path: str, **arguments: Any) -> httpx.Response:  # noqa: ANN401 - httpx's arguments
        try:
            response = self._http.request(method, path, **arguments)
        except httpx.TransportError as error:
            _end(f"no server at {self._http.base_url}: {error}; start one by `make run`")
        if response.is_error:
            _end(_detail(response))
        return response

    def wait(self, path: str) -> Any:  # noqa: ANN401 - JSON
        """Poll until finished, saying each new stage on stderr. Ctrl-C leaves the work running."""
        said = None
        while True:
            view = self.call("GET", path)
            progress = view.get("progress")
            words = f"{view['status']}: {progress['stage']}" if progress else view["status"]
            if words != said:
                typer.echo(words, err=True)
                said = words
            if view["status"] in FINISHED:
                return view
            time.sleep(POLL_SECONDS)


@app.command()
def search(
    device: str,
    latency_ms: float,
    confidence: Annotated[float, typer.Option(help="That the prediction keeps the budget: 0.5 to 0.99.")] = 0.9,
    statistic: Annotated[str, typer.Option(help="Of the latency: p50 or p90.")] = "p50",
    count: Annotated[int, typer.Option(help="How many answers, best first.")] = 1,
    verify: Annotated[bool, typer.Option(help="Measure the answer on the device before it is given.")] = False,
    supernet: Annotated[str | None, typer.Option(help="By name; by default that of `supernets list`.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of the search; by default one is drawn.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write the best model's .tflite here.")] = None,
    url: Url = DEFAULT_URL,
) -> None:
    """Find a trained model within LATENCY_MS on DEVICE; prints the answer as JSON."""
    client = Client(url)
    body: dict[str, Any] = {"device": device, "budget": {"latency_ms": latency_ms}, "confidence": confidence}
    body |= {"statistic": statistic, "count": count, "verify": verify}
    body |= {name: value for name, value in (("supernet", supernet), ("seed", seed)) if value is not None}
    view = client.wait(client.call("POST", "/search", json=body)["url"])
    _show(view)
    if view["status"] != JobStatus.SUCCEEDED:
        raise typer.Exit(1)
    if out is not None:
        _write(out, client.raw("GET", view["result"]["models"][0]["download_url"]).content)


@devices_app.command("list")
def devices_list(url: Url = DEFAULT_URL) -> None:
    """All devices and what they are doing."""
    _show(_all(Client(url), "/devices"))


@devices_app.command("calibrate")
def devices_calibrate(
    device: str,
    count: Annotated[int | None, typer.Option(help="Sub-networks to measure, 4 to 500; by default 20.")] = None,
    supernet: Annotated[str | None, typer.Option(help="By name; each one is calibrated by itself.")] = None,
    wait: bool = True,
    url: Url = DEFAULT_URL,
) -> None:
    """Measure sub-networks on DEVICE and fit the next version of its latency predictor."""
    client = Client(url)
    body = {"kind": "calibrate", "device": device, "count": count, "supernet": supernet}
    accepted = client.call("POST", "/jobs", json=body)
    _show(client.wait(accepted["url"]) if wait else accepted)


@jobs_app.command("list")
def jobs_list(
    status: Annotated[JobStatus | None, typer.Option(help="Only these.")] = None, url: Url = DEFAULT_URL
) -> None:
    """Jobs, newest first."""
    _show(_all(Client(url), "/jobs", {"status": status.value} if status else {}))


@jobs_app.command("show")
def jobs_show(job_id: str, url: Url = DEFAULT_URL) -> None:
    """One job."""
    _show(Client(url).call("GET", f"/jobs/{job_id}"))


@jobs_app.command("cancel")
def jobs_cancel(job_id: str, url: Url = DEFAULT_URL) -> None:
    """Stop a job that is not finished."""
    _show(Client(url).call("POST", f"/jobs/{job_id}/cancel"))


@models_app.command("list")
def models_list(url: Url = DEFAULT_URL) -> None:
    """Models, newest first."""
    _show(_all(Client(url), "/models"))


@models_app.command("upload")
def models_upload(file: Path, name: str | None = None, url: Url = DEFAULT_URL) -> None:
    """Give the server a .tflite of your own, to be measured."""
    with file.open("rb") as opened:
        params = {"name": name} if name else {}
        _show(Client(url).call("POST", "/models", files={"file": (file.name, opened)}, params=params))


@models_app.command("download")
def models_download(model_id: str, out: Path, url: Url = DEFAULT_URL) -> None:
    """Write a model's .tflite to OUT."""
    _write(out, Client(url).raw("GET", f"/models/{model_id}/download").content)


@models_app.command("measure")
def models_measure(model_id: str, device: str, url: Url = DEFAULT_URL) -> None:
    """Measure a model on DEVICE, interleaved with the anchor."""
    client = Client(url)
    body = {"kind": "measure", "model_id": model_id, "device": device}
    job = client.wait(client.call("POST", "/jobs", json=body)["url"])
    _show(client.call("GET", f"/measurements/{job['result']['measurement_id']}") if job["result"] else job)


@supernets_app.command("list")
def supernets_list(url: Url = DEFAULT_URL) -> None:
    """All supernets that can be searched, and the terms that their models come with."""
    _show([_brief(supernet) for supernet in _all(Client(url), "/supernets")])


@supernets_app.command("add")
def supernets_add(
    file: Path,
    name: Annotated[str | None, typer.Option(help="What it is called there; by default the file's name.")] = None,
    url: Url = DEFAULT_URL,
) -> None:
    """Let a server on this machine serve a supernet FILE, with its table of evaluated sub-networks beside it."""
    _show(_brief(Client(url).call("POST", "/supernets", json={"path": str(file.resolve()), "name": name})))


def _brief(supernet: dict[str, Any]) -> dict[str, Any]:
    """Without space and provenance, which fill screens; `GET /supernets` has them."""
    return {key: value for key, value in supernet.items() if key not in ("space", "provenance")}


@tokens_app.command("create")
def token_create(name: str, role: str, url: Url = DEFAULT_URL) -> None:
    """Make a token; its secret is shown once."""
    _show(Client(url).call("POST", "/tokens", json={"name": name, "role": role}))


@tokens_app.command("list")
def token_list(url: Url = DEFAULT_URL) -> None:
    """All tokens, without their secrets."""
    _show(_all(Client(url), "/tokens"))


for group, name in (
    (devices_app, "devices"),
    (jobs_app, "jobs"),
    (models_app, "models"),
    (supernets_app, "supernets"),
    (tokens_app, "token"),
):
    app.add_typer(group, name=name)


def _all(client: Client, path: str, query: dict[str, str] | None = None) -> list[Any]:
    items: list[Any] = []
    token: str | None = None
    while True:
        page = client.call("GET", path, params={**(query or {}), **({"page_token": token} if token else {})})
        items += page["items"]
        token = page["next_page_token"]
        if token is None:
            return items


def _token() -> str:
    if secret := os.environ.get("ELASTICVIT_TOKEN"):
        return secret
    file = Path(os.environ.get("ELASTICVIT_HOME", ".elasticvit")) / "admin.token"
    try:
        return file.read_text().strip()
    except OSError:
        _end(f"no token: set ELASTICVIT_TOKEN, or ELASTICVIT_HOME to the folder with admin.token (looked at {file})")


def _detail(response: httpx.Response) -> str:
    try:
        return f"{response.status_code}: {response.json()['detail']}"
    except (ValueError, KeyError, TypeError):
        return f"{response.status_code}: {response.text[:500]}"


def _end(words: str) -> NoReturn:
    typer.echo(f"error: {words}", err=True)
    raise typer.Exit(1)


def _show(value: Any) -> None:  # noqa: ANN401 - JSON
    typer.echo(json.dumps(value, indent=2))


def _write(path: Path, data: bytes) -> None:
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_bytes(data)
        part.replace(path)
    except OSError as error:
        _end(f"cannot write {path}: {error.strerror}")
    finally:
        part.unlink(missing_ok=True)
    typer.echo(f"wrote {path} ({len(data) / 1e6:.2f} MB)", err=True)
