"""Initialisation of tensors in place, by PyTorch's names and formulas, from minidl's seeded generator.

Glorot & Bengio 2010 (xavier), He et al. 2015 (kaiming), Saxe et al. 2013 (orthogonal), Martens 2010 (sparse).
Weights are (out, in, ...): fan_in counts the inputs of one output element, fan_out the outputs that one input
element reaches (PyTorch ignores groups there, so does this). Values are drawn in float64 and rounded to the
tensor's dtype, so that float32 and float64 models agree. ``generator`` replaces the library's own.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Concatenate, ParamSpec

import numpy as np

from minidl import random
from minidl.autograd import no_grad
from minidl.tensor import Tensor

__all__ = [
    "calculate_gain",
    "constant_",
    "dirac_",
    "eye_",
    "fans",
    "kaiming_normal_",
    "kaiming_uniform_",
    "normal_",
    "ones_",
    "orthogonal_",
    "skipped",
    "sparse_",
    "trunc_normal_",
    "uniform_",
    "xavier_normal_",
    "xavier_uniform_",
    "zeros_",
]

Generator = np.random.Generator | None


def _draw(generator: Generator) -> np.random.Generator:
    return random.generator() if generator is None else generator


def _fill(tensor: Tensor, values: Any) -> Tensor:
    with no_grad():
        return tensor.copy_(values)


_skipping: ContextVar[bool] = ContextVar("minidl_init_skipped", default=False)
_Rest = ParamSpec("_Rest")


@contextmanager
def skipped() -> Iterator[None]:
    """Inside this ``with`` block random initialisation does nothing, in this thread, and draws no numbers.

    For a network whose weights are all loaded next; until then they are whatever its memory held. Drawing the
    weights of a ResNet-18 takes half of the time of a prediction.
    """
    token = _skipping.set(True)
    try:
        yield
    finally:
        _skipping.reset(token)


def _random(
    fill: Callable[Concatenate[Tensor, _Rest], Tensor],
) -> Callable[Concatenate[Tensor, _Rest], Tensor]:
    @functools.wraps(fill)
    def unless_skipped(tensor: Tensor, *args: _Rest.args, **kwargs: _Rest.kwargs) -> Tensor:
        return tensor if _skipping.get() else fill(tensor, *args, **kwargs)

    return unless_skipped


@_random
def uniform_(tensor: Tensor, a: float = 0.0, b: float = 1.0, generator: Generator = None) -> Tensor:
    """Fills with uniform numbers from [a, b)."""
    return _fill(tensor, _draw(generator).uniform(a, b, tensor.shape))


@_random
def normal_(tensor: Tensor, mean: float = 0.0, std: float = 1.0, generator: Generator = None) -> Tensor:
    """Fills with normal numbers."""
    return _fill(tensor, _draw(generator).normal(mean, std, tensor.shape))


@_random
def trunc_normal_(
    tensor: Tensor,
    mean: float = 0.0,
    std: float = 1.0,
    a: float = -2.0,
    b: float = 2.0,
    generator: Generator = None,
) -> Tensor:
    """Fills with normal numbers, those outside [a, b] drawn again.

    Raises ValueError when [a, b] is empty or so far from the mean (beyond 6 std) that drawing would not end.
    """
    if not a < b or (a - mean) > 6 * std or (mean - b) > 6 * std:
        raise ValueError(
            f"trunc_normal_: [a, b] must hold normal numbers of mean {mean}, std {std}, got [{a}, {b}]"
        )
    rng = _draw(generator)
    values = rng.normal(mean, std, tensor.shape)
    outside = (values < a) | (values > b)
    while outside.any():
        values[outside] = rng.normal(mean, std, int(outside.sum()))
        outside = (values < a) | (values > b)
    return _fill(tensor, values)


def constant_(tensor: Tensor, val: float) -> Tensor:
    """Fills with one number."""
    tensor.data[...] = tensor.dtype.type(val)
    tensor.mark_changed()
    return tensor


def zeros_(tensor: Tensor) -> Tensor:
    """Fills with 0."""
    return constant_(tensor, 0.0)


def ones_(tensor: Tensor) -> Tensor:
    """Fills with 1."""
    return constant_(tensor, 1.0)


def eye_(tensor: Tensor) -> Tensor:
    """Ones on the diagonal of a matrix, zeros elsewhere: a linear layer that passes its input on."""
    if tensor.ndim != 2:
        raise ValueError(f"eye_: tensor must have 2 dimensions, got shape {tensor.shape}")
    return _fill(tensor, np.eye(tensor.shape[0], tensor.shape[1]))


def dirac_(tensor: Tensor, groups: int = 1) -> Tensor:
    """A convolution weight that passes as many channels on as it can, in each group."""
    if tensor.ndim not in (3, 4, 5):
        raise ValueError(f"dirac_: tensor must be a convolution's weight, got shape {tensor.shape}")
    if groups < 1 or tensor.shape[0] % groups:
        raise ValueError(f"dirac_: groups must divide the {tensor.shape[0]} output channels, got {groups}")
    values = np.zeros(tensor.shape)
    centre = tuple(n // 2 for n in tensor.shape[2:])
    outputs = tensor.shape[0] // groups
    for group in range(groups):
        for channel in range(min(outputs, tensor.shape[1])):
            values[(group * outputs + channel, channel, *centre)] = 1
    return _fill(tensor, values)


def fans(tensor: Tensor) -> tuple[int, int]:
    """(fan_in, fan_out) of a weight (out, in, ...); ValueError below two dimensions."""
    if tensor.ndim < 2:
        raise ValueError(f"fans: a weight needs at least 2 dimensions, got shape {tensor.shape}")
    field = math.prod(tensor.shape[2:])
    return tensor.shape[1] * field, tensor.shape[0] * field


def calculate_gain(nonlinearity: str, param: float | None = None) -> float:
    """The factor that keeps the variance through a nonlinearity: "linear", "conv1d", "conv2d",
    "conv_transpose1d", "conv_transpose2d", "sigmoid", "tanh", "relu", "leaky_relu" (param: its slope, 0.01)
    or "selu".
    """
    slope = 0.01 if param is None else float(param)
    table = {
        "linear": 1.0,
        "conv1d": 1.0,
        "conv2d": 1.0,
        "conv_transpose1d": 1.0,
        "conv_transpose2d": 1.0,
        "sigmoid": 1.0,
        "tanh": 5.0 / 3,
        "relu": math.sqrt(2.0),
        "leaky_relu": math.sqrt(2.0 / (1 + slope**2)),
        "selu": 3.0 / 4,
    }
    if nonlinearity not in table:
        raise ValueError(
            f"calculate_gain: nonlinearity must be one of {', '.join(table)}, got {nonlinearity!r}"
        )
    return table[nonlinearity]


def _kaiming_std(tensor: Tensor, a: float, mode: str, nonlinearity: str) -> float:
    if mode not in ("fan_in", "fan_out"):
        raise ValueError(f"kaiming: mode must be 'fan_in' or 'fan_out', got {mode!r}")
    return calculate_gain(nonlinearity, a) / math.sqrt(fans(tensor)[mode == "fan_out"])


def kaiming_uniform_(
    tensor: Tensor,
    a: float = 0.0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    generator: Generator = None,
) -> Tensor:
    """Uniform in ±sqrt(3)·gain/sqrt(fan); a is the slope of a leaky ReLU."""
    bound = math.sqrt(3.0) * _kaiming_std(tensor, a, mode, nonlinearity)
    return uniform_(tensor, -bound, bound, generator)


def kaiming_normal_(
    tensor: Tensor,
    a: float = 0.0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    generator: Generator = None,
) -> Tensor:
    """Normal with standard deviation gain/sqrt(fan); a is the slope of a leaky ReLU."""
    return normal_(tensor, 0.0, _kaiming_std(tensor, a, mode, nonlinearity), generator)


def xavier_uniform_(tensor: Tensor, gain: float = 1.0, generator: Generator = None) -> Tensor:
    """Uniform in ±gain·sqrt(6/(fan_in + fan_out))."""
    bound = gain * math.sqrt(6.0 / sum(fans(tensor)))
    return uniform_(tensor, -bound, bound, generator)


def xavier_normal_(tensor: Tensor, gain: float = 1.0, generator: Generator = None) -> Tensor:
    """Normal with standard deviation gain·sqrt(2/(fan_in + fan_out))."""
    return normal_(tensor, 0.0, gain * math.sqrt(2.0 / sum(fans(tensor))), generator)


@_random
def orthogonal_(tensor: Tensor, gain: float = 1.0, generator: Generator = None) -> Tensor:
    """A random matrix with orthonormal rows or columns, whichever are fewer, times gain; the dimensions after
    the first count as one."""
    if tensor.ndim < 2:
        raise ValueError(f"orthogonal_: tensor must have at least 2 dimensions, got shape {tensor.shape}")
    if tensor.size == 0:
        return tensor
    rows, columns = tensor.shape[0], tensor.size // tensor.shape[0]
    normal = _draw(generator).standard_normal((max(rows, columns), min(rows, columns)))
    q, r = np.linalg.qr(normal)
    q *= np.sign(np.diag(r))  # makes the distribution uniform (Mezzadri 2007)
    return _fill(tensor, ((q.T if rows < columns else q) * gain).reshape(tensor.shape))


@_random
def sparse_(tensor: Tensor, sparsity: float, std: float = 0.01, generator: Generator = None) -> Tensor:
    """Normal numbers, a share ``sparsity`` of each column set to 0."""
    if tensor.ndim != 2:
        raise ValueError(f"sparse_: tensor must have 2 dimensions, got shape {tensor.shape}")
    if not 0 <= sparsity <= 1:
        raise ValueError(f"sparse_: sparsity must lie in [0, 1], got {sparsity}")
    rng = _draw(generator)
    values = rng.normal(0.0, std, tensor.shape)
    zeros = math.ceil(sparsity * tensor.shape[0])
    for column in range(tensor.shape[1]):
        values[rng.permutation(tensor.shape[0])[:zeros], column] = 0
    return _fill(tensor, values)
