"""What modules of commands share: options, answers on stdout, errors in a sentence.

Exit status: 0 done; 1 it could not be done; 2 it was asked for wrongly, or is not available yet.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from elasticvit.errors import ElasticVitError, ExportError

EXIT_FAILED, EXIT_USAGE = 1, 2

ArchOption = Annotated[
    str,
    typer.Option(
        "--arch",
        help="A published name (S1) or its id; smallest or largest of a supernet; or JSON, also in a file: an "
        "architecture as searches and `front` print it, a manifest, or the authors' 10-list.",
    ),
]
SupernetOption = Annotated[Path | None, typer.Option("--supernet", help="The supernet file with the weights.")]
OutOption = Annotated[Path, typer.Option("--out", help="The file to write; replaced whole or left as it is.")]


@contextmanager
def errors() -> Iterator[None]:
    """Says this package's errors in a sentence instead of a traceback."""
    try:
        yield
    except ElasticVitError as error:
        end(str(error), EXIT_FAILED if isinstance(error, ExportError) else EXIT_USAGE)


def say(answer: object) -> None:
    """Print JSON."""
    typer.echo(json.dumps(answer, indent=2))


def end(words: str, status: int) -> NoReturn:
    """End the command with a sentence on stderr."""
    typer.echo(f"elasticvit: {words}", err=True)
    raise typer.Exit(status)
