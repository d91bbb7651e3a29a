"""The import rules: who may import whom, and what must stay light."""

import ast
import subprocess
import sys
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
# `make run` starts agent and server together, and the command line mounts both halves.
EXCEPTIONS: dict[str, tuple[str, ...]] = {}
TORCH_FREE = ("archs", "costs", "errors", "latency", "search")


def _imports(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide who imports whom"
            names |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def _within(name: str, allowed: tuple[str, ...]) -> bool:
    # `from server import wire` names the package too; that package is empty and harmless.
    return any(name == a or name.startswith(a + ".") or a.startswith(name + ".") for a in allowed)


@pytest.mark.parametrize("package", OURS)
def test_packages_import_only_what_they_may(package: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in (ROOT / package).rglob("*.py")
        for name in _imports(path)
        if name.split(".")[0] in OURS and not _within(name, ALLOWED[package] + EXCEPTIONS.get(path.name, ()))
    ]
    assert wrong == []


def test_the_light_half_of_elasticvit_names_no_torch() -> None:
    paths = [p for name in TORCH_FREE for p in (ROOT / "elasticvit").glob(f"{name}.py")]
    paths += [p for name in TORCH_FREE for p in (ROOT / "elasticvit" / name).rglob("*.py")]
    assert len(paths) > len(TORCH_FREE)
    heavy = ("torch", "elasticvit.nn", "elasticvit.training", "elasticvit.accuracy.evaluate", "elasticvit.export")
    wrong = [
        f"{p.name}: {n}" for p in paths for n in _imports(p) if any(n == h or n.startswith(h + ".") for h in heavy)
    ]
    assert wrong == []


def test_services_know_no_routes_and_no_fastapi() -> None:
    wrong = [
        f"{path.name}: {name}"
        for path in (ROOT / "server" / "services").rglob("*.py")
        for name in _imports(path)
        if name.split(".")[0] in ("fastapi", "starlette") or name.startswith("server.api.routes")
    ]
    assert wrong == []


def test_server_package_is_empty() -> None:
    assert (ROOT / "server" / "__init__.py").read_text() == ""


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("server.wire", ("fastapi", "sqlmodel", "sqlalchemy", "torch", "numpy")),
        ("device_agent.loop", ("fastapi", "sqlmodel", "sqlalchemy", "torch", "numpy")),
        ("elasticvit.search.evolution", ("torch", "sklearn", "nn_meter")),
        ("elasticvit.latency.predictor", ("torch",)),
    ],
)
def test_imports_stay_light(module: str, heavy: tuple[str, ...]) -> None:
    code = f"import sys, {module}; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
