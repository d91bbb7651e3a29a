"""JSON logs, one object per line, on stderr or in a file of this process. Logging never raises."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO, cast

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from server.wire.log_file import LogFile
from server.wire.log_stream import LogStream


def configure(level: str, file: Path | None = None) -> None:
    """Call once, at a process's start. With `file`, stdout and stderr are written to it, too, and it is kept small.

    A file that cannot be opened is named in the log, which then goes to stderr.
    """
    log_file, why = _opened(file)
    processors: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        structlog.processors.JSONRenderer(),
    ]
    structlog.configure(
        processors=[_unfailing(processors)],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.WriteLoggerFactory(cast(TextIO, LogStream(_dropped, file=log_file))),
        cache_logger_on_first_use=True,
    )
    if why is not None:
        structlog.get_logger().warning("the log file cannot be opened; logging to stderr", file=str(file), why=why)


def _opened(file: Path | None) -> tuple[LogFile | None, str | None]:
    if file is None:
        return None, None
    log_file = LogFile(file)
    try:
        log_file.open()
    except OSError as error:
        return None, str(error)
    return log_file, None


def _unfailing(processors: Sequence[Processor]) -> Processor:
    """The processors one after the other; a value that cannot be written costs its line and nothing else."""

    def process(logger: WrappedLogger, method: str, event: EventDict) -> str:
        line: object = event
        try:
            for processor in processors:
                line = processor(logger, method, cast(EventDict, line))
            return str(line)
        except Exception as error:
            return _line("error", f"a log line could not be written: {type(error).__name__}")

    return process


def _dropped(count: int) -> str:
    return _line("warning", "log lines were dropped because they could not be written", count=count)


def _line(level: str, event: str, **values: object) -> str:
    at = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    return json.dumps({"event": event, **values, "level": level, "timestamp": at})
