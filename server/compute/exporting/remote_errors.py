"""Errors on their way from the exporting process: ours arrive as themselves, anything else as words and a trace."""

from __future__ import annotations

import traceback
from dataclasses import dataclass

from elasticvit import errors as ours
from server import errors
from server.errors import ServerError

OUT_OF_MEMORY = ("can't allocate memory", "cannot allocate memory", "bad_alloc", "failed to allocate")
# They need more than a sentence, and no export raises them.
NOT_BY_WORDS = (ours.InfeasibleError, errors.Infeasible, errors.NotYet)


@dataclass(frozen=True)
class RemoteError:
    """An error as words: the class's name, what it says, and where it was raised."""

    name: str
    message: str
    trace: str
    no_memory: bool = False


def remote_error(error: BaseException) -> RemoteError:
    """For the way across. Never raises."""
    message = error.detail if isinstance(error, ServerError) else str(error)
    said = message.lower()
    no_memory = isinstance(error, MemoryError) or any(words in said for words in OUT_OF_MEMORY)
    return RemoteError(type(error).__name__, message, "".join(traceback.format_exception(error)), no_memory)


def restored(words: RemoteError) -> Exception:
    """The error that it was, for one of `elasticvit.errors` or `server.errors`; an `ExportCrashed` for any other."""
    for home, root in ((ours, ours.ElasticVitError), (errors, ServerError)):
        found = getattr(home, words.name, None)
        if isinstance(found, type) and issubclass(found, root) and found not in NOT_BY_WORDS:
            return found(words.message)
    return errors.ExportCrashed(
        f"the export failed unexpectedly ({words.name}: {words.message[:1000]}): this is an error of the server; "
        "please report it with the log of this job's attempt",
        log=words.trace,
    )
