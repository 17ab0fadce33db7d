"""Run kernels with different numbers of shares, without compiling their parallel versions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from minidl import kernels
from minidl.kernels.cpu import runtime
from minidl.kernels.cpu.program import Programs


@contextmanager
def shares(monkeypatch: pytest.MonkeyPatch, count: int) -> Iterator[None]:
    """Split every kernel into `count` shares, however little its work, and run them one after the other."""
    with monkeypatch.context() as patch:
        patch.setattr(kernels, "_num_threads", count)
        patch.setattr(runtime, "parts_for", lambda work: count)
        patch.setattr(runtime, "run_parallel", lambda function, arguments, parts: False)
        patch.setattr(
            Programs, "run", lambda self, key, operation, inputs, *options: operation(*inputs, *options)
        )
        yield


def assert_same_for_any_split(monkeypatch: pytest.MonkeyPatch, run: Callable[[], Any]) -> None:
    """The arrays that `run` returns have the same bits for 1, 2, 3 and 7 shares."""
    results = []
    for count in (1, 2, 3, 7):
        with shares(monkeypatch, count):
            result = run()
        results.append(
            [a.copy() for a in (result if isinstance(result, tuple) else (result,)) if a is not None]
        )
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(a.view(np.uint8), b.view(np.uint8))
