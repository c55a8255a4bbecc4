"""Imports go down the list of packages and never up. No two files import each other."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "feathervit"

# From top to bottom. A package imports only packages below it.
PACKAGES = (
    *(
        "__main__",
        "cli",
        "demo",
        "studies",
        "benchmark",
        "export",
        "training",
        "plots",
        "evaluation",
        "models",
    ),
    *("recipes", "data", "checkpoint", "weights", "device", "results", "config", "files"),
    *("foreign", "streams", "text", "chance", "errors"),
)


def modules(root: Path) -> dict[str, Path]:
    """Dotted name below the package -> file. It omits the package itself, because any file may import its version."""
    found = {}
    for path in root.rglob("*.py"):
        parts = path.relative_to(root).with_suffix("").parts
        parts = parts[:-1] if parts[-1] == "__init__" else parts
        if parts:
            found[".".join(parts)] = path
    return found


def imported(name: str, path: Path, known: set[str], package: str) -> Iterator[str]:
    """The modules of the package that a file imports, at its top, inside functions, or for type checkers."""
    here = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            inside = [alias.name for alias in node.names if alias.name.startswith(f"{package}.")]
            targets = [name.removeprefix(f"{package}.") for name in inside]
        elif isinstance(node, ast.ImportFrom):
            module = (node.module or "").split(".") if node.module else []
            if node.level:
                module = here[: len(here) - node.level + 1] + module
            elif module[:1] == [package]:
                module = module[1:]
            else:
                continue
            base = ".".join(module)
            targets = [
                inside if (inside := f"{base}.{alias.name}".strip(".")) in known else base for alias in node.names
            ]
        else:
            continue
        yield from (target for target in targets if target and target != name)


def graph(root: Path) -> dict[str, set[str]]:
    found = modules(root)
    return {name: set(imported(name, path, set(found), root.name)) for name, path in found.items()}


def violations(imports: dict[str, set[str]], packages: tuple[str, ...]) -> list[str]:
    """Finds imports up the list, and files that import each other directly or through others."""
    position = {name: i for i, name in enumerate(packages)}
    found = []
    for name, targets in imports.items():
        for target in sorted(targets):
            here, there = name.partition(".")[0], target.partition(".")[0]
            if target not in imports:
                found.append(f"{name} imports {target}, which does not exist")
            elif here != there and position[here] >= position[there]:
                found.append(f"{name} imports {target}, which is further up")
    found += [f"{' and '.join(sorted(group))} import each other" for group in cycles(imports)]
    return found


def cycles(imports: dict[str, set[str]]) -> list[set[str]]:
    """Groups of files each of which reaches all others of its group."""
    reach = {}
    for name in imports:
        seen, todo = set(), [name]
        while todo:
            for target in imports.get(todo.pop(), set()) - seen:
                seen.add(target)
                todo.append(target)
        reach[name] = seen
    groups = {frozenset(b for b in reach[a] if a in reach[b]) for a in reach if a in reach[a]}
    return [set(group) for group in groups]


def test_imports_only_go_down_the_list() -> None:
    imports = graph(ROOT)
    assert {name.partition(".")[0] for name in imports} <= set(PACKAGES)
    assert violations(imports, PACKAGES) == []


@pytest.mark.parametrize(
    ("files", "wrong"),
    [
        ({"low/a.py": "def f():\n    from ..high.b import x\n", "high/b.py": ""}, ["low.a imports high.b"]),
        ({"low/a.py": "from pkg.high import b\n", "high/b.py": ""}, ["low.a imports high.b"]),
        ({"low/a.py": "from .c import x\n", "low/c.py": "from . import a\n"}, ["low.a and low.c"]),
        ({"low/a.py": "from . import c\n", "low/c.py": "import pkg.low.d\n", "low/d.py": "from .a import x\n"}, ["low.a and"]),
        ({"high/b.py": "def f():\n    from .gone import x\n"}, ["high.b imports high.gone, which does not"]),
        ({"high/b.py": "from ..low import a\n", "low/a.py": "import os\n"}, []),
    ],
)  # fmt: skip
def test_wrong_imports_are_found(tmp_path: Path, files: dict[str, str], wrong: list[str]) -> None:
    root = tmp_path / "pkg"
    for name, text in {"high/__init__.py": "", "low/__init__.py": "", **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    found = violations(graph(root), ("high", "low"))
    assert len(found) == len(wrong)
    assert all(text.startswith(start) for text, start in zip(found, wrong, strict=True))
