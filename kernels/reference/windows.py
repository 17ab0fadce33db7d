"""Windows of an image as rows of numbers (im2col), and the adjoint that adds them back (col2im)."""

from __future__ import annotations

from typing import Any

from minidl.kernels.reference.checks import Array, Pad, Pair, conv_out_hw, expect_ndim, expect_shape
from minidl.kernels.reference.conv import tap_windows
from minidl.kernels.reference.half import in_float32


class Windows:
    """The unfold family of the reference back end."""

    xp: Any

    def unfold2d(self, x: Array, kernel: Pair, stride: Pair, pad: Pad, dilation: Pair) -> Array:
        """x (N, H, W, C) -> columns (N, KH, KW, OH, OW, C): what each tap of each window reads, zeros in the
        padding."""
        xp = self.xp
        expect_ndim("unfold2d", "x", x, 4)
        n, h, w, c = x.shape
        out_hw = conv_out_hw("unfold2d", (h, w), kernel, stride, pad, dilation)
        padded = xp.pad(x, ((0, 0), *pad, (0, 0)))
        columns = xp.empty((n, *kernel, *out_hw, c), x.dtype)
        for kh, kw, window in tap_windows(kernel, stride, dilation, out_hw):
            columns[:, kh, kw] = padded[window]
        return columns

    @in_float32
    def fold2d(self, columns: Array, input_hw: Pair, stride: Pair, pad: Pad, dilation: Pair) -> Array:
        """Adjoint of unfold2d: columns (N, KH, KW, OH, OW, C) are added where they were read:
        (N, H, W, C)."""
        xp = self.xp
        expect_ndim("fold2d", "columns", columns, 6)
        n, kh, kw, _, _, c = columns.shape
        out_hw = conv_out_hw("fold2d", input_hw, (kh, kw), stride, pad, dilation)
        expect_shape("fold2d", "columns", columns, (n, kh, kw, *out_hw, c))
        (top, bottom), (left, right) = pad
        padded = xp.zeros((n, top + input_hw[0] + bottom, left + input_hw[1] + right, c), columns.dtype)
        for i, j, window in tap_windows((kh, kw), stride, dilation, out_hw):
            padded[window] += columns[:, i, j]
        return xp.ascontiguousarray(padded[:, top : top + input_hw[0], left : left + input_hw[1]])
