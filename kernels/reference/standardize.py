"""Standardisation over any axes (layer, group and instance norm), with its affine map and its gradients.

With M elements under each mean, g = gy * weight and xhat = (x - mean) * rstd:

    y  = xhat * weight + bias
    gx = rstd * (g - mean of g - xhat * mean of (g * xhat))
                          |              through rstd
                          through the mean

Ba, Kiros and Hinton, "Layer normalization" (2016), arXiv:1607.06450; Wu and He, "Group normalization" (2018),
arXiv:1803.08494; Ulyanov et al., "Instance normalization" (2016), arXiv:1607.08022. Half types are computed
in float32; means of float32 are accumulated in float64.
"""

from __future__ import annotations

import math
from typing import Any

from minidl.kernels.reference.checks import Array, expect


class Standardisation:
    """The layer, group and instance norm family of the reference back end."""

    xp: Any

    def _wide(self, x: Array) -> Array:
        """Half types as float32, the others as they are."""
        return x if x.dtype.itemsize >= 4 else x.astype(self.xp.float32)

    def standardize(
        self, x: Array, axes: tuple[int, ...], weight: Array | None, bias: Array | None, eps: float
    ) -> tuple[Array, Array, Array]:
        """(y, mean, rstd): mean and rstd have size 1 along `axes`; weight and bias broadcast against x.

        Raises ValueError when there is nothing to take a mean of.
        """
        xp = self.xp
        count = math.prod(x.shape[a] for a in axes)
        expect(count > 0 or x.size == 0, "standardize", f"no elements along axes {axes} of shape {x.shape}")
        wide = self._wide(x)
        mean = wide.mean(axes, dtype=xp.float64, keepdims=True)
        y = wide - mean.astype(wide.dtype)
        rest = y.mean(axes, dtype=xp.float64, keepdims=True)  # what rounding the mean left over
        var = (y * y).mean(axes, dtype=xp.float64, keepdims=True) - rest * rest
        rstd = (1 / xp.sqrt(xp.maximum(var, 0) + eps)).astype(wide.dtype)
        y -= rest.astype(wide.dtype)
        y *= rstd
        if weight is not None:
            y *= self._wide(weight)
        if bias is not None:
            y += self._wide(bias)
        return y.astype(x.dtype, copy=False), (mean + rest).astype(wide.dtype), rstd

    def standardize_backward(
        self,
        gy: Array,
        x: Array,
        axes: tuple[int, ...],
        mean: Array,
        rstd: Array,
        weight: Array | None,
        needs_x: bool,
        needs_weight: bool,
    ) -> tuple[Array | None, Array | None]:
        """(gx, gy * xhat): the second, summed to the weight's shape, is the weight's gradient."""
        xp = self.xp
        g, wide = self._wide(gy), self._wide(x)
        xhat = (wide - mean) * rstd
        gweight = g * xhat if needs_weight else None
        gx = None
        if needs_x:
            if weight is not None:
                g = g * self._wide(weight)
            through_mean = g.mean(axes, dtype=xp.float64, keepdims=True).astype(wide.dtype)
            through_rstd = (g * xhat).mean(axes, dtype=xp.float64, keepdims=True).astype(wide.dtype)
            xhat *= through_rstd
            gx = g - through_mean
            gx -= xhat
            gx *= rstd
            gx = gx.astype(x.dtype, copy=False)
        return gx, gweight
