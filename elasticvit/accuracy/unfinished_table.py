"""The accuracy table of a supernet file while its sub-networks are evaluated: a hidden file beside the finished table.

It is an accuracy table whose header also has `supernet_sha256`, the SHA-256 of the supernet file. So an interrupted
evaluation is continued for that very file, and never with the accuracies of another supernet of the same space.
"""

import fcntl
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from elasticvit.accuracy.table import VAL_IMAGES, AccuracyTable, OnVal, append
from elasticvit.accuracy.value import Accuracy
from elasticvit.archs.space import Codes, Space
from elasticvit.atomic import write_atomically
from elasticvit.errors import PredictorError, SupernetFileError
from elasticvit.nn.supernet_header import table_path
from elasticvit.progress import Say

DIGEST = "supernet_sha256"


@dataclass(frozen=True)
class UnfinishedTable:
    """The accuracies that are known so far of the supernet file `supernet`, whose SHA-256 is `sha256`."""

    supernet: Path
    space: Space
    sha256: str

    @classmethod
    @contextmanager
    def open(cls, supernet: Path, space: Space, say: Say) -> Iterator["UnfinishedTable"]:
        """Continue an interrupted evaluation of this supernet file, or start over; `say` gets a sentence if it does so.

        The supernet file is locked meanwhile, so that two processes never write one table. The kernel ends the lock
        with the process.

        Raises:
            SupernetFileError: the supernet file cannot be read.
            PredictorError: another process evaluates its sub-networks, or the disk refuses.
        """
        try:
            file = supernet.open("rb")
        except OSError as error:
            raise SupernetFileError(f"cannot read {supernet}: {error.strerror}") from error
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise PredictorError(
                    f"another process evaluates sub-networks of {supernet}: wait for it, or stop it to continue here"
                ) from error
            except OSError as error:
                raise PredictorError(f"cannot lock {supernet}: {error.strerror}") from error
            table = cls(supernet, space, hashlib.file_digest(file, "sha256").hexdigest())
            if table.path.exists() and not table._is_of_supernet():
                table._discard()
                say(
                    f"an interrupted evaluation was of another supernet than {supernet} is now, or cannot be read;"
                    " starting over"
                )
            yield table

    @property
    def path(self) -> Path:
        finished = table_path(self.supernet)
        return finished.with_name(f".{finished.name}")

    def append(self, code: Codes, search: Accuracy, val: Accuracy) -> None:
        """Add the accuracies of one code, shape (D,), on the images that choose and on those that chose nothing; synced
        to the disk. Raises `PredictorError` for other images."""
        reported = OnVal([val.value], val.images, val.independent)
        header = {DIGEST: self.sha256}
        append(self.path, self.space, search.images, code[None], [search.value], header, reported)

    def load(self) -> AccuracyTable:
        """Raises `PredictorError` if nothing is evaluated yet."""
        return AccuracyTable.load(self.path)

    def finish(self) -> Path:
        """Write it as the accuracy table of the supernet file, whose path is returned, and remove it.

        Raises:
            PredictorError: the disk refuses.
        """
        try:
            content = self.path.read_bytes()
        except OSError as error:
            raise PredictorError(f"cannot read {self.path}: {error.strerror}") from error
        head, _, entries = content[: content.rfind(b"\n") + 1].partition(b"\n")
        header = {name: value for name, value in json.loads(head).items() if name != DIGEST}
        data = json.dumps(header, sort_keys=True).encode() + b"\n" + entries
        write_atomically(table_path(self.supernet), data, error=PredictorError, single_writer=True)
        self._discard()
        return table_path(self.supernet)

    def _discard(self) -> None:
        try:
            self.path.unlink()
        except OSError as error:
            raise PredictorError(f"cannot remove {self.path}: {error.strerror}") from error

    def _is_of_supernet(self) -> bool:
        try:
            with self.path.open("rb") as file:
                header = json.loads(file.readline())
            # Earlier versions did not evaluate on `val`.
            return header[DIGEST] == self.sha256 and VAL_IMAGES in header and self.load().space == self.space
        except (OSError, KeyError, TypeError, ValueError, RecursionError, PredictorError):
            return False
