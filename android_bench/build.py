"""Builds the C program with the compiler that comes from PyPI (ziglang), and finds LiteRT's library for this machine.

A build is kept under a name made of everything that goes into it (sources, compiler version, target, flags), so it is
made once and never stale. `python -m android_bench.build` builds for this machine and prints the path.
"""

import hashlib
import importlib.metadata
import importlib.util
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

from android_bench.errors import BenchBuildError

PROGRAM = "android_bench"
PACKAGE = Path(__file__).parent
SOURCES = PACKAGE / "src"
FLAGS = ("-std=c11", "-D_GNU_SOURCE", "-O2", "-s")
WARNINGS = ("-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Wconversion", "-Werror")
LIBRARIES = ("-ldl", "-lm")
# The oldest C library that the program is meant for: any newer one runs it, whatever this machine has.
HOST_GLIBC = "2.28"
PHONE_TARGET = "aarch64-linux-gnu.2.34"
COMPILE_TIMEOUT_S = 300
HOST_ARCHITECTURES = {"x86_64": "x86_64", "amd64": "x86_64", "aarch64": "aarch64", "arm64": "aarch64"}


def build_host(out_dir: Path | None = None) -> Path:
    """The program for this machine, built where needed; in out_dir, or in the first cache folder that can be written.

    Raises BenchBuildError where the machine is not Linux on x86_64 or aarch64, the compiler is missing or it fails.
    """
    architecture = HOST_ARCHITECTURES.get(platform.machine().lower())
    if platform.system() != "Linux" or architecture is None:
        raise BenchBuildError(
            f"{platform.system()} on {platform.machine()} cannot be measured: run the agent on Linux, x86_64 or aarch64"
        )
    return _build(f"{architecture}-linux-gnu.{HOST_GLIBC}", out_dir)


def build_phone_glibc(out_dir: Path | None = None) -> Path:
    """The program for a 64-bit ARM phone, to be run beside a glibc of its own. Raises BenchBuildError."""
    return _build(PHONE_TARGET, out_dir)


def build_id(binary: Path) -> str:
    """Twelve hexadecimal digits of the SHA-256 of the file: which build made a measurement."""
    return hashlib.sha256(binary.read_bytes()).hexdigest()[:12]


def host_library() -> Path:
    """libLiteRt.so of the installed ai-edge-litert, found without importing it. Raises BenchBuildError."""
    spec = importlib.util.find_spec("ai_edge_litert")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        library = Path(folder) / "libLiteRt.so"
        if library.is_file():
            return library
    raise BenchBuildError("LiteRT's library is not installed: pip install 'elasticvit[host]'")


def host_library_version() -> str:
    """Version of the installed ai-edge-litert. Raises BenchBuildError."""
    try:
        return importlib.metadata.version("ai-edge-litert")
    except importlib.metadata.PackageNotFoundError as error:
        raise BenchBuildError("LiteRT is not installed: pip install 'elasticvit[host]'") from error


def _build(target: str, out_dir: Path | None) -> Path:
    folders = (out_dir,) if out_dir else _cache_folders()
    name = Path(f"{target}-{_key(target)}") / PROGRAM
    for folder in folders:  # one that was built into an image may be used where it cannot be written
        if (folder / name).is_file():
            return (folder / name).resolve()
    program = _first_writable(folders) / name
    program.parent.mkdir(exist_ok=True)
    _compile(target, program)
    return program


def _key(target: str) -> str:
    digest = hashlib.sha256(" ".join((target, _compiler_version(), *FLAGS, *LIBRARIES)).encode())
    for source in sorted((*SOURCES.glob("*.c"), *SOURCES.glob("*.h"))):
        digest.update(source.name.encode() + b"\0" + source.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def _compiler_version() -> str:
    try:
        return importlib.metadata.version("ziglang")
    except importlib.metadata.PackageNotFoundError as error:
        raise BenchBuildError("the C compiler is not installed: pip install 'elasticvit[host]'") from error


def _compile(target: str, program: Path) -> None:
    """Compiles into a folder of its own and renames: two builders at once both end with a whole program."""
    with tempfile.TemporaryDirectory(prefix=".build-", dir=program.parent) as scratch:
        made = Path(scratch) / PROGRAM
        sources = [str(source) for source in sorted(SOURCES.glob("*.c"))]
        command = [sys.executable, "-m", "ziglang", "cc", "-target", target, *FLAGS, *WARNINGS, "-o", str(made)]
        # The compiler's own cache stays inside ours: the home folder may be missing or read-only.
        environment = {"ZIG_GLOBAL_CACHE_DIR": str(program.parent.parent / "zig"), **os.environ}
        environment["ZIG_LOCAL_CACHE_DIR"] = str(Path(scratch) / "zig")
        try:
            result = subprocess.run(
                [*command, *sources, *LIBRARIES],
                env=environment,
                cwd=scratch,
                capture_output=True,
                text=True,
                timeout=COMPILE_TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise BenchBuildError(f"building {PROGRAM} took over {COMPILE_TIMEOUT_S} s: try again when idle") from error
        if result.returncode != 0:
            raise BenchBuildError(f"building {PROGRAM} for {target} failed:\n{result.stderr.strip()}")
        made.replace(program)


def _cache_folders() -> tuple[Path, ...]:
    home = os.environ.get("XDG_CACHE_HOME")
    cache = Path(home) if home else Path.home() / ".cache"
    return PACKAGE / "build", cache / "elasticvit" / PROGRAM


def _first_writable(folders: tuple[Path, ...]) -> Path:
    """The first folder, made where missing, that takes a file; as an absolute path. Raises BenchBuildError."""
    for folder in folders:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                return folder.resolve()
        except OSError:
            continue
    raise BenchBuildError(f"nothing can be built: make {' or '.join(map(str, folders))} writable")


def main() -> None:
    """Builds for this machine and prints the path; ends with code 1 and a sentence where that fails."""
    try:
        sys.stdout.write(f"{build_host()}\n")
    except BenchBuildError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
