"""Errors sent from the exporting process: those of this project keep their class, others become text and traceback."""

from __future__ import annotations

import traceback
from dataclasses import dataclass

from elasticvit import errors as ours
from server import errors
from server.errors import ServerError

OUT_OF_MEMORY = ("can't allocate memory", "cannot allocate memory", "bad_alloc", "failed to allocate")
# Their constructors take more than a message, and no export raises them.
NOT_RESTORED = (ours.InfeasibleError, errors.Infeasible, errors.NotYet)


@dataclass(frozen=True)
class RemoteError:
    """An error as text: the name of its class, its message, and its traceback."""

    name: str
    message: str
    trace: str
    no_memory: bool = False


def remote_error(error: BaseException) -> RemoteError:
    """The error as it is sent. Never raises."""
    message = error.detail if isinstance(error, ServerError) else str(error)
    no_memory = isinstance(error, MemoryError) or any(text in message.lower() for text in OUT_OF_MEMORY)
    return RemoteError(type(error).__name__, message, "".join(traceback.format_exception(error)), no_memory)


def restored(remote: RemoteError) -> Exception:
    """The original error for a class of `elasticvit.errors` or `server.errors`, an `ExportCrashed` for any other."""
    for module, root in ((ours, ours.ElasticVitError), (errors, ServerError)):
        error_class = getattr(module, remote.name, None)
        if isinstance(error_class, type) and issubclass(error_class, root) and error_class not in NOT_RESTORED:
            return error_class(remote.message)
    return errors.ExportCrashed(
        f"the export failed unexpectedly ({remote.name}: {remote.message[:1000]}): this is an error of the server; "
        "please report it with the log of this job's attempt",
        log=remote.trace,
    )
