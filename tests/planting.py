"""Planting a defect: one piece of a function's source is replaced, and the function runs so until the end of the
block. Every reference to the function sees the change, because its code object is exchanged, not the function."""

from __future__ import annotations

import ast
import importlib
import inspect
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import CodeType, FunctionType
from typing import Any


def find(path: str) -> FunctionType:
    """The function at ``package.module:Class.method``, without its decorators."""
    module, _, name = path.partition(":")
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = inspect.getattr_static(found, part)
    while hasattr(found, "__wrapped__"):
        found = found.__wrapped__
    if isinstance(found, (staticmethod, classmethod)):
        found = found.__func__
    if isinstance(found, property):
        found = found.fget
    assert isinstance(found, FunctionType), f"{path} is no Python function"
    return found


def source_of(function: FunctionType) -> ast.FunctionDef:
    """The function's syntax tree, without decorators."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
    assert isinstance(tree, ast.FunctionDef)
    tree.decorator_list = []
    return tree


def compiled(function: FunctionType, tree: ast.FunctionDef) -> CodeType:
    """The code of a changed tree, with the variables that the function closes over."""
    closed = function.__code__.co_freevars
    flags = function.__code__.co_flags & 0x1000000  # from __future__ import annotations
    scope: dict[str, Any] = dict(function.__globals__)
    filename = function.__code__.co_filename
    if not closed:
        exec(compile(ast.fix_missing_locations(ast.Module([tree], [])), filename, "exec", flags=flags), scope)
        return scope[tree.name].__code__  # type: ignore[no-any-return]
    names = [ast.arg(name) for name in closed]
    outer = ast.FunctionDef(
        name="_outer",
        args=ast.arguments(posonlyargs=[], args=names, kwonlyargs=[], kw_defaults=[], defaults=[]),
        body=[tree, ast.Return(ast.Name(tree.name, ast.Load()))],
        decorator_list=[],
        type_params=[],
    )
    module = ast.fix_missing_locations(ast.Module([outer], []))
    exec(compile(module, filename, "exec", flags=flags), scope)
    code: CodeType = scope["_outer"](*[None] * len(closed)).__code__
    assert code.co_freevars == closed, f"{function.__qualname__} closes over {code.co_freevars}, not {closed}"
    return code


@contextmanager
def exchanged(function: FunctionType, code: CodeType) -> Iterator[None]:
    """The function with other code inside the block."""
    kept = function.__code__
    function.__code__ = code
    try:
        yield
    finally:
        function.__code__ = kept


@contextmanager
def planted(path: str, old: str, new: str) -> Iterator[None]:
    """The function at ``path`` with ``old`` replaced by ``new`` in its source, inside the block.

    Raises:
        AssertionError: ``old`` is not in the source exactly once: the defect has to be written anew.
    """
    function = find(path)
    text = textwrap.dedent(inspect.getsource(function))
    count = text.count(old)
    assert count == 1, f"{path} has {old!r} {count} times; the planted defect must follow the source"
    tree = ast.parse(text.replace(old, new)).body[0]
    assert isinstance(tree, ast.FunctionDef)
    tree.decorator_list = []
    with exchanged(function, compiled(function, tree)):
        yield


def outcome(check: Callable[[], Any]) -> str | None:
    """What a check that failed said; None when it passed. Anything that a defect makes it raise is a failure."""
    try:
        check()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None
