"""The commands of the `elasticvit` script that call a server, such as `search`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from server.cli.connection import Client, end, open_upload, show, write_download
from server.wire import JobStatus

Url = Annotated[str, typer.Option("--url", envvar="ELASTICVIT_URL", help="URL of the server.")]
DEFAULT_URL = "http://127.0.0.1:8000"

app = typer.Typer(no_args_is_help=True)
devices_app = typer.Typer(no_args_is_help=True, help="Devices that the server knows.")
jobs_app = typer.Typer(no_args_is_help=True, help="Queued, running and finished jobs.")
models_app = typer.Typer(no_args_is_help=True, help="Models: exported and uploaded .tflite files.")
supernets_app = typer.Typer(no_args_is_help=True, help="Supernets that searches take networks from.")
tokens_app = typer.Typer(no_args_is_help=True, help="Access tokens and their roles.")


@app.command()
def search(
    device: str,
    latency_ms: float,
    confidence: Annotated[float, typer.Option(help="Probability that the model keeps the budget, 0.5 to 0.99.")] = 0.9,
    statistic: Annotated[
        str, typer.Option(help="Statistic of the latency that the budget bounds: p50 or p90.")
    ] = "p50",
    count: Annotated[int, typer.Option(help="Number of models to return, best first.")] = 1,
    verify: Annotated[bool, typer.Option(help="Measure the models on the device before they are returned.")] = False,
    supernet: Annotated[
        str | None, typer.Option(help="Name of the supernet; by default the default of `supernets list`.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the search; by default a random one.")] = None,
    out: Annotated[Path | None, typer.Option(help="File to write the best model's .tflite to.")] = None,
    url: Url = DEFAULT_URL,
) -> None:
    """Find a trained model whose latency on DEVICE is within LATENCY_MS; print the result as JSON.

    Exits with 1 if the search fails or is cancelled.
    """
    client = Client(url)
    body: dict[str, Any] = {"device": device, "budget": {"latency_ms": latency_ms}, "confidence": confidence}
    body |= {"statistic": statistic, "count": count, "verify": verify}
    body |= {name: value for name, value in (("supernet", supernet), ("seed", seed)) if value is not None}
    view = client.wait_for_success(client.call("POST", "/search", json=body)["url"])
    show(view)
    if out is not None:
        write_download(out, client.raw("GET", view["result"]["models"][0]["download_url"]).content)


@devices_app.command("list")
def devices_list(url: Url = DEFAULT_URL) -> None:
    """List all devices and their states."""
    show(_all(Client(url), "/devices"))


@devices_app.command("calibrate")
def devices_calibrate(
    device: str,
    count: Annotated[
        int | None, typer.Option(help="Number of sub-networks to measure, 4 to 500; by default 20.")
    ] = None,
    supernet: Annotated[
        str | None, typer.Option(help="Name of the supernet; each supernet has a predictor of its own.")
    ] = None,
    wait: Annotated[bool, typer.Option(help="Wait until the calibration is finished.")] = True,
    url: Url = DEFAULT_URL,
) -> None:
    """Measure sub-networks on DEVICE and fit a new version of its latency predictor.

    Exits with 1 if the job fails or is cancelled.
    """
    client = Client(url)
    body = {"kind": "calibrate", "device": device, "count": count, "supernet": supernet}
    accepted = client.call("POST", "/jobs", json=body)
    show(client.wait_for_success(accepted["url"]) if wait else accepted)


@devices_app.command("rebind")
def devices_rebind(device: str, token_id: str, url: Url = DEFAULT_URL) -> None:
    """Let the agent with the token TOKEN_ID (see `token list`) register DEVICE, which belonged to another token.

    Needs a token of role admin.
    """
    show(Client(url).call("POST", f"/devices/{device}/rebind", json={"token_id": token_id}))


@jobs_app.command("list")
def jobs_list(
    status: Annotated[JobStatus | None, typer.Option(help="Only jobs with this status.")] = None, url: Url = DEFAULT_URL
) -> None:
    """List jobs, newest first."""
    show(_all(Client(url), "/jobs", {"status": status.value} if status else {}))


@jobs_app.command("show")
def jobs_show(job_id: str, url: Url = DEFAULT_URL) -> None:
    """Show one job."""
    show(Client(url).call("GET", f"/jobs/{job_id}"))


@jobs_app.command("cancel")
def jobs_cancel(job_id: str, url: Url = DEFAULT_URL) -> None:
    """Cancel a job that is not finished."""
    show(Client(url).call("POST", f"/jobs/{job_id}/cancel"))


@models_app.command("list")
def models_list(url: Url = DEFAULT_URL) -> None:
    """List models, newest first."""
    show(_all(Client(url), "/models"))


@models_app.command("upload")
def models_upload(
    file: Path,
    name: Annotated[str | None, typer.Option(help="Name of the model on the server.")] = None,
    url: Url = DEFAULT_URL,
) -> None:
    """Upload the .tflite FILE, so that it can be measured."""
    with open_upload(file) as content:
        client = Client(url)
        params = {"name": name} if name else {}
        try:
            model = client.call("POST", "/models", files={"file": ("model.tflite", content)}, params=params)
        except OSError as error:
            end(f"cannot upload {file}: {error.strerror}")
    show(model)


@models_app.command("download")
def models_download(model_id: str, out: Path, url: Url = DEFAULT_URL) -> None:
    """Download a model's .tflite to the file OUT."""
    write_download(out, Client(url).raw("GET", f"/models/{model_id}/download").content)


@models_app.command("measure")
def models_measure(model_id: str, device: str, url: Url = DEFAULT_URL) -> None:
    """Measure a model on DEVICE, interleaved with the anchor model.

    Exits with 1 if the job fails or is cancelled.
    """
    client = Client(url)
    body = {"kind": "measure", "model_id": model_id, "device": device}
    job = client.wait_for_success(client.call("POST", "/jobs", json=body)["url"])
    show(client.call("GET", f"/measurements/{job['result']['measurement_id']}"))


@supernets_app.command("list")
def supernets_list(url: Url = DEFAULT_URL) -> None:
    """List the supernets that can be searched, with the terms of use of their models."""
    show([_brief(supernet) for supernet in _all(Client(url), "/supernets")])


@supernets_app.command("add")
def supernets_add(
    file: Path,
    name: Annotated[
        str | None, typer.Option(help="Name of the supernet on the server; by default the file's name.")
    ] = None,
    url: Url = DEFAULT_URL,
) -> None:
    """Add the supernet FILE, and the accuracy table beside it, to a server on this machine."""
    try:
        path = file.resolve(strict=True)
    except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: a loop of links
        end(f"cannot add {file}: {getattr(error, 'strerror', None) or error}")
    show(_brief(Client(url).call("POST", "/supernets", json={"path": str(path), "name": name})))


def _brief(supernet: dict[str, Any]) -> dict[str, Any]:
    """A supernet without its space and provenance, which are long; `GET /supernets` has them."""
    return {key: value for key, value in supernet.items() if key not in ("space", "provenance")}


@tokens_app.command("create")
def token_create(name: str, role: str, url: Url = DEFAULT_URL) -> None:
    """Create a token; its secret is shown only now."""
    show(Client(url).call("POST", "/tokens", json={"name": name, "role": role}))


@tokens_app.command("list")
def token_list(url: Url = DEFAULT_URL) -> None:
    """List all tokens, without their secrets."""
    show(_all(Client(url), "/tokens"))


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
