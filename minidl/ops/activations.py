"""Activation functions beyond ReLU, sigmoid and tanh: one number in, one number out.

At a kink the gradient is PyTorch's. Half types are computed in float32.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minidl.autograd import Function
from minidl.ops._common import Array, axes, axis, expect_floating, expect_same_dtype, in_float32
from minidl.ops.elementwise import Sigmoid, erf, exp, mask, sigmoid, tanh, where
from minidl.ops.movement import reshape
from minidl.ops.promotion import alike, fill
from minidl.ops.reduce import softmax
from minidl.ops.special import erf_array
from minidl.tensor import Tensor

__all__ = [
    "celu",
    "elu",
    "gelu",
    "glu",
    "hardsigmoid",
    "hardswish",
    "hardtanh",
    "leaky_relu",
    "logsigmoid",
    "mish",
    "prelu",
    "relu6",
    "selu",
    "silu",
    "softmin",
    "softplus",
    "softsign",
]

# Klambauer et al. 2017, "Self-normalizing neural networks", appendix A.1
SELU_ALPHA = 1.6732632423543772848170429916717
SELU_SCALE = 1.0507009873554804934193349852946


class ELU(Function):
    """scale * x above 0, scale * alpha * (exp(rate * x) - 1) below."""

    saved_inputs = (0,)

    def __init__(self, alpha: float, scale: float, rate: float) -> None:
        self.alpha, self.scale, self.rate = alpha, scale, rate

    def forward(self, x: Array) -> Array:
        below = np.expm1(np.minimum(x, 0) * self.rate) * (self.alpha * self.scale)
        return np.where(x > 0, x * self.scale, below)

    def backward(self, grad: Tensor) -> Tensor:
        (x,) = self.saved()
        above = x.data > 0
        low = where(above, fill(x, 0), x)
        slope = exp(low * self.rate) * (self.alpha * self.scale * self.rate)
        return grad * where(above, fill(x, self.scale), slope)


class Hardtanh(Function):
    """x limited to [low, high]; the gradient stops where a limit is reached."""

    saved_inputs = (0,)

    def __init__(self, low: float, high: float) -> None:
        self.low, self.high = low, high

    def forward(self, x: Array) -> Array:
        return np.clip(x, self.low, self.high)

    def backward(self, grad: Tensor) -> Tensor:
        (x,) = self.saved()
        return mask(grad, (~((x.data <= self.low) | (x.data >= self.high))).astype(grad.dtype))


class Hardswish(Function):
    """x * min(max(x + 3, 0), 6) / 6 (Howard et al. 2019)."""

    saved_inputs = (0,)

    def forward(self, x: Array) -> Array:
        return x * np.clip(x + 3, 0, 6) * x.dtype.type(1 / 6)

    def backward(self, grad: Tensor) -> Tensor:
        (x,) = self.saved()
        zero, one = (fill(x, v) for v in (0.0, 1.0))
        middle = x * (1 / 3) + 0.5
        return grad * where(x.data <= -3, zero, where(x.data < 3, middle, one))


class SiLU(Function):
    """x * sigmoid(x) (Elfwing et al. 2017)."""

    saved_inputs = (0,)

    def forward(self, x: Array) -> Array:
        return x * Sigmoid().forward(x)

    def backward(self, grad: Tensor) -> Tensor:
        (x,) = self.saved()
        s = sigmoid(x)
        return grad * (s * (1 + x * (1 - s)))


class Softplus(Function):
    """log(1 + exp(beta * x)) / beta; x itself where beta * x is above the threshold."""

    saved_inputs = (0,)

    def __init__(self, beta: float, threshold: float) -> None:
        self.beta, self.threshold = beta, threshold

    def forward(self, x: Array) -> Array:
        z = x * self.beta
        y = (np.maximum(z, 0) + np.log1p(np.exp(-np.abs(z)))) * (1 / self.beta)
        return np.where(z > self.threshold, x, y)

    def backward(self, grad: Tensor) -> Tensor:
        (x,) = self.saved()
        z = x * self.beta
        one = fill(x, 1)
        return grad * where(z.data > self.threshold, one, sigmoid(z))


class LogSigmoid(Function):
    """log(1 / (1 + exp(-x)))."""

    saved_inputs = (0,)

    def forward(self, x: Array) -> Array:
        return np.minimum(x, 0) - np.log1p(np.exp(-np.abs(x)))

    def backward(self, grad: Tensor) -> Tensor:
        (x,) = self.saved()
        return grad * sigmoid(-x)


class Softsign(Function):
    """x / (1 + |x|)."""

    saved_inputs = (0,)

    def forward(self, x: Array) -> Array:
        return x / (np.abs(x) + 1)

    def backward(self, grad: Tensor) -> Tensor:
        (x,) = self.saved()
        size = x.abs() + 1
        return grad / (size * size)


class PReLU(Function):
    """x above 0, weight * x below; the weight broadcasts."""

    saved_inputs = (0, 1)
    broadcasts = True

    def forward(self, x: Array, weight: Array) -> Array:
        return np.where(x > 0, x, x * weight)

    def backward(self, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, weight = self.saved()
        above = x.data > 0
        below = mask(grad, (~above).astype(grad.dtype))
        gx = where(above, grad, grad * weight) if self.needs_input_grad[0] else None
        return gx, below * x if self.needs_input_grad[1] else None


class GELU(Function):
    """x times the normal distribution function of x (Hendrycks & Gimpel 2016)."""

    saved_inputs = (0,)

    def forward(self, x: Array) -> Array:
        # its share of a standard normal distribution, (1 + erf(x / sqrt(2))) / 2
        return x * ((erf_array(x * math.sqrt(0.5)) + 1) * 0.5)

    def backward(self, grad: Tensor) -> Tensor:
        (x,) = self.saved()
        density = exp(x * x * -0.5) * (1 / math.sqrt(2 * math.pi))
        share = (erf(x * math.sqrt(0.5)) + 1) * 0.5
        return grad * (share + x * density)


# --- the functions ------------------------------------------------------------------------------------------


def leaky_relu(x: Tensor, negative_slope: float = 0.01) -> Tensor:
    """x above 0, ``negative_slope * x`` below (Maas et al. 2013)."""
    expect_floating("leaky_relu", "x", x)
    kind = x.dtype.type
    return mask(x, np.where(x.data > 0, kind(1), kind(negative_slope)).astype(x.dtype, copy=False))


def prelu(x: Tensor, weight: Tensor) -> Tensor:
    """x above 0, ``weight * x`` below, with a learned weight (He et al. 2015).

    Args:
        x: any shape; dimension 1 is the channels.
        weight: one element, or one for each channel, dtype of ``x``.
    """
    expect_floating("prelu", "x", x)
    weight = alike(x, weight)
    expect_same_dtype("prelu", x, weight=weight)
    channels = x.shape[1] if x.ndim > 1 else 1
    if weight.ndim > 1 or weight.size not in (1, channels):
        raise ValueError(f"prelu: weight expects shape (1,) or ({channels},), got {weight.shape}")
    if weight.size > 1:
        weight = reshape(weight, (channels, *[1] * (x.ndim - 2)))
    return PReLU()(x, weight)


@in_float32
def elu(x: Tensor, alpha: float = 1.0) -> Tensor:
    """x above 0, alpha * (exp(x) - 1) below (Clevert et al. 2015)."""
    expect_floating("elu", "x", x)
    return ELU(alpha, 1.0, 1.0)(x)


@in_float32
def celu(x: Tensor, alpha: float = 1.0) -> Tensor:
    """x above 0, alpha * (exp(x / alpha) - 1) below: an ELU that is smooth at 0 (Barron 2017)."""
    expect_floating("celu", "x", x)
    if alpha == 0:
        raise ValueError("celu: alpha expects a number other than 0, got 0")
    return ELU(alpha, 1.0, 1.0 / alpha)(x)


@in_float32
def selu(x: Tensor) -> Tensor:
    """The ELU that keeps mean 0 and variance 1 from layer to layer (Klambauer et al. 2017)."""
    expect_floating("selu", "x", x)
    return ELU(SELU_ALPHA, SELU_SCALE, 1.0)(x)


@in_float32
def gelu(x: Tensor, approximate: str = "none") -> Tensor:
    """x times the normal distribution function of x (Hendrycks & Gimpel 2016).

    ``approximate="tanh"`` gives x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x**3))) instead.
    """
    expect_floating("gelu", "x", x)
    if approximate == "none":
        return GELU()(x)
    if approximate != "tanh":
        raise ValueError(f"gelu: approximate expects 'none' or 'tanh', got {approximate!r}")
    inner = x * (x * x * 0.044715 + 1) * math.sqrt(2 / math.pi)
    return x * 0.5 * (tanh(inner) + 1)


@in_float32
def silu(x: Tensor) -> Tensor:
    """x * sigmoid(x), also called swish (Elfwing et al. 2017)."""
    expect_floating("silu", "x", x)
    return SiLU()(x)


@in_float32
def mish(x: Tensor) -> Tensor:
    """x * tanh(softplus(x)) (Misra 2019)."""
    expect_floating("mish", "x", x)
    return x * tanh(softplus(x))


@in_float32
def hardswish(x: Tensor) -> Tensor:
    """x * relu6(x + 3) / 6 (Howard et al. 2019)."""
    expect_floating("hardswish", "x", x)
    return Hardswish()(x)


@in_float32
def hardtanh(x: Tensor, min_val: float = -1.0, max_val: float = 1.0) -> Tensor:
    """x limited to [min_val, max_val]; gradient 0 at the limits."""
    expect_floating("hardtanh", "x", x)
    if min_val > max_val:
        raise ValueError(f"hardtanh: min_val {min_val} is greater than max_val {max_val}")
    return Hardtanh(min_val, max_val)(x)


def relu6(x: Tensor) -> Tensor:
    """x limited to [0, 6]; gradient 0 at both."""
    expect_floating("relu6", "x", x)
    return hardtanh(x, 0.0, 6.0)


@in_float32
def hardsigmoid(x: Tensor) -> Tensor:
    """relu6(x + 3) / 6."""
    expect_floating("hardsigmoid", "x", x)
    return relu6(x + 3) * (1 / 6)


@in_float32
def softplus(x: Tensor, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    """log(1 + exp(beta * x)) / beta; x itself where beta * x is above ``threshold``."""
    expect_floating("softplus", "x", x)
    if beta == 0:
        raise ValueError("softplus: beta expects a number other than 0, got 0")
    return Softplus(beta, threshold)(x)


@in_float32
def logsigmoid(x: Tensor) -> Tensor:
    """log(sigmoid(x)), without overflow or loss of precision."""
    expect_floating("logsigmoid", "x", x)
    return LogSigmoid()(x)


@in_float32
def softsign(x: Tensor) -> Tensor:
    """x / (1 + |x|)."""
    expect_floating("softsign", "x", x)
    return Softsign()(x)


def softmin(x: Tensor, dim: int = -1) -> Tensor:
    """softmax(-x) along ``dim``."""
    expect_floating("softmin", "x", x)
    return softmax(-x, axis("softmin", dim, x.ndim))


def glu(x: Tensor, dim: int = -1) -> Tensor:
    """The first half of ``dim`` times the sigmoid of the second (Dauphin et al. 2016)."""
    expect_floating("glu", "x", x)
    (axis,) = axes("glu", dim, x.ndim)
    if x.shape[axis] % 2:
        raise ValueError(f"glu: dim {dim} expects an even size, got {x.shape[axis]} in shape {x.shape}")
    half: Any = x.shape[axis] // 2
    before = (slice(None),) * axis
    return x[(*before, slice(0, half))] * sigmoid(x[(*before, slice(half, None))])
