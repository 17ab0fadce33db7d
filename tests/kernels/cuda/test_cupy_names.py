"""What the module that stands for CuPy has, CuPy has: where CuPy is installed, with or without a card."""

from __future__ import annotations

import inspect
from types import SimpleNamespace
from typing import Any

import pytest

from tests.kernels.cuda import fake_cupy

OWN = {"ndarray", "cuda.Event.stream", "cuda.Event.position", "cuda.MemoryPool.used", "cuda.Stream.start"}
OWN |= {f"cuda.Stream.{name}" for name in ("run_to", "null", "numbers")} | {"cuda.MemoryPool.limit"}
"""What the fake has for itself."""
NEEDED = {"Stream": {"non_blocking"}, "Event": {"disable_timing"}}
"""Arguments that cupy_device.py gives by name."""


def names(value: Any, where: str) -> list[str]:
    """The public names of the fake, as paths from ``cupy``."""
    found = []
    for name, member in vars(value).items():
        path = f"{where}{name}"
        if name.startswith("_") or path in OWN:
            continue
        found.append(path)
        if isinstance(member, SimpleNamespace) or (
            inspect.isclass(member) and member.__module__ == fake_cupy.__name__
        ):
            found += names(member, f"{path}.")
    return found


def test_every_name_of_the_fake_is_one_of_cupys() -> None:
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed")
    if cupy.ndarray is fake_cupy.ndarray:
        pytest.skip("the fake stands for CuPy in this run")
    paths = names(fake_cupy.module(), "")
    assert {"cuda.function.Module", "cuda.Stream.begin_capture", "get_default_memory_pool"} <= set(paths)
    absent = []
    for path in paths:
        found: Any = cupy
        for name in path.split("."):
            found = getattr(found, name, None)
        if found is None:
            absent.append(path)
    assert not absent
    for kind, arguments in NEEDED.items():
        text = str(getattr(cupy.cuda, kind).__init__.__doc__)
        assert all(name in text for name in arguments), text
