"""Initialisation of tensors in place, by PyTorch's names and formulas, from minidl's seeded generator.

Glorot & Bengio 2010 (xavier), He et al. 2015 (kaiming). Weights are (out, in, ...): fan_in counts the inputs
of one output element, fan_out the outputs that one input element reaches (PyTorch ignores groups there, so
does this). Values are drawn in float64 and rounded to the tensor's dtype, so that float32 and float64 models
agree.
"""

from __future__ import annotations

import math

from minidl.autograd import no_grad
from minidl.random import generator
from minidl.tensor import Tensor

__all__ = [
    "constant_",
    "fans",
    "gain",
    "kaiming_normal_",
    "kaiming_uniform_",
    "normal_",
    "ones_",
    "uniform_",
    "xavier_normal_",
    "xavier_uniform_",
    "zeros_",
]


def uniform_(tensor: Tensor, low: float = 0.0, high: float = 1.0) -> Tensor:
    """Fills with uniform numbers from [low, high)."""
    with no_grad():
        return tensor.copy_(generator().uniform(low, high, tensor.shape))


def normal_(tensor: Tensor, mean: float = 0.0, std: float = 1.0) -> Tensor:
    """Fills with normal numbers."""
    with no_grad():
        return tensor.copy_(generator().normal(mean, std, tensor.shape))


def constant_(tensor: Tensor, value: float) -> Tensor:
    tensor.data[...] = value
    tensor.mark_changed()
    return tensor


def zeros_(tensor: Tensor) -> Tensor:
    return constant_(tensor, 0.0)


def ones_(tensor: Tensor) -> Tensor:
    return constant_(tensor, 1.0)


def fans(tensor: Tensor) -> tuple[int, int]:
    """(fan_in, fan_out) of a weight (out, in, ...); ValueError below two dimensions."""
    if tensor.ndim < 2:
        raise ValueError(f"fans: a weight needs at least 2 dimensions, got shape {tensor.shape}")
    field = math.prod(tensor.shape[2:])
    return tensor.shape[1] * field, tensor.shape[0] * field


def gain(nonlinearity: str, slope: float = 0.0) -> float:
    """The factor that keeps the variance through a nonlinearity: "linear", "relu", "leaky_relu", "tanh",
    "sigmoid".
    """
    table = {
        "linear": 1.0,
        "sigmoid": 1.0,
        "tanh": 5.0 / 3,
        "relu": math.sqrt(2.0),
        "leaky_relu": math.sqrt(2.0 / (1 + slope**2)),
    }
    if nonlinearity not in table:
        raise ValueError(f"gain: nonlinearity must be one of {', '.join(table)}, got {nonlinearity!r}")
    return table[nonlinearity]


def _kaiming_std(tensor: Tensor, a: float, mode: str, nonlinearity: str) -> float:
    if mode not in ("fan_in", "fan_out"):
        raise ValueError(f"kaiming: mode must be 'fan_in' or 'fan_out', got {mode!r}")
    return gain(nonlinearity, a) / math.sqrt(fans(tensor)[mode == "fan_out"])


def kaiming_uniform_(
    tensor: Tensor, a: float = 0.0, mode: str = "fan_in", nonlinearity: str = "leaky_relu"
) -> Tensor:
    """Uniform in ±sqrt(3)·gain/sqrt(fan)."""
    bound = math.sqrt(3.0) * _kaiming_std(tensor, a, mode, nonlinearity)
    return uniform_(tensor, -bound, bound)


def kaiming_normal_(
    tensor: Tensor, a: float = 0.0, mode: str = "fan_in", nonlinearity: str = "leaky_relu"
) -> Tensor:
    """Normal with standard deviation gain/sqrt(fan)."""
    return normal_(tensor, 0.0, _kaiming_std(tensor, a, mode, nonlinearity))


def xavier_uniform_(tensor: Tensor, gain: float = 1.0) -> Tensor:
    """Uniform in ±gain·sqrt(6/(fan_in + fan_out))."""
    bound = gain * math.sqrt(6.0 / sum(fans(tensor)))
    return uniform_(tensor, -bound, bound)


def xavier_normal_(tensor: Tensor, gain: float = 1.0) -> Tensor:
    """Normal with standard deviation gain·sqrt(2/(fan_in + fan_out))."""
    return normal_(tensor, 0.0, gain * math.sqrt(2.0 / sum(fans(tensor))))
