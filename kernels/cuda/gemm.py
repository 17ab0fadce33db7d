"""Matrix products, launched: ``linear``, ``matmul`` and batches of them."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl.kernels.cuda import tiling, tuning
from minidl.kernels.cuda.device import Device, blocks
from minidl.kernels.cuda.launch import copy_width, element, expect_int32, operand, struct
from minidl.kernels.cuda.tiling import Tiling
from minidl.kernels.reference import ReferenceBackend
from minidl.kernels.reference.checks import Array, expect, expect_ndim, expect_shape

PRODUCT = np.dtype(
    [(name, "i4") for name in ("m", "n", "k", "split", "relu", "wide")]
    + [(name, "i8") for name in ("a_batch", "b_batch", "y_batch", "y_split")],
    align=True,
)


def _stored(device: Device, matrices: Array) -> tuple[Array, bool]:
    """(batch, rows, columns) as it lies in memory, and whether that is by rows; else it is (batch, columns, rows)."""
    turned = matrices.transpose(0, 2, 1)
    if turned.flags.c_contiguous and not matrices.flags.c_contiguous:
        return operand(device, turned), False
    return operand(device, matrices), True


def product(device: Device, a: Array, b: Array, bias: Array | None = None) -> Array:
    """y (B, M, N) = a (B, M, K) times b (B, K, N), plus bias (N,). Either operand may lie transposed in memory.

    Where there are few results and K is long, K is split and the parts are added in a fixed order.
    """
    batch, m, k = a.shape
    n = b.shape[2]
    y = device.empty((batch, m, n), a.dtype)
    if not y.size:
        return y
    expect_int32("matmul", m=m, n=n, k=k)
    expect(batch < 1 << 16, "matmul", f"expects fewer than {1 << 16} products at once, got {batch}")
    a_stored, a_along = _stored(device, a)
    b_stored, b_rows = _stored(device, b)
    name = element(a)
    assert name is not None
    arithmetic = tiling.arithmetic(device, name)
    width = copy_width(a, a_stored.shape[2], b_stored.shape[2])
    table = tiling.candidates(device, arithmetic, a.dtype.itemsize, width, across=b_rows or not a_along)
    along = f"{str(a_along).lower()}, {str(not b_rows).lower()}"
    bias = None if bias is None else operand(device, bias, a.dtype)

    def run(tile: Tiling) -> None:
        tiles = -(-m // tile.bm) * -(-n // tile.bn)
        expect_int32("matmul", tiles=tiles)
        splits, each = tiling.split(device, tile, tiles * batch, k, a.dtype.itemsize)
        out = name if splits == 1 else "float"
        target = y if splits == 1 else device.empty((splits, batch, m, n), np.float32)
        first_bias = bias if splits == 1 else None
        fields = struct(PRODUCT, m, n, k, each, 0, n % 4 == 0, m * k, k * n, m * n, batch * m * n)
        instance = f"gemm<{name}, {out}, {tile.arithmetic(arithmetic)}, {along}, {tile.arguments()}, {width}>"
        kernel = device.compile("gemm.cu", instances=[instance])[instance]
        args = (a_stored, b_stored, first_bias, target, fields)
        device.launch(kernel, (tiles, splits, batch), tile.threads, args, tile.shared_bytes)
        if splits > 1:
            add = f"add_splits<{name}>"
            kernel = device.compile("gemm.cu", instances=[add])[add]
            device.launch(kernel, blocks(y.size, 256), 256, (target, bias, y, splits, y.size, n))

    default = tiling.choose(device, table, m, n, batch, splits=True)
    run(tuning.pick(device, f"gemm {name} {arithmetic} {along} {a.shape} {n}", default, table, run))
    return y


class GemmMixin(ReferenceBackend):
    """linear and matmul."""

    device: Device

    def linear(self, x: Array, w: Array, bias: Array | None, *, kept: dict[Any, Any] | None = None) -> Array:
        """x (M, K) times w (N, K) transposed, plus bias (N,): y (M, N). Half types add up in float32; nothing is
        kept. Raises ValueError when shapes do not fit.
        """
        expect_ndim("linear", "x", x, 2)
        expect_ndim("linear", "weight", w, 2)
        expect(
            x.shape[1] == w.shape[1],
            "linear",
            f"weight expects {w.shape[1]} input features, x has {x.shape[1]}",
        )
        if bias is not None:
            expect_shape("linear", "bias", bias, (w.shape[0],))
        if element(x) is None or not x.shape[1]:
            return super().linear(x, w, bias)
        return product(self.device, x[None], w.T[None], bias)[0]

    def matmul(self, a: Array, b: Array) -> Array:
        """a (M, K) times b (K, N): (M, N), either of them transposed in memory or not. Half types add up in float32.
        Raises ValueError when shapes do not fit."""
        expect_ndim("matmul", "a", a, 2)
        expect_ndim("matmul", "b", b, 2)
        expect(a.shape[1] == b.shape[0], "matmul", f"b expects {a.shape[1]} rows, got shape {b.shape}")
        if element(a) is None or not a.shape[1]:
            return super().matmul(a, b)
        return product(self.device, a[None], b[None])[0]
