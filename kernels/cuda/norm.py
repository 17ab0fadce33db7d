"""Batch normalisation, launched: two-stage sums over slabs of rows, and the maps between them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from minidl.kernels.cuda.device import Device, blocks
from minidl.kernels.cuda.launch import element, expect_int32, operand, struct
from minidl.kernels.reference import ReferenceBackend
from minidl.kernels.reference.checks import Array, expect, expect_shape
from minidl.kernels.reference.norm import expect_channels

SLAB = np.dtype([(name, "i4") for name in ("rows", "channels", "across", "height")])
MIN_ROWS = 8
"""A thread sums at least so many rows before the slabs are added."""


@dataclass(frozen=True)
class Grid:
    """How (rows, channels) is cut: ``vec`` channels a thread, ``across`` threads along the channels, ``slabs`` slabs of
    ``height`` rows."""

    rows: int
    channels: int
    vec: int
    across: int
    height: int

    @property
    def slabs(self) -> int:
        return -(-self.rows // self.height)

    @property
    def blocks(self) -> tuple[int, int]:
        return blocks(self.channels, self.vec * self.across), self.slabs

    def struct(self) -> np.ndarray:
        return struct(SLAB, self.rows, self.channels, self.across, self.height)


def grid(device: Device, rows: int, channels: int) -> Grid:
    """The cut for (rows, channels): enough blocks for every multiprocessor, each with rows enough to be worth it."""
    expect_int32("batch_norm", rows=rows, channels=channels)
    vec = 4 if channels % 4 == 0 else 1
    across = 1
    while across < 32 and across * vec < channels:
        across *= 2
    down = 256 // across
    wanted = max(8 * device.multiprocessors // blocks(channels, vec * across), 1)
    height = max(-(-rows // wanted), down * MIN_ROWS)
    height = max(-(-height // down) * down, -(-rows // 65535))
    return Grid(rows, channels, vec, across, height)


def merge_moments(
    device: Device, partial: Array, rows: int, channels: int, height: int
) -> tuple[Array, Array]:
    """Mean and biased variance (C,) of all rows from the moments (slabs, 2, C) of slabs of ``height`` rows."""
    mean, var = device.empty(channels, np.float32), device.empty(channels, np.float32)
    kernel = device.compile("norm.cu", instances=["bn_merge<float>"])["bn_merge<float>"]
    slab = struct(SLAB, rows, channels, 1, height)
    device.launch(kernel, blocks(channels, 128), 128, (partial, mean, var, len(partial), slab))
    return mean, var


class NormMixin(ReferenceBackend):
    """batch_norm_stats, batch_norm_apply and batch_norm_backward. Statistics of half types are float32."""

    device: Device

    def _float(self, array: Array) -> Array:
        """A per-channel array as the kernels read it."""
        return operand(self.device, array.astype(np.float32, copy=False))

    def _run(self, name: str, cut: Grid, x: Array, args: tuple[object, ...]) -> None:
        instance = f"{name}<{element(x)}, {cut.vec}>"
        kernel = self.device.compile("norm.cu", instances=[instance])[instance]
        self.device.launch(kernel, cut.blocks, 256, args)

    def batch_norm_stats(self, x: Array) -> tuple[Array, Array]:
        """Mean and biased variance of each channel of x (..., C), both (C,): of slabs of rows, each from deviations
        from a value of its own, then merged (Chan, Golub and LeVeque).

        Raises ValueError when x has no rows: an empty batch has no mean.
        """
        expect_channels("batch_norm_stats", x)
        channels = x.shape[-1]
        if element(x) is None or not channels:
            return super().batch_norm_stats(x)
        expect(x.size > 0, "batch_norm_stats", f"x of shape {x.shape} has no values to take the mean of")
        device = self.device
        x = operand(device, x)
        cut = grid(device, x.size // channels, channels)
        partial = device.empty((cut.slabs, 2, channels), np.float32)
        self._run("bn_moments", cut, x, (x, partial, cut.struct()))
        return merge_moments(device, partial, cut.rows, channels, cut.height)

    def batch_norm_apply(
        self, x: Array, scale: Array, shift: Array, residual: Array | None, relu: bool
    ) -> Array:
        """y = x * scale + shift [+ residual] [then max(y, 0)]: x and residual (..., C), scale and shift
        (C,).
        """
        expect_channels("batch_norm_apply", x, scale=scale, shift=shift)
        if residual is not None:
            expect_shape("batch_norm_apply", "residual", residual, x.shape)
        if element(x) is None:
            return super().batch_norm_apply(x, scale, shift, residual, relu)
        device = self.device
        y = device.empty(x.shape, x.dtype)
        if y.size:
            cut = grid(device, x.size // x.shape[-1], x.shape[-1])
            rest = None if residual is None else operand(device, residual)
            x, scale, shift = operand(device, x), self._float(scale), self._float(shift)
            self._run("bn_apply", cut, x, (x, scale, shift, rest, y, cut.struct(), int(relu)))
        return y

    def _sums(
        self,
        cut: Grid,
        gy: Array,
        x: Array | None = None,
        y: Array | None = None,
        mean: Array | None = None,
        rstd: Array | None = None,
        scale: Array | None = None,
        shift: Array | None = None,
    ) -> Array:
        """(2, C): the sums of g, what passes of gy (see the reference), and of g * xhat (0 without x)."""
        device, channels = self.device, cut.channels
        partial = device.empty((cut.slabs, 2, channels), np.float32)
        self._run("bn_sums", cut, gy, (gy, x, y, mean, rstd, scale, shift, partial, cut.struct()))
        total = device.empty((2, channels), np.float32)
        add = device.compile("norm.cu", instances=["bn_add<float>"])["bn_add<float>"]
        device.launch(add, blocks(2 * channels, 128), 128, (partial, total, cut.slabs, 2 * channels))
        return total

    def channel_sums(self, g: Array, y: Array | None = None) -> tuple[Array, Array]:
        """g (..., C), 0 where the output y of a ReLU is not positive, and its sums (C,) over all other axes."""
        expect_channels("channel_sums", g)
        if element(g) is None or not g.size:
            return super().channel_sums(g, y)
        if y is not None:
            expect_shape("channel_sums", "y", y, g.shape)
            g = self.relu_backward(g, y)
        flat = operand(self.device, g)
        total = self._sums(grid(self.device, g.size // g.shape[-1], g.shape[-1]), flat)
        return g, total[0].astype(g.dtype, copy=False)

    def batch_norm_backward(
        self,
        gy: Array,
        x: Array,
        mean: Array,
        rstd: Array,
        weight: Array,
        y: Array | None,
        training: bool,
        needs_x: bool = True,
        needs_residual: bool = True,
        needs_weight: bool = True,
        affine: tuple[Array, Array] | None = None,
    ) -> tuple[Array | None, Array | None, Array | None, Array | None]:
        """Gradients of y = [relu](xhat * weight + bias [+ residual]): (gx, gweight, gbias, gresidual), see the
        reference.

        One pass for the two sums, one for what is made of them; the weights' gradients have the weight's dtype.
        """
        kernel = "batch_norm_backward"
        expect_channels(kernel, x, mean=mean, rstd=rstd, weight=weight)
        expect_shape(kernel, "gy", gy, x.shape)
        if y is not None:
            expect_shape(kernel, "y", y, x.shape)
        scale, shift = (None, None) if affine is None or y is not None else affine
        expect_channels(kernel, x, scale=scale, shift=shift)
        if element(x) is None or not x.size:
            needs = (needs_x, needs_residual, needs_weight)
            return super().batch_norm_backward(gy, x, mean, rstd, weight, y, training, *needs, affine)
        device, channels = self.device, x.shape[-1]
        given = gy
        gy, x = operand(device, gy), operand(device, x)
        y = None if y is None else operand(device, y)
        out_dtype = weight.dtype
        mean, rstd, weight = self._float(mean), self._float(rstd), self._float(weight)
        scale, shift = (None if a is None else self._float(a) for a in (scale, shift))
        cut = grid(device, x.size // channels, channels)
        total = None
        if needs_weight or (needs_x and training):
            total = self._sums(cut, gy, x, y, mean, rstd, scale, shift)
        gx = device.empty(x.shape, x.dtype) if needs_x else None
        masked = needs_residual and (y is not None or scale is not None)
        gresidual = device.empty(x.shape, x.dtype) if masked else given if needs_residual else None
        if needs_x or masked:
            sums = total if training else None
            out = gresidual if masked else None
            args = (gy, x, y, mean, rstd, weight, scale, shift, sums, gx, out, cut.struct())
            self._run("bn_gradient", cut, x, args)
        if not needs_weight:
            return gx, None, None, gresidual
        assert total is not None
        gbias, gweight = (total[i].astype(out_dtype, copy=False) for i in (0, 1))
        return gx, gweight, gbias, gresidual
