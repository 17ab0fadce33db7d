"""Step 9: threads, and the production kernel itself.

This step is no copy: it calls ``minidl.kernels.backend(x).conv2d``. Over the steps before it has

- threads: each takes a share of the chunks of output pixels (or of the panels of output channels, where
  pixels are few). No two threads write the same output, and each output is added up in the same order however
  many threads there are, so results are bit-identical for any number of them;
- the slab of step 7's last paragraph, and a reduction cut into blocks that fit the caches;
- a choice of tile, chunk and algorithm (direct or Winograd) for each shape, from a small cost model;
- tiles that run over the ends of rows, so that 7 x 7 images do not waste half of a 14-pixel tile;
- an epilogue: bias, residual and ReLU are applied while the tile is still in registers;
- any padding, dilation and groups, both gradients, float64.

Read on in `kernels/cpu/conv.py`.
"""

from __future__ import annotations

import numpy as np

from minidl.kernels import backend
from minidl.kernels.ladder.cpu.common import Array, output_size


def conv2d(x: Array, w: Array, stride: int = 1, pad: int = 0) -> Array:
    """Cross-correlation of x (N, H, W, C) with w (O, KH, KW, C): y (N, OH, OW, O)."""
    output_size(x, w, stride, pad)
    y: Array = backend(x).conv2d(
        np.ascontiguousarray(x), w, None, (stride, stride), ((pad, pad), (pad, pad)), (1, 1), 1
    )
    return y
