"""The drawing of the layers in `docs/design.md`, made from the imports of the code: `python -m tests.layer_diagram`.

Run without arguments it writes the drawing into the page; `tests/test_docs.py` checks that the page has it.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from tests.test_imports import ENTRY_POINTS, LAYERS, OURS, imports_of, modules_of

PAGE = Path(__file__).parent.parent / "docs" / "design.md"
BLOCK = re.compile(r"```mermaid\n.*?```\n", re.DOTALL)
Needs = Mapping[str, frozenset[str]]


def diagram() -> str:
    """A mermaid flowchart: a box for each top-level package, in it its modules and packages, and an arrow for each
    import between them that does not follow from other arrows (the transitive reduction)."""
    lines = ["```mermaid", "flowchart TB"]
    for package in OURS:
        needs = needs_of(package)
        lines.append(f'  subgraph {package}["{package}/"]')
        lines += [f'    {package}_{name}["{name}"]' for names in reversed(LAYERS[package]) for name in sorted(names)]
        lines += [
            f"    {package}_{name} --> {package}_{other}"
            for name in sorted(needs)
            for other in sorted(reduced(needs)[name])
        ]
        lines.append("  end")
    lines += [f"  {importer} ==> {imported}" for importer, imported in between_packages()]
    return "\n".join([*lines, "```", ""])


def needs_of(package: str) -> Needs:
    """For each module or package directly inside a top-level package, those beside it that it imports."""
    rooms = {name for names in LAYERS[package] for name in names}
    needs: dict[str, set[str]] = {name: set() for name in rooms}
    for module, path in modules_of(package):
        if module in ENTRY_POINTS or module == package:
            continue
        room = module.split(".")[1]
        imported = {name.split(".")[1] for name in imports_of(path) if name.startswith(f"{package}.")}
        needs[room] |= (imported & rooms) - {room}
    return {room: frozenset(names) for room, names in needs.items()}


def reduced(needs: Needs) -> Needs:
    """Without the imports that a chain of other imports implies. `needs` has no cycle."""
    return {
        room: frozenset(name for name in names if not any(name in _reachable(needs, other) for other in names))
        for room, names in needs.items()
    }


def between_packages() -> list[tuple[str, str]]:
    """Imports between top-level packages, as ids of the drawing; of `server`, agents import only `server.wire`."""
    edges = set()
    for package in OURS:
        for _, path in modules_of(package):
            for name in imports_of(path):
                other = name.split(".")[0]
                if other in OURS and other != package:
                    edges.add((package, "server_wire" if name.startswith("server.wire") else other))
    return sorted(edges - {("device_agent", "server")})


def _reachable(needs: Needs, start: str) -> set[str]:
    """What `start` imports, directly or not; without `start`."""
    seen: set[str] = set()
    waiting = list(needs[start])
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting += needs[name]
    return seen


def main() -> None:
    PAGE.write_text(BLOCK.sub(lambda _: diagram(), PAGE.read_text("utf-8"), count=1), "utf-8")


if __name__ == "__main__":
    main()
