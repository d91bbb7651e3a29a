"""The `elasticvit` script: the library's commands, those that run a service, and those that talk to one."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from elasticvit.cli.console import escape_unprintable
from elasticvit.progress import Say
from server.cli import client
from server.errors import DiskFull, ServerError, Unavailable
from server.version import VERSION
from server.wire.log_stream import STDOUT, LogStream
from server.wire.process import TRY_AGAIN

EXIT_ERROR, EXIT_TAKEN = 1, 3

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Find trained vision models that meet a latency budget, and serve, export and measure them.",
)
app.registered_commands += client.app.registered_commands
app.registered_groups += client.app.registered_groups

WithParent = Annotated[bool, typer.Option("--exit-with-parent", hidden=True)]


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(VERSION)


@app.command()
def up(exit_with_parent: WithParent = False) -> None:
    """Run server, worker and agent in the foreground, with this machine as device `host`."""
    from server.settings import load_settings
    from server.supervise.lock import Taken
    from server.supervise.supervisor import Supervisor
    from server.wire.connect import AddressError

    _watch(exit_with_parent)
    try:
        status = Supervisor(load_settings(), _say()).run()
    except Taken as error:
        _end(error, EXIT_TAKEN)
    except (ServerError, AddressError) as error:
        _end(error, EXIT_ERROR)
    raise typer.Exit(status)


@app.command()
def serve(
    workers: Annotated[int, typer.Option(min=1, max=64, help="Server processes; more than one need PostgreSQL.")] = 1,
    exit_with_parent: WithParent = False,
) -> None:
    """Run only the HTTP server; workers and agents are processes of their own."""
    from server import logs
    from server.api.edge import serving
    from server.services.home import prepare
    from server.settings import load_settings

    _watch(exit_with_parent)
    try:
        settings = load_settings()
        serving.check_workers(settings, workers)
        logs.configure(settings.log_level, settings.log_file)
        # The app does this, too; here a home folder that cannot be used ends the command with one sentence.
        prepare(settings, thorough=True).close()
    except ServerError as error:
        _end(error, _status(error))
    raise typer.Exit(serving.serve(settings, workers))


@app.command()
def worker(exit_with_parent: WithParent = False) -> None:
    """Run a compute worker: searches, exports, calibrations."""
    from server import logs
    from server.compute.worker import run
    from server.settings import load_settings

    _watch(exit_with_parent)
    try:
        settings = load_settings()
        logs.configure(settings.log_level, settings.log_file)
        # A supervised worker is the only one of its home: what its predecessor held is free.
        run(settings, alone=exit_with_parent)
    except ServerError as error:
        _end(error, _status(error))


@app.command()
def prepare(exit_with_parent: WithParent = False) -> None:
    """Prepare a home folder: default supernet, anchor model, token of this machine's agent, benchmark program."""
    from elasticvit.errors import ElasticVitError
    from server.settings import load_settings
    from server.supervise.bootstrap import prepare_home

    _watch(exit_with_parent)
    try:
        prepare_home(load_settings(), _say())
    except (ServerError, ElasticVitError) as error:
        _end(error, EXIT_ERROR)


@app.command()
def backup(
    folder: Annotated[Path, typer.Argument(help="A new folder, outside of the home folder.")],
) -> None:
    """Copy the home folder while the service runs; the copy can be served in its place.

    It holds the SQLite database, tokens, models and supernets. A PostgreSQL database is not in it: run pg_dump before.
    Exits with 1 if a stored file was damaged, which the copy then lacks.
    """
    from elasticvit.progress import bars
    from server.services.backup import back_up
    from server.settings import load_settings

    try:
        with bars() as report:
            left_out = back_up(load_settings(), folder, report)
    except ServerError as error:
        _end(error, EXIT_ERROR)
    for sentence in left_out:
        typer.echo(f"elasticvit: {sentence}", err=True)
    raise typer.Exit(EXIT_ERROR if left_out else 0)


@app.command()
def fsck(
    home: Annotated[Path | None, typer.Option(help="The home folder; by default the one of ELASTICVIT_HOME.")] = None,
) -> None:
    """Check a home folder, with or without a running service; nothing is changed.

    Prints what is damaged or lost and what to do about it. Exits with 0 if nothing is, 1 if something is, and 2 if the
    folder cannot be checked.
    """
    from server.cli.fsck import EXIT_UNCHECKED, run
    from server.settings import load_settings

    try:
        settings = load_settings()
        status = run(settings if home is None else settings.model_copy(update={"home": home}))
    except ServerError as error:
        _end(error, EXIT_UNCHECKED)
    raise typer.Exit(status)


@app.command()
def demo(
    budget_ms: Annotated[float | None, typer.Option(help="Budget; by default the middle of the range.")] = None,
    sweep: Annotated[bool, typer.Option(help="Also search at 10, 30, 50, 70 and 90 % of the reachable range.")] = False,
) -> None:
    """Run the whole loop once against a server of its own; exits with 0 only if a model ran here within its budget."""
    from server.demo.run import run_demo
    from server.wire.connect import AddressError

    try:
        status = run_demo(budget_ms, sweep)
    except (ServerError, AddressError) as error:
        _end(error, EXIT_ERROR)
    raise typer.Exit(status)


def _watch(wanted: bool) -> None:
    if wanted:
        from server.wire.process import exit_with_parent

        exit_with_parent()


def _say() -> Say:
    """Messages on stdout, which go on when the disk behind it is full or its reader is gone."""
    stdout = LogStream(lambda count: f"elasticvit: {count} messages could not be written", STDOUT)

    def say(message: str) -> None:
        stdout.write(f"elasticvit: {message}\n")

    return say


def _end(error: Exception, status: int) -> NoReturn:
    with suppress(OSError):  # the status says it, too
        typer.echo(f"elasticvit: {error}", err=True)
    raise typer.Exit(status) from error


def _status(error: ServerError) -> int:
    """For the process that starts this one: whether starting it again may help."""
    return TRY_AGAIN if isinstance(error, DiskFull | Unavailable) else EXIT_ERROR


def main() -> None:
    """The script's entry: mounts the library's commands only when asked for one, since they bring torch."""
    # Read when torch loads its OpenMP: idle threads then sleep instead of spinning, which on a busy machine of two
    # cores is many times faster (children inherit it).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    escape_unprintable()
    light = {c.name or (c.callback.__name__ if c.callback else "") for c in app.registered_commands}
    light |= {group.name for group in app.registered_groups if isinstance(group.name, str)}
    if len(sys.argv) < 2 or sys.argv[1] not in light:
        from elasticvit.cli.app import app as library

        app.registered_commands += library.registered_commands
        app.registered_groups += library.registered_groups
    app()
