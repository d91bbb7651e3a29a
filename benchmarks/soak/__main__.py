"""Soak a service of its own and print the figures as JSON; exits with 0 only if nothing was lost, doubled or stuck."""

from __future__ import annotations

import argparse
import json
import random
import socket
import sys
import tempfile
from pathlib import Path

from benchmarks.soak.client import Client
from benchmarks.soak.plan import for_duration
from benchmarks.soak.run import READY_SECONDS, Soak
from benchmarks.soak.service import Service

DRAIN_SECONDS = 600.0


def main() -> int:
    options = _options()
    with tempfile.TemporaryDirectory() as folder:
        home = options.home or Path(folder) / "home"
        env = {"ELASTICVIT_DATABASE_URL": options.database_url} if options.database_url else {}
        service = Service(home.resolve(), _free_port(), env)
        client = Client(service.home, service.port)
        service.start()
        try:
            client.wait_ready(3 * READY_SECONDS)
            amounts = for_duration(options.seconds)
            actions = amounts.searches + amounts.uploads + amounts.measurements + amounts.kills
            soak = Soak(service, client, random.Random(options.seed), options.seconds / actions, _say)
            outcome = soak.run(amounts, DRAIN_SECONDS)
            status = service.stop()
        finally:
            client.close()
            service.kill_all()
    sys.stdout.write(json.dumps({**outcome.figures(), "exit_status": status}, indent=2) + "\n")
    verdict = outcome.verdict
    return 1 if verdict.lost or verdict.doubled or verdict.stuck or status else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=7200.0, help="how long, about (two hours)")
    parser.add_argument("--seed", type=int, default=0, help="chooses the actions and their order")
    parser.add_argument("--home", type=Path, help="a home folder to soak; by default a new one, removed at the end")
    parser.add_argument("--database-url", help="PostgreSQL instead of SQLite in the home folder")
    return parser.parse_args()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _say(message: str) -> None:
    sys.stderr.write(message + "\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
