"""No kernel writes outside the buffers it asked for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from minidl import kernels
from minidl.kernels.cpu import memory

FENCE = 2048
MARK = 0xAB

CONVOLUTIONS = [  # x (N, H, W, C), w (O, KH, KW, C / groups), stride, padding, groups
    ((2, 6, 5, 4), (5, 1, 1, 4), 1, 0, 1),
    ((1, 3, 3, 2), (3, 1, 1, 2), 1, 0, 1),
    ((2, 6, 5, 4), (3, 3, 3, 4), 1, 1, 1),
    ((1, 9, 8, 3), (8, 7, 7, 3), 2, 3, 1),
    ((2, 6, 5, 4), (6, 3, 3, 2), 2, 1, 2),
    ((1, 4, 4, 16), (33, 1, 1, 16), 1, 0, 1),
    ((1, 4, 4, 16), (33, 1, 1, 16), 2, 0, 1),
]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("x", "w", "stride", "padding", "groups"), CONVOLUTIONS)
def test_convolutions_write_inside_their_buffers(
    monkeypatch: pytest.MonkeyPatch,
    x: tuple[int, ...],
    w: tuple[int, ...],
    stride: int,
    padding: int,
    groups: int,
    dtype: Any,
) -> None:
    handed_out: list[tuple[np.ndarray, int]] = []

    def fenced(shape: Any, kind: Any) -> np.ndarray:
        dims = (shape,) if isinstance(shape, int) else tuple(shape)
        nbytes = int(np.prod(dims)) * np.dtype(kind).itemsize
        raw = np.full(nbytes + 2 * FENCE, MARK, np.uint8)
        handed_out.append((raw, nbytes))
        return raw[FENCE : FENCE + nbytes].view(kind).reshape(dims)

    monkeypatch.setattr(memory, "empty", fenced)
    rng = np.random.default_rng(0)
    images, weights = rng.standard_normal(x).astype(dtype), rng.standard_normal(w).astype(dtype)
    place = ((stride, stride), ((padding, padding), (padding, padding)), (1, 1), groups)
    be = kernels.backend(images)
    y = be.conv2d(images, weights, None, *place)
    gy = rng.standard_normal(y.shape).astype(dtype)
    be.conv2d_input_grad(gy, weights, x[1:3], *place)
    be.conv2d_weight_grad(gy, images, w[1:3], *place)
    assert handed_out
    for raw, nbytes in handed_out:
        assert (raw[:FENCE] == MARK).all() and (raw[FENCE + nbytes :] == MARK).all()
