"""The errors of the server package, each with its HTTP status and kind.

ServerError
├── UserError            422  the caller can fix it
│   ├── BadValue         422
│   ├── Infeasible       422  smallest_ms, binding
│   ├── KeyReused        422  an Idempotency-Key with another body
│   ├── Unauthorized     401
│   ├── Forbidden        403
│   ├── NotFound         404
│   ├── MethodNotAllowed 405  allowed
│   ├── TooLarge         413
│   ├── UnsupportedEncoding 415
│   ├── TooMany          429
│   └── Conflict         409
│       ├── NoPredictor  409
│       ├── Finished     409  a finished job does not change
│       └── StaleLease   409
└── InfraError           500  the operator can fix it
    ├── ExportCrashed    500  the process that exports died (by a signal: twice), or exceeded its limits; final
    ├── Unavailable      503
    │   ├── NotYet       503  retry_after_seconds
    │   └── Busy         503  retry_after_seconds
    ├── DiskFull         507
    ├── ReadOnlyHome     503
    ├── DatabaseTooNew   503
    ├── ForeignDatabase  503
    ├── DamagedDatabase  500
    ├── DamagedFile      500
    └── SettingsError    500
"""

# ruff: noqa: N818  the names say what is wrong; the suffix "Error" would add nothing

from __future__ import annotations

import errno
from collections.abc import Iterable
from http import HTTPStatus
from typing import ClassVar

from pydantic import JsonValue

from server.wire import MAX_DETAIL_CHARS, Failure, FailureKind, Problem

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)


class ServerError(Exception):
    """Root; `detail` is a sentence that says what to do, `extras` are figures for the problem document."""

    status: ClassVar[int] = 500
    kind: ClassVar[FailureKind] = "infra"
    final: ClassVar[bool] = False
    """Whether a job that failed so would only fail again."""

    def __init__(self, detail: str, **extras: JsonValue) -> None:
        super().__init__(detail)
        self.detail = detail
        self.extras = extras
        self.log = ""
        self.headers: dict[str, str] = {}

    def problem(self) -> Problem:
        return problem(self.status, self.detail, kind=self.kind, **self.extras)

    def failure(self) -> Failure:
        """The same as the failure of a job."""
        return failure(self.kind, self.detail, type(self).__name__)


class UserError(ServerError):
    status = 422
    kind = "user"


class BadValue(UserError):
    """A value that cannot be used."""


class Infeasible(UserError):
    """No architecture meets the request: `smallest_ms` is the least reachable, `binding` the bound missed."""

    def __init__(self, detail: str, *, smallest_ms: float | None, binding: str, **extras: JsonValue) -> None:
        super().__init__(detail, smallest_ms=smallest_ms, binding=binding, **extras)


class KeyReused(UserError):
    """The Idempotency-Key was used with another body before."""


class Unauthorized(UserError):
    status = 401


class Forbidden(UserError):
    status = 403


class NotFound(UserError):
    status = 404


class MethodNotAllowed(UserError):
    """`allowed` are the methods that the address takes."""

    status = 405

    def __init__(self, detail: str, *, allowed: Iterable[str]) -> None:
        super().__init__(detail)
        self.headers = {"Allow": ", ".join(sorted(allowed))}


class TooLarge(UserError):
    status = 413


class UnsupportedEncoding(UserError):
    status = 415


class TooMany(UserError):
    """The user has as many unfinished jobs as allowed."""

    status = 429


class Conflict(UserError):
    """The request does not fit the present state."""

    status = 409


class NoPredictor(Conflict):
    """The device cannot be predicted yet."""


class Finished(Conflict):
    """The job is finished and stays as it is."""


class StaleLease(Conflict):
    """The lease is no longer the caller's."""


class InfraError(ServerError):
    pass


class ExportCrashed(InfraError):
    """`log` is the tail of the process's output."""

    final = True

    def __init__(self, detail: str, *, log: str = "") -> None:
        super().__init__(detail)
        self.log = log


class Unavailable(InfraError):
    status = 503


class NotYet(Unavailable):
    """The requested file is being made."""

    def __init__(self, detail: str, *, retry_after_seconds: int) -> None:
        super().__init__(detail, retry_after_seconds=retry_after_seconds)
        self.headers = {"Retry-After": str(retry_after_seconds)}


class Busy(Unavailable):
    """Others are served first."""

    def __init__(self, detail: str, *, retry_after_seconds: int) -> None:
        super().__init__(f"{detail}: try again in {retry_after_seconds} s", retry_after_seconds=retry_after_seconds)
        self.headers = {"Retry-After": str(retry_after_seconds)}


class DiskFull(InfraError):
    status = 507


class ReadOnlyHome(InfraError):
    status = 503


class DatabaseTooNew(InfraError):
    status = 503


class DamagedDatabase(InfraError):
    """What the file holds is no database, or not a whole one; nothing was changed."""


class DamagedFile(InfraError):
    """A file of the home folder is gone or is not what it was when it was stored."""


class ForeignDatabase(InfraError):
    status = 503


class SettingsError(InfraError):
    pass


def failure(kind: FailureKind, detail: str, name: str) -> Failure:
    """The failure of a job, whatever the text of its error: cut off where it is too long; an empty one is replaced by
    the error's `name`."""
    # Characters that databases cannot hold are replaced by one each, so the length stays.
    return Failure(kind=kind, detail=detail[:MAX_DETAIL_CHARS].strip() or f"{name}, without a message: read the log")


def problem(status: int, detail: str, *, kind: FailureKind | None = None, **extras: JsonValue) -> Problem:
    """The problem document of an HTTP status; `kind` by default is `user` below 500 and `infra` above."""
    title = HTTPStatus(status).phrase
    return Problem(
        title=title, status=status, kind=kind or ("user" if status < 500 else "infra"), detail=detail, **extras
    )


def from_os_error(error: OSError, what: str) -> InfraError:
    """The server's error for a failed file operation; `what` names the file or folder."""
    if error.errno in FULL:
        return DiskFull(f"no space left for {what}: free some on that disk and try again")
    if error.errno in READ_ONLY:
        return ReadOnlyHome(
            f"{what} cannot be written ({error.strerror}): set ELASTICVIT_HOME to a folder you may write"
        )
    return InfraError(f"{what} cannot be used: {error.strerror or error}")
