"""What the command modules share: options, JSON on stdout, errors as a sentence on stderr.

Exit status: 0 success; 1 an export failed; 2 a wrong argument or input, or a feature that is not available yet.
"""

import io
import json
import sys
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
OutOption = Annotated[
    Path, typer.Option("--out", help="The file to write; an existing one is replaced when the new one is complete.")
]


@contextmanager
def errors() -> Iterator[None]:
    """Prints this package's errors as a sentence instead of a traceback, and names that cannot be written as UTF-8."""
    try:
        yield
    except ElasticVitError as error:
        end(str(error), EXIT_FAILED if isinstance(error, ExportError) else EXIT_USAGE)
    except UnicodeEncodeError as error:
        text = error.object.encode("utf-8", "backslashreplace").decode("utf-8")
        end(f"a name cannot be written as {error.encoding}; rename it: {text[:200]!r}", EXIT_USAGE)


def escape_unprintable() -> None:
    """Let stdout and stderr escape characters that their encoding lacks, as in an ASCII locale, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def say(answer: object) -> None:
    """Print JSON."""
    typer.echo(json.dumps(answer, indent=2))


def end(message: str, status: int) -> NoReturn:
    """End the command with a sentence on stderr."""
    typer.echo(f"elasticvit: {message.encode('utf-8', 'backslashreplace').decode()}", err=True)
    raise typer.Exit(status)
