"""Arrays put into larger ones on the CPU, beside the reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from minidl.kernels.cpu import CPUBackend
from minidl.kernels.reference import ReferenceBackend
from tests.kernels.threads import assert_same_for_any_split

CPU, REFERENCE = CPUBackend(), ReferenceBackend()

CASES: dict[str, tuple[Any, ...]] = {
    "channels around": ((8, 12, 20, 16), (8, 12, 20, 32), np.s_[:, :, :, 8:24]),
    "every other pixel": ((8, 12, 10, 24), (8, 24, 19, 24), np.s_[:, ::2, ::2, :]),
    "a border": ((3, 17, 19, 20), (4, 20, 21, 20), np.s_[1:, 2:-1, 1:20, :]),
    "steps that end early": ((5, 7, 9, 64), (11, 22, 19, 70), np.s_[1:10:2, 1:20:3, 1::2, 3:67]),
    "backwards": ((4, 16, 16, 20), (4, 16, 16, 20), np.s_[:, ::-1, :, :]),
    "steps along the innermost axis": ((4, 16, 16, 20), (4, 16, 16, 40), np.s_[:, :, :, ::2]),
    "small": ((2, 3, 4, 5), (2, 3, 8, 5), np.s_[:, :, ::2, :]),
    "three axes": ((40, 40, 20), (40, 80, 20), np.s_[:, ::2, :]),
}


@pytest.mark.parametrize("layout", ["dense", "channels first", "gaps"])
@pytest.mark.parametrize("case", CASES)
def test_place_equals_the_reference(case: str, layout: str) -> None:
    inner, shape, index = CASES[case]
    for dtype, value in ((np.float32, 0), (np.float64, 1.5), (np.int32, -3)):
        x = np.random.default_rng(0).normal(size=(inner[0], 2 * inner[1], *inner[2:])).astype(dtype)
        x = x[:, ::2] if layout == "gaps" else np.ascontiguousarray(x[:, ::2])
        where, into = index, shape
        if layout == "channels first":
            x = np.moveaxis(x, -1, 1)
            where = (index[0], index[-1], *index[1:-1])
            into = (shape[0], shape[-1], *shape[1:-1])
        expected = np.full(into, value, dtype)
        expected[where] = x
        for backend in (CPU, REFERENCE):
            y = backend.place(x, into, where, value)
            np.testing.assert_array_equal(y, expected)
            assert y.dtype == dtype
            order = (0, 2, 3, 1)[: y.ndim] if layout == "channels first" and y.ndim == 4 else None
            assert order is None or y.transpose(order).flags.c_contiguous, "the layout of x is kept"


def test_the_split_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    inner, shape, index = CASES["every other pixel"]
    x = np.random.default_rng(0).normal(size=inner).astype(np.float32)
    assert_same_for_any_split(monkeypatch, lambda: CPU.place(x, shape, index))
