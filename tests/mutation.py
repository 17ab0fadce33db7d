"""Mutation testing of the gradients: which changes of a backward would the operator table's checks notice?

Every ``backward`` in ``minidl/ops`` (and what belongs to it), the walk's ``_fit`` and the gradient kernels of the
reference back end are changed in one place at a time: operators exchanged, terms and signs dropped, constants off by
one, comparisons shifted, branches negated, sums turned into assignments, values cut off from their graph. For each
mutant the checks of the entries that call the function are run, until one fails ("killed") or all pass ("survived").

    python tests/mutation.py [PATTERN ...] [--jobs 1] [--limit 20] [--seconds 600] [--list]

Slow, hence not a part of the test suite. A mutant that takes longer than ``--limit`` seconds counts as killed.
"""

from __future__ import annotations

import argparse
import ast
import copy
import importlib
import multiprocessing
import pkgutil
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from minidl.autograd import Function  # noqa: E402
from minidl.testing.cases import TABLE  # noqa: E402
from minidl.testing.operators import check  # noqa: E402
from tests.planting import compiled, exchanged, find, source_of  # noqa: E402

KERNEL_WORDS = ("grad", "backward", "scatter", "gather", "fold", "_adjoint", "cumulative")
ARITHMETIC = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult}
COMPARISONS = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
}


def targets() -> list[str]:
    """``module:function`` of everything that is mutated."""
    import minidl.kernels.reference as reference
    import minidl.ops as ops

    found = ["minidl.autograd.walk:_fit"]
    for module in pkgutil.iter_modules(ops.__path__):
        loaded = importlib.import_module(f"minidl.ops.{module.name}")
        for name, value in vars(loaded).items():
            if (
                isinstance(value, type)
                and issubclass(value, Function)
                and value.__module__ == loaded.__name__
            ):
                for method in vars(value):
                    if method == "backward" or "differentiable" in method or method == "_target_distribution":
                        found.append(f"{loaded.__name__}:{name}.{method}")
                if name.endswith(("Grad", "Backward", "Adjoint", "Put", "AddRows", "ScatterAdd")):
                    found.append(f"{loaded.__name__}:{name}.forward")
    for module in pkgutil.iter_modules(reference.__path__):
        loaded = importlib.import_module(f"minidl.kernels.reference.{module.name}")
        for name, value in vars(loaded).items():
            if isinstance(value, type) and value.__module__ == loaded.__name__:
                for method, function in vars(value).items():
                    if isinstance(function, FunctionType) and any(word in method for word in KERNEL_WORDS):
                        found.append(f"{loaded.__name__}:{name}.{method}")
    return sorted(set(found))


def changes(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """(what was done, the node instead) for each way to change one node."""
    if isinstance(node, ast.BinOp):
        for old, new in ARITHMETIC.items():
            if isinstance(node.op, old):
                yield f"{old.__name__} -> {new.__name__}", ast.BinOp(node.left, new(), node.right)
        if isinstance(node.op, (ast.Add, ast.Sub, ast.Mult, ast.Div)):
            yield "right side dropped", node.left
        if isinstance(node.op, (ast.Add, ast.Mult)):
            yield "left side dropped", node.right
        if isinstance(node.op, ast.Sub):
            yield "left side dropped", ast.UnaryOp(ast.USub(), node.right)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.Not, ast.Invert)):
        yield f"{type(node.op).__name__} dropped", node.operand
    elif isinstance(node, ast.Compare) and len(node.ops) == 1:
        for old, new in COMPARISONS.items():
            if isinstance(node.ops[0], old):
                yield f"{old.__name__} -> {new.__name__}", ast.Compare(node.left, [new()], node.comparators)
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield f"{node.value} -> {not node.value}", ast.Constant(not node.value)
    elif isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
        yield f"{node.value} -> {node.value + 1}", ast.Constant(node.value + 1)
        yield f"{node.value} -> {node.value - 1}", ast.Constant(node.value - 1)
    elif isinstance(node, ast.AugAssign):
        load = copy.deepcopy(node.target)
        for part in ast.walk(load):
            if hasattr(part, "ctx") and part is load:
                part.ctx = ast.Load()
        yield "accumulation -> assignment", ast.Assign([node.target], node.value)
        yield "accumulation dropped", ast.Pass()
    elif isinstance(node, ast.IfExp):
        yield "condition negated", ast.IfExp(ast.UnaryOp(ast.Not(), node.test), node.body, node.orelse)
    elif isinstance(node, ast.If):
        yield "condition negated", ast.If(ast.UnaryOp(ast.Not(), node.test), node.body, node.orelse)
    elif isinstance(node, ast.BoolOp):
        yield "condition dropped", node.values[0]
        yield "condition dropped", node.values[-1]
    elif isinstance(node, ast.Call):
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if name == "saved_output":
            yield "cut off from the graph", ast.Call(ast.Attribute(node, "detach", ast.Load()), [], [])
        if name == "where" and len(node.args) == 3:
            yield "branches exchanged", ast.Call(node.func, [node.args[0], node.args[2], node.args[1]], [])
        if name == "at" and len(node.args) == 3:  # np.add.at
            cell = ast.Subscript(node.args[0], node.args[1], ast.Load())
            yield (
                "accumulation -> assignment",
                ast.Call(
                    ast.Attribute(node.args[0], "__setitem__", ast.Load()), [cell.slice, node.args[2]], []
                ),
            )
    elif isinstance(node, ast.Return) and isinstance(node.value, ast.Name):
        twice = ast.BinOp(node.value, ast.Mult(), ast.Constant(2))
        yield "result doubled", ast.Return(twice)


