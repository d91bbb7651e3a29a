"""The key under which an export is found again: a hash of everything that decides the bytes of its file.

This includes the sources, with the quantization recipes, so that a newer version never returns a file of an older one,
and the versions of the packages that compute and write the file.
"""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from pathlib import Path

import elasticvit
from elasticvit.archs.arch import Arch
from elasticvit.export.manifest import package_versions
from server.store.supernet_file import SupernetRef

# The input form of this server's files (`elasticvit.export.input_form`); part of the key, so that others can be added.
INPUT_FORM = "normalised"


def export_key(supernet: SupernetRef, arch: Arch, *, precision: str, recalibrate: bool, seed: int = 0) -> str:
    """64 hex digits.

    Args:
        supernet: its weights count, and with `recalibrate` its table, because files state their accuracy; name and
            place do not.
        arch: with the supernet's head.
        recalibrate: False for a network with the supernet's norms, whose file states no accuracy.
    """
    decides = {
        "arch": json.loads(arch.to_json()),
        "supernet": supernet.sha256,
        "table": supernet.table_sha256 if recalibrate else None,
        "precision": precision,
        "recalibrate": recalibrate,
        "seed": seed,
        "input": INPUT_FORM,
        "packages": package_versions(),
        "code": code_sha256(),
    }
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()


def code_files() -> dict[str, Path]:
    """The sources that decide the bytes, by name: the library, its recipes, and the exporting process."""
    library, server = Path(elasticvit.__file__).parent, Path(__file__).parents[1]
    paths = [*library.rglob("*.py"), *library.rglob("export/quantize/recipes/*.json")]
    paths += [*(server / "compute" / "exporting").glob("*.py"), Path(__file__)]
    folders = {library: "elasticvit", server: "server"}
    return {
        f"{name}/{path.relative_to(folder).as_posix()}": path
        for path in paths
        for folder, name in folders.items()
        if path.is_relative_to(folder)
    }


@lru_cache(maxsize=1)
def code_sha256() -> str:
    """Hash of the names and contents of `code_files`; computed once per process."""
    digest = hashlib.sha256()
    for name, path in sorted(code_files().items()):
        digest.update(f"{name}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()
