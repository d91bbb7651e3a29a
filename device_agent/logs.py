"""Log lines: one event per line, `key=value` after it, on stderr or in a file. And the logs of other programs, cut to a
length. Logging never raises."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import TextIO, cast

import structlog

from server.wire.log_file import LogFile
from server.wire.log_stream import LogStream

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


def configure(level: str, file: Path | None = None) -> None:
    """Call once, before the first line. With `file`, stdout and stderr are written to it, too, and it is kept small.

    A file that cannot be opened is named in the log, which then goes to stderr.
    """
    log_file, why = LogFile(file) if file is not None else None, None
    try:
        if log_file is not None:
            log_file.open()
    except OSError as error:
        log_file, why = None, str(error)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.dev.ConsoleRenderer(colors=log_file is None and sys.stderr.isatty()),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=structlog.WriteLoggerFactory(file=cast(TextIO, LogStream(_dropped, file=log_file))),
        cache_logger_on_first_use=True,
    )
    if why is not None:
        structlog.get_logger().warning("the log file cannot be opened; logging to stderr", file=str(file), why=why)


def _dropped(count: int) -> str:
    return f"[warning  ] {count} log lines were dropped because they could not be written"


def log_end(text: str, max_chars: int) -> str:
    """The end of a log, at most `max_chars` long; a first line says how much was cut."""
    if len(text) <= max_chars:
        return text
    note = f"[{len(text)} characters of log, only the end is kept]\n"
    kept_chars = max_chars - len(note)
    return note + text[-kept_chars:] if kept_chars > 0 else text[-max_chars:]
