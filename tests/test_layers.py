"""The structure: imports point one way, and the wheel holds every sub-package."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# A package may import from its own layer and from the layers before it.
LAYERS = [
    {"minidl.errors", "minidl.dtypes", "minidl.dlpack"},
    {"minidl.kernels"},
    {
        "minidl.tensor",
        "minidl.methods",
        "minidl.operators",
        "minidl.conversions",
        "minidl.autograd",
        "minidl.random",
        "minidl.creation",
        "minidl.amp",
        "minidl.cuda",
        "minidl.graphs",
        "minidl.nested",
        "minidl.replays",
    },
    {"minidl.ops"},
    {"minidl.testing", "minidl.derivatives", "minidl.nn", "minidl.optim", "minidl.data", "minidl.weights"},
    {"minidl.models"},
    {"minidl.semi"},
    {"minidl.training"},
    {"minidl.adaptation"},
    {"minidl.cli", "minidl.quickstart"},
]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
FOLDERS = {"minidl.kernels": ROOT / "kernels", "minidl.models": ROOT / "models"}


def modules() -> list[tuple[str, Path]]:
    """(module name, file) of every source file of the package."""
    found = []
    for base, folder in [*FOLDERS.items(), ("minidl", ROOT / "minidl")]:
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            if base == "minidl" and parts[0] in ("kernels", "models"):
                continue  # the symbolic links
            found.append((".".join([base, *[p for p in parts if p != "__init__"]]), path))
    return found


def imports(name: str, path: Path) -> set[str]:
    """Modules that a file imports when it runs; those for type checkers only do not count."""
    tree = ast.parse(path.read_text(encoding="utf8"))
    typing_only = {
        id(child)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for child in ast.walk(node)
    }
    out: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            out |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            module = node.module or ""
            out.add(module)
            out |= {f"{module}.{a.name}" for a in node.names}
    return {m for m in out if m.split(".")[0] == "minidl"}


def package_of(module: str) -> str:
    return ".".join(module.split(".")[:2])


@pytest.mark.parametrize(("name", "path"), modules(), ids=lambda v: v if isinstance(v, str) else "")
def test_imports_point_one_way(name: str, path: Path) -> None:
    own = package_of(name)
    if own in ("minidl", "minidl.__main__"):
        return  # the front door re-exports, lazily
    assert own in RANK, f"{name} is in no layer"
    for target in imports(name, path):
        other = package_of(target)
        if other in RANK:
            assert RANK[other] <= RANK[own], f"{name} imports {target}, a layer above its own"


def test_every_package_is_listed_for_the_wheel() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf8"))["tool"]["setuptools"]
    folders = {
        ".".join([base, *path.parent.relative_to(folder).parts])
        for base, folder in [("minidl", ROOT / "minidl"), *FOLDERS.items()]
        for path in folder.rglob("__init__.py")
        if not (base == "minidl" and path.relative_to(folder).parts[0] in ("kernels", "models"))
    }
    assert set(settings["packages"]) == folders


def test_the_links_that_stand_for_an_installation_are_there() -> None:
    for name in ("kernels", "models"):
        assert (ROOT / "minidl" / name / "__init__.py").samefile(ROOT / name / "__init__.py")


def test_no_source_file_is_longer_than_500_lines() -> None:
    long = {p.name: n for _, p in modules() if (n := len(p.read_text(encoding="utf8").splitlines())) > 500}
    assert not long
