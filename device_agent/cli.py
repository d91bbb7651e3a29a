"""`elasticvit-agent run`: one agent on this machine until SIGTERM."""

from __future__ import annotations

import argparse
import os
import select
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import structlog

from device_agent import logs
from device_agent.bench.find import find_bench
from device_agent.bench.local_process import LocalProcess, kill_leftovers
from device_agent.devices.host import Host
from device_agent.devices.source import FixedDevices
from device_agent.errors import AgentError, SettingsError
from device_agent.home import Home, open_home
from device_agent.loop import Agent
from device_agent.serving import Uplink
from device_agent.settings import Settings, load_settings
from device_agent.uplink.api import Server
from device_agent.uplink.cache import Cache
from device_agent.uplink.registration import Registration
from device_agent.uplink.spool import Spool
from server.wire.connect import AddressError, http_client

log = structlog.get_logger()

PARENT_POLL_SECONDS = 1.0
EXIT_CODES = """exit codes:
  0  stopped by SIGTERM or SIGINT, or with its parent
  2  a flag, a setting or the token's file does not fit
  3  another agent works in the same home folder
  4  the home folder cannot be written
  5  android_bench or LiteRT is not there

Every flag is also a setting: ELASTICVIT_AGENT_SERVER_URL, ELASTICVIT_AGENT_HOME and so on; device_agent/settings.py
lists them all. The token comes from ELASTICVIT_AGENT_TOKEN, --token-file, or the file `token` in the home folder."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code."""
    given = _parse(arguments)
    try:
        settings = load_settings(**given)
        logs.configure(settings.log_level)
        return _run(settings)
    except AgentError as error:
        sys.stderr.write(f"elasticvit-agent: {error}\n")
        return error.exit_code


def _parse(arguments: Sequence[str] | None) -> dict[str, Any]:
    """The settings named on the command line."""
    parser = argparse.ArgumentParser(prog="elasticvit-agent", description="Measures models on the devices beside it.")
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser(
        "run", help="serve until stopped", epilog=EXIT_CODES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    run.add_argument("--server", dest="server_url", metavar="URL", help="the server's address")
    run.add_argument("--token-file", type=Path, metavar="FILE", help="a token of the role 'agent'")
    run.add_argument("--home", type=Path, metavar="DIR", help="cache, spool and lock of this agent")
    run.add_argument("--name", help="this agent's name at the server")
    run.add_argument("--host", action="store_true", default=None, help="measure this very machine, as device 'host'")
    run.add_argument("--exit-with-parent", action="store_true", default=None, help="end when the parent process ends")
    run.add_argument("--log-level", choices=sorted(logs.LEVELS))
    given = vars(parser.parse_args(arguments))
    return {name: value for name, value in given.items() if value is not None and name != "command"}


def _run(settings: Settings) -> int:
    if not settings.host:
        raise SettingsError("there is no device to serve: give --host to measure this machine")
    parent = os.getppid()
    settings.read_token()
    with ExitStack() as stack:
        home = stack.enter_context(open_home(settings.home))
        kill_leftovers(home.work)
        home.clear_work()
        agent = _assemble(settings, home)  # may build android_bench; a signal may still end us at once
        signals = stack.enter_context(_signals())
        log.info("agent starts", server=settings.server_url, home=str(home.root), pid=os.getpid())
        agent.start()
        log.info("agent stops", because=_reason_to_stop(signals, parent if settings.exit_with_parent else None))
        agent.stop(settings.stop_seconds)
        kill_leftovers(home.work)
    return 0


def _assemble(settings: Settings, home: Home) -> Agent:
    bench = find_bench(settings.bench, settings.library)
    runner = LocalProcess(bench, home.work, settings.bench_grace_seconds)
    server = Server(_client(settings), settings.read_token)
    uplink = Uplink(
        registration=Registration(server, settings.name),
        cache=Cache(home.cache, settings.cache_bytes, server.download),
        spool=Spool(home.spool),
        max_backoff_seconds=settings.max_backoff_seconds,
    )
    return Agent(FixedDevices([Host(settings.host_name, bench, runner)]), uplink)


def _client(settings: Settings) -> httpx.Client:
    try:
        return http_client(settings.server_url, timeout_seconds=settings.request_timeout_seconds)
    except AddressError as error:
        raise SettingsError(str(error)) from error


@contextmanager
def _signals() -> Iterator[socket.socket]:
    """A socket that can be read once SIGTERM or SIGINT came.

    The handler itself does nothing: taking a lock in one, as setting an Event does, can deadlock with the thread
    that it interrupts.
    """
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    with reader, writer:
        old_fd = signal.set_wakeup_fd(writer.fileno())
        old = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield reader
        finally:
            signal.set_wakeup_fd(old_fd)
            for number, handler in old.items():
                signal.signal(number, handler)


def _reason_to_stop(signals: socket.socket, parent: int | None) -> str:
    """Waits for a signal, or for the end of the parent where one is given."""
    while not select.select([signals], [], [], PARENT_POLL_SECONDS)[0]:
        if parent is not None and os.getppid() != parent:
            return "its parent is gone"
    return signal.Signals(signals.recv(1)[0]).name


if __name__ == "__main__":
    sys.exit(main())
