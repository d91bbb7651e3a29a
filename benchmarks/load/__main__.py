"""Run the load benchmark: `python -m benchmarks.load [--quick] [--database sqlite|postgresql] [--part agents]`.

SQLite with one server, then PostgreSQL with two and two compute workers. Prints a table to read; the exit status is 1
where jobs were lost or doubled or answers failed, and without `--quick` where a bound was missed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.load import agents, filling, servers, streams
from benchmarks.load.agents import Queueing
from benchmarks.load.cases import cases
from benchmarks.load.client import Load, run
from benchmarks.load.compare import compare
from benchmarks.load.postgres import postgres_database
from benchmarks.report import processor


@dataclass(frozen=True)
class Size:
    """How much is done: `quick` only shows that everything works."""

    filled: int
    rounds: int
    seconds: float
    agents: int
    queueings: tuple[Queueing, ...]
    settle_seconds: float
    idle_seconds: float
    streams: int


FULL = Size(
    filled=150,
    rounds=3,
    seconds=2.0,
    agents=1000,
    # Of few jobs the first few, for which a new server makes its statements, would be the slowest.
    queueings=(Queueing(400, 40.0), Queueing(100, 5.0)),
    settle_seconds=60.0,
    idle_seconds=60.0,
    streams=500,
)
QUICK = Size(
    filled=5,
    rounds=1,
    seconds=0.5,
    agents=20,
    queueings=(Queueing(20, 40.0), Queueing(5, 5.0)),
    settle_seconds=2.0,
    idle_seconds=1.0,
    streams=20,
)
PARTS = ("requests", "agents", "streams")
CLAIM_GOAL_MS, CLAIM_FACTOR, IDLE_SHARE, STREAMS_MB = 50.0, 10.0, 0.10, 300.0


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a small run, of which no speed is asserted")
    parser.add_argument("--database", choices=("sqlite", "postgresql"), help="only this one")
    parser.add_argument("--part", choices=PARTS, help="only this one")
    options = parser.parse_args(arguments)
    parts = [options.part] if options.part else PARTS
    size = QUICK if options.quick else FULL
    say(f"processor: {processor()}")
    right, fast = True, True
    for database in [options.database] if options.database else ["sqlite", "postgresql"]:
        was_right, was_fast = measure(database, size, parts)
        right, fast = right and was_right, fast and was_fast
    return 0 if right and (fast or options.quick) else 1


def measure(database: str, size: Size, parts: Sequence[str] = PARTS) -> tuple[bool, bool]:
    """The figures of one database: whether everything was right, and whether all bounds were met."""
    workers = 1 if database == "sqlite" else 2
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="elasticvit-load-")))
        url = stack.enter_context(_database(database, home))
        say(f"\n{database}: {workers} server process(es), {size.filled} finished searches")
        filled = filling.make(home, url, size.filled)
        bare = stack.enter_context(servers.bare(url, servers.free_port(), workers))
        service = stack.enter_context(servers.service(home, url, servers.free_port(), workers))
        if database == "postgresql":
            stack.enter_context(servers.compute_workers(home, url, 2))
        found = []
        if "requests" in parts:
            found.append(_requests(bare, service, filled, size))
        if "agents" in parts:
            found.append(_agents(bare, service, filled, size))
        if "streams" in parts:
            found.append(_streams(service, filled, size))
    return all(right for right, _ in found), all(fast for _, fast in found)


def _requests(bare: servers.Served, service: servers.Served, filled: filling.Filled, size: Size) -> tuple[bool, bool]:
    right = fast = True
    _say_usage(service, "at the start")
    for case in cases(filled):
        compared = compare(case, bare, service, size.rounds, size.seconds)
        for line in compared.lines():
            say(line)
        _say_usage(service, f"after {case.name}")
        right, fast = right and not compared.failed, fast and compared.met
    return right, fast


def _agents(bare: servers.Served, service: servers.Served, filled: filling.Filled, size: Size) -> tuple[bool, bool]:
    body = b'{"agent_id": "load", "devices": ["host"]}'
    update = run(Load(bare.port, "POST", "/leases", filled.agent, 50, size.seconds, (body,)))
    farmed = agents.farm(service, filled, size.agents, size.queueings, size.settle_seconds, size.idle_seconds)
    bare_ms = update.percentile_ms(0.99)
    say(f"{farmed.agents} agents wait: {farmed.idle_cpu_share:.1%} of a core (at most {IDLE_SHARE:.0%})")
    for delivered in farmed.delivered:
        say(
            f"  {delivered.queueing.jobs} jobs, {delivered.queueing.jobs_a_second:g} a second, reach them in p50 "
            f"{delivered.percentile_ms(0.5):.1f} ms, p99 {delivered.percentile_ms(0.99):.1f} ms"
        )
    say(
        f"  (p99: goal {CLAIM_GOAL_MS:g} ms on a quiet machine; at most {CLAIM_FACTOR:g} x the bare UPDATE's, "
        f"{bare_ms:.1f} ms)"
    )
    say(f"  claimed twice {farmed.claimed_twice}, lost {farmed.lost}, measured twice {farmed.measured_twice}")
    _say_usage(service, "after the agents")
    right = not (farmed.claimed_twice or farmed.lost or farmed.measured_twice)
    is_soon = all(delivered.percentile_ms(0.99) <= CLAIM_FACTOR * bare_ms for delivered in farmed.delivered)
    return right, farmed.idle_cpu_share <= IDLE_SHARE and is_soon


def _streams(service: servers.Served, filled: filling.Filled, size: Size) -> tuple[bool, bool]:
    followed = streams.follow(service, filled, size.streams)
    say(
        f"{followed.streams} event streams: {followed.more_mb:.1f} MB more (at most {STREAMS_MB:g}); the end reached "
        f"{followed.ended} of them within {followed.end_seconds:.2f} s"
    )
    _say_usage(service, "after the streams")
    return followed.ended == followed.streams, followed.more_mb <= STREAMS_MB


@contextmanager
def _database(kind: str, home: Path) -> Iterator[str]:
    if kind == "sqlite":
        yield f"sqlite:///{home / 'farm.db'}"
    else:
        with postgres_database() as url:
            yield url


def _say_usage(served: servers.Served, when: str) -> None:
    usage = served.usage()
    say(f"  {when}: {usage.rss_mb:.0f} MB, {usage.descriptors} descriptors")


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
