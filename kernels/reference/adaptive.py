"""Maximum over an adaptive grid: cells of nearly equal size, PyTorch's edges."""

from __future__ import annotations

from typing import Any

from minidl.kernels.reference.checks import Array, Pair, expect, expect_ndim
from minidl.kernels.reference.pool import adaptive_edges


class AdaptiveMaximum:
    """Adaptive max pooling; its gradient is the scatter of max pooling."""

    xp: Any
    max_pool2d: Any

    def adaptive_max_pool2d(self, x: Array, out_hw: Pair) -> tuple[Array, Array]:
        """Maximum of each cell of an OH x OW grid: y (N, OH, OW, C) and its index, int32, the flat place
        h*W + w.

        Among equals the first in row order wins; the first NaN beats every number. Cells overlap where the
        sizes do not divide. Raises ValueError for an empty grid or image.
        """
        xp = self.xp
        expect_ndim("adaptive_max_pool2d", "x", x, 4)
        n, h, w, c = x.shape
        expect(min(h, w, *out_hw) >= 1, "adaptive_max_pool2d", f"no cells or no pixels: {h}x{w} to {out_hw}")
        if h % out_hw[0] == 0 and w % out_hw[1] == 0:  # equal cells: ordinary pooling
            cell = (h // out_hw[0], w // out_hw[1])
            pooled: tuple[Array, Array] = self.max_pool2d(x, cell, cell, ((0, 0), (0, 0)), (1, 1), out_hw)
            return pooled
        y = xp.empty((n, *out_hw, c), x.dtype)
        index = xp.empty((n, *out_hw, c), xp.int32)
        for i, (top, bottom) in enumerate(adaptive_edges(h, out_hw[0])):
            for j, (left, right) in enumerate(adaptive_edges(w, out_hw[1])):
                cell_values = x[:, top:bottom, left:right].reshape(n, -1, c)
                best = cell_values.argmax(axis=1)
                y[:, i, j] = xp.take_along_axis(cell_values, best[:, None], axis=1)[:, 0]
                row, column = best // (right - left), best % (right - left)
                index[:, i, j] = (top + row) * w + left + column
        return y, index
