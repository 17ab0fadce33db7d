"""Step 6: the register tile.

One change: the tile grows from 1 x 2 vectors to as many as the register file holds. With the 32 registers of
AVX-512 that is 14 rows x 2 vectors: 28 sums, 2 registers for the row of b, and one for the broadcast of a
(with the 16 registers of AVX2: 6 x 2).

                       b[k, 0:16]     b[k, 16:32]        2 loads
    a[0, k]  (all lanes)  acc 0,0        acc 0,1
    a[1, k]               acc 1,0        acc 1,1         28 multiply-adds for 2 + 14 loads; 28 sums that do not
      ...                   ...            ...           wait for each other, while 2 units x 4 cycles need 8
    a[13, k]              acc 13,0       acc 13,1

Per multiply-add there is 0.57 of a load where step 5 needed 1.5: the loads fit beside the arithmetic. This
loop runs at the limit of the multiply-add units; what the whole convolution loses against it is spent in
im2col and packing.
"""

from __future__ import annotations

from minidl.kernels.cpu import simd
from minidl.kernels.cpu.plan import tile_shapes
from minidl.kernels.ladder.cpu.common import Array
from minidl.kernels.ladder.cpu.step5_vectors import conv2d_with, product_with

_shape = tile_shapes()[0]  # 14 x 2, or what this machine's registers hold
_tile = simd.tile("float32", _shape.rows, _shape.vectors)
_matmul = product_with(_tile)


def conv2d(x: Array, w: Array, stride: int = 1, pad: int = 0) -> Array:
    """Cross-correlation of x (N, H, W, C) with w (O, KH, KW, C): y (N, OH, OW, O)."""
    return conv2d_with(_tile, _matmul, x, w, stride, pad)
