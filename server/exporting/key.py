"""Under what a finished export is found again: everything that decides the bytes of its file.

The code itself counts by a hash of its sources, recipes among them, so that a newer version never answers with what an
older one made; so do the versions of the packages that do the sums and write the file.
"""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import elasticvit
from elasticvit.arch import Arch
from server.blobs import file_sha256
from server.services.supernet_files import table_of

PACKAGES = ("elasticvit", "torch", "numpy", "flatbuffers", "ai-edge-litert", "ai-edge-quantizer")
# What the files of this server take (`elasticvit.export.inputs`); part of the key, so that other forms can come.
INPUT_FORM = "normalised"


def export_key(arch: Arch, supernet: Path, sha256: str, *, precision: str, judged: bool, seed: int = 0) -> str:
    """64 hex digits.

    Args:
        arch: with the supernet's head.
        supernet, sha256: its file and that file's hash. The table beside it counts as well, since files state the
            accuracy that it tells.
        judged: False for a network with the norms as they are cut.
    """
    decides = {
        "arch": json.loads(arch.to_json()),
        "supernet": sha256,
        "table": _table_sha256(supernet) if judged else None,
        "precision": precision,
        "judged": judged,
        "seed": seed,
        "input": INPUT_FORM,
        "packages": package_versions(),
        "code": code_sha256(),
    }
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()


def _table_sha256(supernet: Path) -> str | None:
    try:
        found = table_of(supernet).stat()
    except OSError:
        return None
    return _sha256_at(table_of(supernet), found.st_size, found.st_mtime_ns)


@lru_cache(maxsize=32)
def _sha256_at(file: Path, size_bytes: int, changed_ns: int) -> str:
    """Read once for each state of the file."""
    del size_bytes, changed_ns
    return file_sha256(file)


@lru_cache(maxsize=1)
def package_versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "none"
    return found


@lru_cache(maxsize=1)
def code_sha256() -> str:
    """Of the library's sources and of what is done with them here, names and contents; read once a process."""
    library = Path(elasticvit.__file__).parent
    mine = Path(__file__).parent
    sources = [*library.rglob("*.py"), *library.rglob("export/recipes/*.json")]
    files = [(path.relative_to(library), path) for path in sources]
    files += [(path.relative_to(mine.parent), path) for path in mine.glob("*.py")]
    digest = hashlib.sha256()
    for name, path in sorted(files):
        digest.update(f"{name}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()
