"""The accuracy table of a supernet file while its sub-networks are evaluated: a hidden file beside the finished table.

It is an accuracy table whose header also has `supernet_sha256`, the SHA-256 of the supernet file. So an interrupted
evaluation is continued for that very file, and never with the accuracies of another supernet of the same space.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from elasticvit.accuracy.table import AccuracyTable, append, table_path
from elasticvit.accuracy.value import Accuracy
from elasticvit.archs.space import Codes, Space
from elasticvit.atomic import write_atomically
from elasticvit.errors import PredictorError, SupernetFileError
from elasticvit.progress import Say

DIGEST = "supernet_sha256"


@dataclass(frozen=True)
class UnfinishedTable:
    """The accuracies that are known so far of the supernet file `supernet`, whose SHA-256 is `sha256`."""

    supernet: Path
    space: Space
    sha256: str

    @classmethod
    def open(cls, supernet: Path, space: Space, say: Say) -> "UnfinishedTable":
        """Continue an interrupted evaluation of this supernet file, or start over; `say` gets a sentence if it does so.

        Raises:
            SupernetFileError: the supernet file cannot be read.
        """
        try:
            with supernet.open("rb") as file:
                table = cls(supernet, space, hashlib.file_digest(file, "sha256").hexdigest())
        except OSError as error:
            raise SupernetFileError(f"cannot read {supernet}: {error.strerror}") from error
        if table.path.exists() and not table._is_of_supernet():
            table.path.unlink()
            say(
                f"an interrupted evaluation was of another supernet than {supernet} is now, or cannot be read; starting"
                " over"
            )
        return table

    @property
    def path(self) -> Path:
        finished = table_path(self.supernet)
        return finished.with_name(f".{finished.name}")

    def append(self, code: Codes, accuracy: Accuracy) -> None:
        """Add the accuracy of one code, shape (D,), synced to the disk. Raises `PredictorError` for other images."""
        header = {DIGEST: self.sha256}
        append(self.path, self.space, accuracy.images, code[None], [accuracy.value], header)

    def load(self) -> AccuracyTable:
        """Raises `PredictorError` if nothing is evaluated yet."""
        return AccuracyTable.load(self.path)

    def finish(self) -> Path:
        """Write it as the accuracy table of the supernet file, whose path is returned, and remove it.

        Raises:
            PredictorError: the disk refuses.
        """
        content = self.path.read_bytes()
        head, _, entries = content[: content.rfind(b"\n") + 1].partition(b"\n")
        header = {name: value for name, value in json.loads(head).items() if name != DIGEST}
        data = json.dumps(header, sort_keys=True).encode() + b"\n" + entries
        write_atomically(table_path(self.supernet), data, error=PredictorError, single_writer=True)
        self.path.unlink()
        return table_path(self.supernet)

    def _is_of_supernet(self) -> bool:
        try:
            with self.path.open("rb") as file:
                header = json.loads(file.readline())
            return header[DIGEST] == self.sha256 and self.load().space == self.space
        except (OSError, KeyError, TypeError, ValueError, RecursionError, PredictorError):
            return False
