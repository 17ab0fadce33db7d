"""Batch normalisation: statistics, the affine map with its residual and ReLU, and the gradients.

Arrays are (..., C): every axis but the last is a batch axis, so the kernels see M rows of C channels.
Ioffe and Szegedy, "Batch Normalization" (2015), arXiv:1502.03167; the gradients are derived in
`batch_norm_backward`.
"""

from __future__ import annotations

from typing import Any

from minidl.kernels.reference.checks import Array, expect, expect_shape


def expect_channels(kernel: str, x: Array, **per_channel: Array | None) -> None:
    """Raise ValueError unless x has a channel axis and each named array is (C,)."""
    if x.ndim < 2:
        raise ValueError(f"{kernel}: x expects at least 2 axes (..., C), got shape {x.shape}")
    for name, array in per_channel.items():
        if array is not None:
            expect_shape(kernel, name, array, (x.shape[-1],))


class Normalisation:
    """The batch normalisation family of the reference back end."""

    xp: Any

    def batch_norm_stats(self, x: Array) -> tuple[Array, Array]:
        """Mean and biased variance of each channel of x (..., C), both (C,), by two passes in float64.

        Raises ValueError when x has no rows: an empty batch has no mean.
        """
        xp = self.xp
        expect_channels("batch_norm_stats", x)
        rows = x.reshape(-1, x.shape[-1]) if x.size else x.reshape(0, x.shape[-1])
        expect(
            rows.shape[0] > 0, "batch_norm_stats", f"x of shape {x.shape} has no values to take the mean of"
        )
        mean = rows.mean(axis=0, dtype=xp.float64)
        var = ((rows - mean) ** 2).mean(axis=0)
        return mean.astype(x.dtype), var.astype(x.dtype)

    def channel_sums(self, g: Array, y: Array | None = None) -> tuple[Array, Array]:
        """g (..., C), 0 where the output y of a ReLU is not positive, and its sums (C,) over all other axes, in
        float64.
        """
        xp = self.xp
        expect_channels("channel_sums", g)
        if y is not None:
            expect_shape("channel_sums", "y", y, g.shape)
            g = xp.where(y > 0, g, xp.zeros((), g.dtype))
        return g, g.sum(axis=tuple(range(g.ndim - 1)), dtype=xp.float64).astype(g.dtype)

    def batch_norm_affine(
        self, mean: Array, var: Array, eps: float, weight: Array | None, bias: Array | None
    ) -> tuple[Array, Array, Array]:
        """rstd = 1 / sqrt(var + eps), scale = rstd * weight and shift = bias - mean * scale, all (C,).

        They are rounded once, at the end: an error of theirs would be seen in every pixel.
        """
        wide = self.xp.float64
        rstd = 1.0 / self.xp.sqrt(var.astype(wide) + eps)
        scale = rstd if weight is None else rstd * weight
        shift = -mean.astype(wide) * scale
        if bias is not None:
            shift = shift + bias
        return rstd.astype(mean.dtype), scale.astype(mean.dtype), shift.astype(mean.dtype)

    def batch_norm_track(self, running: Array, batch: Array, momentum: float, factor: float = 1.0) -> None:
        """running += momentum * (batch * factor - running), in place; both (C,). The factor makes a biased variance
        unbiased."""
        unbiased = (batch * factor).astype(running.dtype)
        running += (momentum * (unbiased - running)).astype(running.dtype)

    def batch_norm_fit(
        self,
        x: Array,
        weight: Array | None,
        bias: Array | None,
        eps: float,
        running_mean: Array | None = None,
        running_var: Array | None = None,
        momentum: float = 0.0,
    ) -> tuple[Array, ...]:
        """What training knows of a batch x (..., C) before it is normalised, each (C,): mean and biased variance, and
        rstd, scale and shift of :meth:`batch_norm_affine`.

        The running statistics that are given move towards the batch's mean and unbiased variance by ``momentum``.
        """
        mean, var = self.batch_norm_stats(x)
        rows = x.size // x.shape[-1]
        if running_mean is not None:
            self.batch_norm_track(running_mean, mean, momentum)
        if running_var is not None:
            self.batch_norm_track(running_var, var, momentum, rows / (rows - 1))
        return mean, var, *self.batch_norm_affine(mean, var, eps, weight, bias)

    def batch_norm_apply(
        self, x: Array, scale: Array, shift: Array, residual: Array | None, relu: bool
    ) -> Array:
        """y = x * scale + shift [+ residual] [then max(y, 0)]: x and residual (..., C), scale and shift
        (C,).
        """
        xp = self.xp
        expect_channels("batch_norm_apply", x, scale=scale, shift=shift)
        y = x * scale + shift
        if residual is not None:
            expect_shape("batch_norm_apply", "residual", residual, x.shape)
            y = y + residual
        return xp.ascontiguousarray(xp.maximum(y, 0) if relu else y)

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
        """Gradients of y = [relu](xhat * weight + bias [+ residual]) with xhat = (x - mean) * rstd.

        gy, x and y are (..., C), the others (C,). y is given when the forward ended in ReLU: g is then gy
        where y > 0 and 0 elsewhere. Without a residual ``affine``, the scale and shift of the forward, may be given
        in its place: y is then x * scale + shift, and need not be read. Returns (gx or None, gweight, gbias,
        gresidual or None); sums run in float64.

            gbias = sum of g over the rows,   gweight = sum of g * xhat,   gresidual = g
            evaluation: gx = weight * rstd * g                             (mean and rstd are constants)
            training:   gx = weight * rstd * (g - gbias / M - xhat * gweight / M)
                                                 |            through rstd
                                                 through mean

        Without ReLU gresidual is gy itself, not a copy.
        """
        xp = self.xp
        kernel = "batch_norm_backward"
        expect_channels(kernel, x, mean=mean, rstd=rstd, weight=weight)
        expect_shape(kernel, "gy", gy, x.shape)
        if y is not None:
            expect_shape(kernel, "y", y, x.shape)
        elif affine is not None:
            expect_channels(kernel, x, scale=affine[0], shift=affine[1])
            y = x * affine[0] + affine[1]
        g = gy if y is None else xp.ascontiguousarray(xp.where(y > 0, gy, xp.zeros((), gy.dtype)))
        axes = tuple(range(x.ndim - 1))
        wide = xp.float64
        xhat = (x.astype(wide) - mean) * rstd.astype(wide)
        gbias = g.sum(axis=axes, dtype=wide)
        gweight = (g * xhat).sum(axis=axes)
        gx = None
        if needs_x:
            rows = max(x.size // max(x.shape[-1], 1), 1)
            centred = g - gbias / rows - xhat * (gweight / rows) if training else g
            gx = xp.ascontiguousarray((weight.astype(wide) * rstd * centred).astype(x.dtype))
        gresidual = g if needs_residual else None
        if not needs_weight:
            return gx, None, None, gresidual
        return gx, gweight.astype(x.dtype), gbias.astype(x.dtype), gresidual
