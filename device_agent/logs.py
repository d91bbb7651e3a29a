"""Log lines: one event per line, `key=value` after it, on stderr. And the logs of other programs, cut to a length."""

from __future__ import annotations

import logging
import sys

import structlog

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


def configure(level: str) -> None:
    """Call once, before the first line."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )


def log_end(text: str, max_chars: int) -> str:
    """The end of a log, at most `max_chars` long; a first line says how much was cut."""
    if len(text) <= max_chars:
        return text
    note = f"[{len(text)} characters of log, only the end is kept]\n"
    kept_chars = max_chars - len(note)
    return note + text[-kept_chars:] if kept_chars > 0 else text[-max_chars:]
