"""Finds android_bench and the runtime library that it loads on this machine."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from device_agent.errors import BenchMissing

UNKNOWN = "unknown"


@dataclass(frozen=True)
class Bench:
    """The program, LiteRT's library with its version, and the hash that identifies the build."""

    program: Path
    library: Path
    library_version: str
    build_id: str


def find_bench(program: Path | None, library: Path | None) -> Bench:
    """The given paths, by default those of the installed packages; the program is built if needed.

    Raises BenchMissing.
    """
    # Imported late: an agent that serves only phones needs neither compiler nor runtime.
    from android_bench import build
    from android_bench.errors import BenchBuildError

    try:
        version = UNKNOWN if library else build.host_library_version()
        library = (library or build.host_library()).resolve()
        program = (program or build.build_host()).resolve()
    except BenchBuildError as error:
        raise BenchMissing(str(error)) from error
    if not library.is_file():
        raise BenchMissing(f"{library} does not exist: name LiteRT's library in ELASTICVIT_AGENT_LIBRARY")
    if not (program.is_file() and os.access(program, os.X_OK)):
        raise BenchMissing(f"{program} is not executable: build android_bench, or name it in ELASTICVIT_AGENT_BENCH")
    return Bench(program, library, version, build.build_id(program))
