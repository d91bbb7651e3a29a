"""`elasticvit-agent run`: one agent on this machine until SIGTERM."""

from __future__ import annotations

import argparse
import os
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
from device_agent.bench.find import Bench, find_bench
from device_agent.bench.leftovers import kill_leftovers
from device_agent.bench.local_process import LocalProcess
from device_agent.devices.host import Host
from device_agent.devices.source import FixedDevices
from device_agent.errors import AgentError, SettingsError
from device_agent.home import Home, open_home
from device_agent.loop import Agent
from device_agent.sandbox.choice import choose
from device_agent.sandbox.command import Sandbox
from device_agent.sandbox.memory import default_limit_bytes
from device_agent.serving import Uplink
from device_agent.settings import Settings, load_settings
from device_agent.uplink.api import Server
from device_agent.uplink.cache import Cache
from device_agent.uplink.registration import Registration
from device_agent.uplink.spool import Spool
from server.wire.connect import AddressError, http_client
from server.wire.process import NOTICE, send_notice_at_parents_end

log = structlog.get_logger()

EXIT_CODES = """exit codes:
  0  stopped by SIGTERM or SIGINT, or with its parent process
  2  a flag, a setting or the token file is not valid
  3  another agent uses the same home folder
  4  the home folder is not writable
  5  android_bench or LiteRT is missing

Every flag can also be set by a variable: ELASTICVIT_AGENT_SERVER_URL, ELASTICVIT_AGENT_HOME and so on;
device_agent/settings.py lists them all. The token is that of ELASTICVIT_AGENT_TOKEN, of --token-file, or of the file
`token` in the home folder."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code."""
    given = _parse(arguments)
    try:
        settings = load_settings(**given)
        logs.configure(settings.log_level, settings.log_file)
        return _run(settings)
    except AgentError as error:
        sys.stderr.write(f"elasticvit-agent: {error}\n")
        return error.exit_code


def _parse(arguments: Sequence[str] | None) -> dict[str, Any]:
    """The settings named on the command line."""
    parser = argparse.ArgumentParser(
        prog="elasticvit-agent", description="Measures models on the devices attached to this machine."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser(
        "run",
        help="run an agent until it is stopped",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    run.add_argument("--server", dest="server_url", metavar="URL", help="URL of the server")
    run.add_argument("--token-file", type=Path, metavar="FILE", help="file with a token of role 'agent'")
    run.add_argument("--home", type=Path, metavar="DIR", help="folder for the cache, spool and lock of this agent")
    run.add_argument("--name", help="name of this agent on the server")
    run.add_argument("--host", action="store_true", default=None, help="measure on this machine, as device 'host'")
    run.add_argument("--exit-with-parent", action="store_true", default=None, help="stop when the parent process ends")
    run.add_argument("--log-level", choices=sorted(logs.LEVELS), help="lowest level of log lines to print")
    given = vars(parser.parse_args(arguments))
    return {name: value for name, value in given.items() if value is not None and name != "command"}


def _run(settings: Settings) -> int:
    if not settings.host:
        raise SettingsError("there is no device to serve: give --host to measure on this machine")
    parent = os.getppid()
    settings.read_token()
    with ExitStack() as stack:
        home = stack.enter_context(open_home(settings.home))
        kill_leftovers(home.work)
        home.clear_work()
        agent = _assemble(settings, home)  # may build android_bench; a signal still ends the process at once
        signals = stack.enter_context(_signals())
        log.info("agent starts", server=settings.server_url, home=str(home.root), pid=os.getpid())
        agent.start()
        if settings.exit_with_parent:
            _watch_parent()
        log.info("agent stops", because=_reason_to_stop(signals, parent))
        agent.stop(settings.stop_seconds)
        kill_leftovers(home.work)
    return 0


def _assemble(settings: Settings, home: Home) -> Agent:
    bench = find_bench(settings.bench, settings.library)
    sandbox = _sandbox(settings, bench, home)
    runner = LocalProcess(bench, home.work, settings.bench_grace_seconds, sandbox)
    server = Server(_client(settings), settings.read_token)
    uplink = Uplink(
        registration=Registration(server, settings.name),
        cache=Cache(home.cache, settings.cache_bytes, server.download),
        spool=Spool(home.spool),
        max_backoff_seconds=settings.max_backoff_seconds,
    )
    host = Host(settings.host_name, bench, runner, settings.session_seconds, sandbox.summary)
    return Agent(FixedDevices([host]), uplink, settings.alive_file)


def _sandbox(settings: Settings, bench: Bench, home: Home) -> Sandbox:
    """What benchmarks may do here; written to the log once."""
    memory_mb = settings.bench_memory_mb
    memory_bytes = default_limit_bytes() if memory_mb is None else int(memory_mb * 1e6)
    choice = choose(settings.sandbox, settings.bench_user, memory_bytes, bench.program, bench.library, home.work)
    write = log.warning if choice.sandbox.files == "none" else log.info
    missing = {"missing": "; ".join(choice.gaps)} if choice.gaps else {}
    write("sandbox", parts=choice.sandbox.summary, memory_mb=memory_bytes // 1_000_000, **missing)
    return choice.sandbox


def _client(settings: Settings) -> httpx.Client:
    try:
        return http_client(settings.server_url, timeout_seconds=settings.request_timeout_seconds)
    except AddressError as error:
        raise SettingsError(str(error)) from error


@contextmanager
def _signals() -> Iterator[socket.socket]:
    """A socket from which the numbers of SIGTERM, SIGINT and NOTICE can be read once they were received.

    The handler itself does nothing: if it took a lock, as setting an Event does, it could deadlock with the thread
    that it interrupts.
    """
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    numbers = (signal.SIGTERM, signal.SIGINT, NOTICE)
    with reader, writer:
        old_fd = signal.set_wakeup_fd(writer.fileno())
        old_handlers = {number: signal.signal(number, lambda *_: None) for number in numbers}
        try:
            yield reader
        finally:
            signal.set_wakeup_fd(old_fd)
            for number, handler in old_handlers.items():
                signal.signal(number, handler)


def _watch_parent() -> None:
    try:
        send_notice_at_parents_end()
    except OSError as error:
        raise SettingsError(f"--exit-with-parent is not possible here: {error.strerror}") from error


def _reason_to_stop(signals: socket.socket, parent: int) -> str:
    """Wait for a signal that ends the agent. A notice is one only if the parent is no longer the one of the start."""
    while True:
        number = signals.recv(1)[0]
        if number != NOTICE:
            return signal.Signals(number).name
        if os.getppid() != parent:
            return "the parent process ended"


if __name__ == "__main__":
    sys.exit(main())
