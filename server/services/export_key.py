"""Under what a finished export is found again: everything that decides the bytes of its file.

The code itself counts by a hash of its sources, recipes among them, so that a newer version never answers with what an
older one made; so do the versions of the packages that do the sums and write the file.
"""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from pathlib import Path

import elasticvit
from elasticvit.archs.arch import Arch
from elasticvit.export.manifest import package_versions

# What the files of this server take (`elasticvit.export.input_form`); part of the key, so that other forms can come.
INPUT_FORM = "normalised"


def export_key(
    arch: Arch, sha256: str, table_sha256: str | None, *, precision: str, recalibrate: bool, seed: int = 0
) -> str:
    """64 hex digits.

    Args:
        arch: with the supernet's head.
        sha256: of the supernet's file. table_sha256: of the table beside it, None where there is none; it counts since
            files state the accuracy that it tells.
        recalibrate: False for a network with the norms as they are cut, whose accuracy is not told.
    """
    decides = {
        "arch": json.loads(arch.to_json()),
        "supernet": sha256,
        "table": table_sha256 if recalibrate else None,
        "precision": precision,
        "recalibrate": recalibrate,
        "seed": seed,
        "input": INPUT_FORM,
        "packages": package_versions(),
        "code": code_sha256(),
    }
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()


def code_files() -> dict[str, Path]:
    """The sources that decide the bytes, by name: the library's, its recipes, and what is done with them here."""
    library, server = Path(elasticvit.__file__).parent, Path(__file__).parents[1]
    found = [*library.rglob("*.py"), *library.rglob("export/quantize/recipes/*.json")]
    found += [*(server / "compute" / "exporting").glob("*.py"), Path(__file__)]
    folders = {library: "elasticvit", server: "server"}
    return {
        f"{name}/{path.relative_to(folder).as_posix()}": path
        for path in found
        for folder, name in folders.items()
        if path.is_relative_to(folder)
    }


@lru_cache(maxsize=1)
def code_sha256() -> str:
    """Of `code_files`, names and contents; read once a process."""
    digest = hashlib.sha256()
    for name, path in sorted(code_files().items()):
        digest.update(f"{name}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()
