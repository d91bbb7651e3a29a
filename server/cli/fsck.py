"""`elasticvit fsck`: prints what is wrong in a home folder, and a progress bar when that takes a while."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import typer

from elasticvit.progress import Report, Step, bars
from server.services.fsck.check import check
from server.settings import Settings

PATIENCE_SECONDS = 2.0
EXIT_FOUND, EXIT_UNCHECKED = 1, 2


def run(settings: Settings) -> int:
    """Check and print; the exit status, 0 or `EXIT_FOUND`. Raises InfraError when the home cannot be checked."""
    problems = 0
    with late_bars(PATIENCE_SECONDS) as report:
        for finding in check(settings, report):
            problems += not finding.is_remark
            typer.echo(f"{'remark' if finding.is_remark else 'problem'}: {finding}")
    if problems:
        typer.echo(f"{settings.home}: {problems} problem{'s' if problems > 1 else ''} found")
        return EXIT_FOUND
    typer.echo(f"{settings.home}: nothing is lost or damaged")
    return 0


@contextmanager
def late_bars(patience_seconds: float) -> Iterator[Report]:
    """Progress bars that appear after some seconds only."""
    begun_s = time.monotonic()
    shown: list[Report] = []
    with ExitStack() as stack:

        def report(step: Step) -> None:
            if not shown and time.monotonic() - begun_s > patience_seconds:
                shown.append(stack.enter_context(bars()))
            for bar in shown:
                bar(step)

        yield report