class _Replace(ast.NodeTransformer):
    def __init__(self, number: int, new: ast.AST) -> None:
        self.number, self.new, self.seen = number, new, -1

    def visit(self, node: ast.AST) -> Any:
        self.seen += 1
        return self.new if self.seen == self.number else super().generic_visit(node)


def _numbered(tree: ast.AST) -> list[ast.AST]:
    """Nodes in the order in which ``_Replace`` visits them."""
    out: list[ast.AST] = []

    class Collect(ast.NodeTransformer):
        def visit(self, node: ast.AST) -> Any:
            out.append(node)
            return super().generic_visit(node)

    Collect().visit(copy.deepcopy(tree))
    return out


def _raising(tree: ast.FunctionDef) -> set[int]:
    """Ids of the nodes that only messages, annotations and docstrings consist of."""
    dull: set[int] = set()
    for node in ast.walk(tree):
        parts: list[ast.AST | None] = []
        if isinstance(node, (ast.Raise, ast.Assert)):
            parts = [node]
        if isinstance(node, ast.Call) and getattr(node.func, "id", "").startswith("expect"):
            parts = [node]
        if isinstance(node, ast.FunctionDef):
            parts = [node.args, node.returns]
        if isinstance(node, ast.AnnAssign):
            parts = [node.annotation]
        for part in parts:
            if part is not None:
                dull |= {id(child) for child in ast.walk(part)}
    return dull


def mutants(path: str) -> list[tuple[str, ast.FunctionDef]]:
    """(description, changed tree) of every mutant of one function."""
    tree = source_of(find(path))
    out = []
    original = _numbered(tree)
    dull = _raising_numbers(tree)
    for number, node in enumerate(original):
        if number in dull:
            continue
        for what, new in changes(node):
            changed = _Replace(number, copy.deepcopy(new)).visit(copy.deepcopy(tree))
            line = getattr(node, "lineno", 0)
            text = ast.unparse(node).split("\n")[0][:70]
            out.append((f"line {line}: {what}: {text}", changed))
    return out


def _raising_numbers(tree: ast.FunctionDef) -> set[int]:
    clone = copy.deepcopy(tree)
    dull = _raising(clone)
    numbers: set[int] = set()
    count = -1

    class Mark(ast.NodeTransformer):
        def visit(self, node: ast.AST) -> Any:
            nonlocal count
            count += 1
            if id(node) in dull:
                numbers.add(count)
            return super().generic_visit(node)

    Mark().visit(clone)
    return numbers


def stored() -> dict[str, np.ndarray]:
    results: dict[str, np.ndarray] = {}
    for path in (ROOT / "tests" / "fixtures").glob("operators_*.npz"):
        with np.load(path) as arrays:
            results |= dict(arrays)
    return results


def coverage(paths: list[str], results: dict[str, np.ndarray]) -> dict[str, list[str]]:
    """Names of the entries that call each function, quickest first."""
    codes: dict[CodeType, str] = {find(path).__code__: path for path in paths}
    out: dict[str, list[tuple[float, str]]] = {path: [] for path in paths}
    for entry in TABLE:
        called: set[str] = set()

        def note(frame: Any, event: str, _: Any, called: set[str] = called) -> None:
            if event == "call" and frame.f_code in codes:
                called.add(codes[frame.f_code])

        start = time.perf_counter()
        sys.setprofile(note)
        try:
            failed = check(entry, "reference", results)
        finally:
            sys.setprofile(None)
        assert not failed, f"{entry.name} fails without a mutation: {failed}"
        for path in called:
            out[path].append((time.perf_counter() - start, entry.name))
    return {path: [name for _, name in sorted(found)] for path, found in out.items()}


