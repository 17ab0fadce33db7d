"""One optimizer step, in place, by the update rules of PyTorch's SGD, Adam, AdamW and RMSprop.

`param`, `grad` and the state arrays have one shape and any strides; `param` and the state are written, `grad`
is only read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from minidl.kernels.reference.checks import Array, expect, expect_shape


def expect_like(kernel: str, param: Array, **others: Array | None) -> None:
    """Raise ValueError unless each named array has the shape and dtype of param."""
    for name, array in others.items():
        if array is not None:
            expect_shape(kernel, name, array, param.shape)
            if array.dtype != param.dtype:
                raise ValueError(f"{kernel}: {name} expects dtype {param.dtype}, got {array.dtype}")


class Optimizers:
    """The optimizer family of the reference back end."""

    xp: Any

    @contextmanager
    def together(self, again: Callable[[], None] | None = None) -> Iterator[None]:
        """Steps in a ``with`` block may be gathered and made at its end: here each is made at once. ``again`` calls one
        of them anew, for what a captured step asks before each replay."""
        yield

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
        """Stochastic gradient descent, with momentum when momentum_buf is given.

            g   = grad + weight_decay * param
            buf = momentum * buf + (1 - dampening) * g
            param -= lr * (g + momentum * buf  if nesterov else  buf)

        PyTorch starts with buf = g: for a parameter's first step pass a buffer of zeros and dampening 0.
        """
        expect_like("sgd_step", param, grad=grad, momentum_buf=momentum_buf)
        g = grad + weight_decay * param if weight_decay else grad
        if momentum_buf is not None:
            momentum_buf *= momentum
            momentum_buf += (1 - dampening) * g
            g = g + momentum * momentum_buf if nesterov else momentum_buf
        param -= lr * g

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
        """Adam (Kingma and Ba, arXiv:1412.6980), or AdamW (Loshchilov and Hutter, arXiv:1711.05101) when
        decoupled.

        `step` counts from 1 and is the number of this step. m and v are the running first and second moments.

            AdamW: param *= 1 - lr * weight_decay        Adam: g = grad + weight_decay * param
            m += (1 - beta1) * (g - m)
            v  = beta2 * v + (1 - beta2) * g^2
            param -= lr / (1 - beta1^step) * m / (sqrt(v) / sqrt(1 - beta2^step) + eps)
        """
        expect_like("adam_step", param, grad=grad, m=m, v=v)
        expect(step >= 1, "adam_step", f"step expects at least 1, got {step}")
        g = grad
        if decoupled:
            param *= 1 - lr * weight_decay
        elif weight_decay:
            g = grad + weight_decay * param
        m += (1 - beta1) * (g - m)
        v *= beta2
        v += (1 - beta2) * (g * g)
        denominator = self.xp.sqrt(v) / math.sqrt(1 - beta2**step) + eps
        param -= lr / (1 - beta1**step) * (m / denominator)

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
        """RMSprop (Hinton, "Neural networks for machine learning", lecture 6e), as PyTorch writes it.

        g = grad + weight_decay * param
        square_avg = alpha * square_avg + (1 - alpha) * g^2
        d = g / (sqrt(square_avg) + eps)
        param -= lr * d,   or with a momentum_buf   buf = momentum * buf + d,  param -= lr * buf
        """
        expect_like("rmsprop_step", param, grad=grad, square_avg=square_avg, momentum_buf=momentum_buf)
        g = grad + weight_decay * param if weight_decay else grad
        square_avg *= alpha
        square_avg += (1 - alpha) * (g * g)
        d = g / (self.xp.sqrt(square_avg) + eps)
        if momentum_buf is not None:
            momentum_buf *= momentum
            momentum_buf += d
            d = momentum_buf
        param -= lr * d
