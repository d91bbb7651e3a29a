"""The import rules: who may import whom, in which order the layers of each package lie, and what must stay light."""

import ast
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
OURS = ("elasticvit", "server", "device_agent", "android_bench")
ALLOWED = {
    "elasticvit": ("elasticvit",),
    "server": ("server", "elasticvit"),
    "device_agent": ("device_agent", "server.wire", "android_bench"),
    "android_bench": ("android_bench",),
}
# From the ground up: a module or package imports only what stands in a line above its own. Those of one line do not
# know each other. `__init__` of a top-level package re-exports public names.
LAYERS: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "elasticvit": (
        ("errors",),
        ("progress", "atomic", "timing", "hashing", "json_lines", "processor"),
        ("archs",),
        ("costs", "data"),
        ("nn", "latency"),
        ("moonlit", "search"),
        ("accuracy",),
        ("export",),
        ("training",),
        ("pretrained",),
        ("cli",),
    ),
    "server": (
        ("version", "clock", "ids", "wakeup"),
        ("wire",),
        ("errors", "logs"),
        ("settings",),
        ("store",),
        ("services",),
        ("api", "compute"),
        ("supervise", "demo"),
        ("cli",),
    ),
    "device_agent": (
        ("logs", "files"),
        ("errors",),
        ("cancellation", "settings", "home", "sandbox"),
        ("bench",),
        ("devices",),
        ("uplink",),
        ("job",),
        ("serving",),
        ("loop",),
        ("cli",),
    ),
    "android_bench": (("errors",), ("adapter", "build")),
}
# Imports the command that it starts: users start several processes of it, by `torchrun -m elasticvit.training`.
ENTRY_POINTS = ("elasticvit.training.__main__",)
TORCH_FREE = ("archs", "costs", "errors", "latency", "search")


def imports_of(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide who imports whom"
            names |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def modules_of(package: str) -> Iterator[tuple[str, Path]]:
    """Every module with its path, by the name that imports use."""
    for path in sorted((ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def _within(name: str, allowed: tuple[str, ...]) -> bool:
    # `from server import wire` names the package too; that package is empty and harmless.
    return any(name == a or name.startswith(a + ".") or a.startswith(name + ".") for a in allowed)


@pytest.mark.medium
@pytest.mark.parametrize("package", OURS)
def test_packages_import_only_what_they_may(package: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for _, path in modules_of(package)
        for name in imports_of(path)
        if name.split(".")[0] in OURS and not _within(name, ALLOWED[package])
    ]
    assert wrong == []


@pytest.mark.medium
@pytest.mark.parametrize("package", LAYERS)
def test_no_import_runs_upward(package: str, request: pytest.FixtureRequest) -> None:
    floor = {name: number for number, names in enumerate(LAYERS[package]) for name in names}
    rooms = {
        path.stem if path.parent == ROOT / package else module.split(".")[1] for module, path in modules_of(package)
    }
    assert rooms - {"__init__"} == set(floor), "every module and package of this package has a layer"
    wrong = []
    for module, path in modules_of(package):
        if module in ENTRY_POINTS or module == package:
            continue
        mine = module.split(".")[1]
        for name in imports_of(path):
            other = name.split(".")[1] if name.startswith(f"{package}.") else mine
            if other != mine and other in floor and floor[other] >= floor[mine]:
                wrong.append(f"{path.relative_to(ROOT)} ({mine}) imports {name}")
    assert wrong == []
    lines = (f"  {number:2}  {' '.join(names)}" for number, names in enumerate(LAYERS[package], start=1))
    _print(request, f"layers of {package}, no import upward:", *lines)


def _print(request: pytest.FixtureRequest, *lines: str) -> None:
    """To the terminal, so that `make check` shows the layers that were checked."""
    reporter = request.config.pluginmanager.get_plugin("terminalreporter")
    capture = request.config.pluginmanager.get_plugin("capturemanager")
    if reporter is not None and capture is not None:
        with capture.global_and_fixture_disabled():
            reporter.write("\n" + "\n".join(lines) + "\n")


def _needed(path: Path, modules: Mapping[str, Path]) -> set[str]:
    """The modules that this one imports; of `from package import module` only the module."""
    names = {name for name in imports_of(path) if name in modules}
    return {
        name for name in names if not (modules[name].stem == "__init__" and _names_only_modules(path, name, modules))
    }


def _names_only_modules(path: Path, package: str, modules: Mapping[str, Path]) -> bool:
    nodes = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.ImportFrom) and n.module == package]
    return bool(nodes) and all(f"{package}.{alias.name}" in modules for n in nodes for alias in n.names)


@pytest.mark.medium
@pytest.mark.parametrize("package", OURS)
def test_modules_import_each_other_without_a_cycle(package: str) -> None:
    modules = dict(modules_of(package))
    needs = {name: _needed(path, modules) - {name} for name, path in modules.items()}
    while needs:
        free = {name for name, imported in needs.items() if not imported & set(needs)}
        assert free, f"a cycle among {sorted(needs)}"
        needs = {name: imported for name, imported in needs.items() if name not in free}


def test_the_light_half_of_elasticvit_names_no_torch() -> None:
    paths = [p for name in TORCH_FREE for p in (ROOT / "elasticvit").glob(f"{name}.py")]
    paths += [p for name in TORCH_FREE for p in (ROOT / "elasticvit" / name).rglob("*.py")]
    assert len(paths) > len(TORCH_FREE)
    heavy = ("torch", "elasticvit.nn", "elasticvit.training", "elasticvit.accuracy.evaluate", "elasticvit.export")
    wrong = [
        f"{p.name}: {n}" for p in paths for n in imports_of(p) if any(n == h or n.startswith(h + ".") for h in heavy)
    ]
    assert wrong == []


def test_services_know_no_routes_and_no_fastapi() -> None:
    wrong = [
        f"{path.name}: {name}"
        for path in (ROOT / "server" / "services").rglob("*.py")
        for name in imports_of(path)
        if name.split(".")[0] in ("fastapi", "starlette")
    ]
    assert wrong == []


def test_server_package_is_empty() -> None:
    assert (ROOT / "server" / "__init__.py").read_text() == ""


@pytest.mark.medium
@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("server.wire", ("fastapi", "sqlmodel", "sqlalchemy", "torch", "numpy")),
        ("device_agent.loop", ("fastapi", "sqlmodel", "sqlalchemy", "torch", "numpy")),
        ("elasticvit.search.evolution", ("torch", "sklearn", "nn_meter")),
        ("elasticvit.latency.predictor", ("torch",)),
        ("server.services.supernet_files", ("fastapi", "torch")),
        ("server.compute.worker", ("torch",)),
    ],
)
def test_imports_stay_light(module: str, heavy: tuple[str, ...]) -> None:
    code = f"import sys, {module}; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
