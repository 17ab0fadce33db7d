"""Optimizer steps: every array is read and written once, in place.

Large parameters are split over threads; each element is computed on its own, so the split changes nothing.
Scalars are rounded to the parameter's type first, as PyTorch does.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minidl.kernels.cpu.layout import dense, supported
from minidl.kernels.cpu.runtime import kernel, launch, share
from minidl.kernels.reference.checks import Array, expect
from minidl.kernels.reference.optim import Optimizers, expect_like


@kernel
def _sgd(
    param: Any,
    grad: Any,
    buffer: Any,
    lr: Any,
    momentum: Any,
    keep: Any,
    decay: Any,
    heavy: Any,
    nesterov: Any,
    part: Any,
    parts: Any,
) -> None:
    """keep = 1 - dampening; heavy: there is a momentum buffer."""
    first, last = share(param.size, part, parts)
    # Slices counted from 0: LLVM then knows that no index is negative, which vectors need.
    p, g, m = param[first:last], grad[first:last], buffer[first:last]
    for i in range(last - first):
        d = g[i] + decay * p[i]
        if heavy:
            m[i] = momentum * m[i] + keep * d
            d = d + momentum * m[i] if nesterov else m[i]
        p[i] -= lr * d


@kernel
def _adam(
    param: Any,
    grad: Any,
    first_moment: Any,
    second_moment: Any,
    rate: Any,
    shrink: Any,
    decay: Any,
    keep1: Any,
    beta2: Any,
    keep2: Any,
    root: Any,
    eps: Any,
    part: Any,
    parts: Any,
) -> None:
    """rate = lr / (1 - beta1^step), root = sqrt(1 - beta2^step), shrink = 1 - lr * decay for AdamW, else
    1.
    """
    first, last = share(param.size, part, parts)
    p, g = param[first:last], grad[first:last]
    m, v = first_moment[first:last], second_moment[first:last]
    for i in range(last - first):
        w = shrink * p[i]
        d = g[i] + decay * w
        m[i] += keep1 * (d - m[i])
        v[i] = beta2 * v[i] + keep2 * (d * d)
        p[i] = w - rate * (m[i] / (np.sqrt(v[i]) / root + eps))


@kernel
def _rmsprop(
    param: Any,
    grad: Any,
    square_avg: Any,
    buffer: Any,
    lr: Any,
    alpha: Any,
    keep: Any,
    eps: Any,
    decay: Any,
    momentum: Any,
    heavy: Any,
    part: Any,
    parts: Any,
) -> None:
    """keep = 1 - alpha; heavy: there is a momentum buffer."""
    first, last = share(param.size, part, parts)
    p, g, s, m = param[first:last], grad[first:last], square_avg[first:last], buffer[first:last]
    for i in range(last - first):
        d = g[i] + decay * p[i]
        s[i] = alpha * s[i] + keep * (d * d)
        d = d / (np.sqrt(s[i]) + eps)
        if heavy:
            m[i] = momentum * m[i] + d
            d = m[i]
        p[i] -= lr * d


def _flat(param: Array, grad: Array, *state: Array | None) -> list[Array] | None:
    """Flat views, of a copy where the gradient has another layout; None when what is written is not C-contiguous."""
    written = [param, *(array for array in state if array is not None)]
    if not supported(*written) or not all(a.flags.c_contiguous and a.flags.aligned for a in written):
        return None
    param, *rest = (array.reshape(-1) for array in written)
    return [param, dense(grad).reshape(-1), *rest]


class OptimMixin(Optimizers):
    """Optimizer steps for C-contiguous float32 and float64 parameters; the rest goes to the reference."""

    def sgd_step(
        self,
        param: Array,
        grad: Array,
        momentum_buf: Array | None,
        lr: float,
        momentum: float,
        dampening: float,
        weight_decay: float,
        nesterov: bool,
    ) -> None:
        """See the reference."""
        expect_like("sgd_step", param, grad=grad, momentum_buf=momentum_buf)
        flat = _flat(param, grad, momentum_buf)
        if flat is None:
            super().sgd_step(param, grad, momentum_buf, lr, momentum, dampening, weight_decay, nesterov)
            return
        if momentum_buf is None:
            flat.append(flat[0])
        scalars = (param.dtype.type(v) for v in (lr, momentum, 1 - dampening, weight_decay))
        launch(_sgd, *flat, *scalars, momentum_buf is not None, bool(nesterov), work=param.size)

    def adam_step(
        self,
        param: Array,
        grad: Array,
        m: Array,
        v: Array,
        step: int,
        lr: float,
        beta1: float,
        beta2: float,
        eps: float,
        weight_decay: float,
        decoupled: bool,
    ) -> None:
        """See the reference."""
        expect_like("adam_step", param, grad=grad, m=m, v=v)
        expect(step >= 1, "adam_step", f"step expects at least 1, got {step}")
        flat = _flat(param, grad, m, v)
        if flat is None:
            super().adam_step(param, grad, m, v, step, lr, beta1, beta2, eps, weight_decay, decoupled)
            return
        rate, root = lr / (1 - beta1**step), math.sqrt(1 - beta2**step)
        shrink, decay = (1 - lr * weight_decay, 0.0) if decoupled else (1.0, weight_decay)
        scalars = (rate, shrink, decay, 1 - beta1, beta2, 1 - beta2, root, eps)
        launch(_adam, *flat, *(param.dtype.type(s) for s in scalars), work=param.size)

    def rmsprop_step(
        self,
        param: Array,
        grad: Array,
        square_avg: Array,
        momentum_buf: Array | None,
        lr: float,
        alpha: float,
        eps: float,
        weight_decay: float,
        momentum: float,
    ) -> None:
        """See the reference."""
        expect_like("rmsprop_step", param, grad=grad, square_avg=square_avg, momentum_buf=momentum_buf)
        flat = _flat(param, grad, square_avg, momentum_buf)
        if flat is None:
            super().rmsprop_step(
                param, grad, square_avg, momentum_buf, lr, alpha, eps, weight_decay, momentum
            )
            return
        if momentum_buf is None:
            flat.append(flat[0])
        scalars = (param.dtype.type(v) for v in (lr, alpha, 1 - alpha, eps, weight_decay, momentum))
        launch(_rmsprop, *flat, *scalars, momentum_buf is not None, work=param.size)