def survives(path: str, number: int, names: list[str], results: dict[str, np.ndarray]) -> bool:
    """Whether every check of every named entry passes with one mutant."""
    entries = {entry.name: entry for entry in TABLE}
    function = find(path)
    _, tree = mutants(path)[number]
    try:
        code = compiled(function, tree)
    except (AssertionError, SyntaxError, ValueError):
        return False  # no program any more
    backends = ("reference",) if ".kernels." in path else ("reference", "cpu")
    with exchanged(function, code):
        for backend in backends:
            for name in names:
                if check(entries[name], backend, results, stop=True):
                    return False
    return True


def work(pipe: Connection) -> None:
    """A worker: answers (path, number, names) with whether the mutant survived."""
    import warnings

    warnings.simplefilter("ignore")
    results = stored()
    while True:
        job = pipe.recv()
        if job is None:
            return
        pipe.send(survives(*job, results))


class Worker:
    """A process that can be thrown away when a mutant does not end."""

    def __init__(self) -> None:
        self.job: tuple[str, int] | None = None
        self.since = 0.0
        self.start()

    def start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, other = context.Pipe()
        self.process = context.Process(target=work, args=(other,), daemon=True)
        self.process.start()

    def give(self, path: str, number: int, names: list[str]) -> None:
        self.job, self.since = (path, number), time.monotonic()
        self.pipe.send((path, number, names))

    def answer(self, limit: float) -> bool | None:
        """Survived or not; None while it works. A worker that died or takes too long is replaced."""
        try:
            if self.pipe.poll(0.01):
                return bool(self.pipe.recv())
        except (EOFError, OSError):
            self.start()
            return False
        if time.monotonic() - self.since > limit:
            self.process.kill()
            self.start()
            return False
        return None


def main() -> None:
    """Run, and print the score and the survivors."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("patterns", nargs="*", help="only functions whose module:name contains one of these")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--limit", type=float, default=20.0, help="seconds for one mutant")
    parser.add_argument(
        "--seconds", type=float, default=1e9, help="stop after this time; mutants come shuffled"
    )
    parser.add_argument("--list", action="store_true", help="only list the mutants")
    options = parser.parse_args()
    paths = [p for p in targets() if not options.patterns or any(q in p for q in options.patterns)]
    jobs = [(path, n) for path in paths for n in range(len(mutants(path)))]
    if options.list:
        for path, n in jobs:
            print(f"{path} {mutants(path)[n][0]}")
        return
    covering = coverage(paths, stored())
    uncovered = [path for path in paths if not covering[path]]
    jobs = [(path, n) for path, n in jobs if covering[path]]
    random.Random(0).shuffle(jobs)
    print(
        f"{len(paths)} functions, {len(jobs)} mutants; no entry calls: {', '.join(uncovered) or 'none left'}"
    )
    start, total, survivors = time.monotonic(), 0, []
    by_file: Counter[str] = Counter()
    workers = [Worker() for _ in range(options.jobs)]
    while jobs or any(w.job for w in workers):
        for worker in workers:
            if worker.job is not None:
                survived = worker.answer(options.limit)
                if survived is None:
                    continue
                path, n = worker.job
                worker.job = None
                total += 1
                by_file[path.split(":")[0]] += 1
                if survived:
                    survivors.append((path, mutants(path)[n][0]))
            if jobs and time.monotonic() - start < options.seconds:
                path, n = jobs.pop()
                worker.give(path, n, covering[path])
            elif jobs:
                print(f"stopped after {options.seconds:.0f} s: {len(jobs)} mutants were not run")
                jobs = []
    for worker in workers:
        worker.pipe.send(None)
        worker.process.join(5)
    for path, text in sorted(survivors):
        print(f"survived  {path}  {text}")
    killed = total - len(survivors)
    print(f"{killed} of {total} mutants killed ({100 * killed / max(total, 1):.1f} %), "
          f"{time.monotonic() - start:.0f} s")  # fmt: skip


if __name__ == "__main__":
    main()
