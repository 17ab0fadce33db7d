"""Functions of one and two numbers, and those that write in place."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

import minidl
import minidl.nn.functional as F
from minidl import ops
from tests.minidl.trust.shapes.draws import Case, Draw, strategy


def _erf(x: np.ndarray) -> np.ndarray:
    return np.array([math.erf(v) for v in x.reshape(-1)]).reshape(x.shape)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


SMOOTH: dict[str, tuple[float, float, Any]] = {  # low, high, in NumPy
    "exp": (-2, 2, np.exp),
    "exp2": (-2, 2, np.exp2),
    "expm1": (-2, 2, np.expm1),
    "log": (0.2, 3, np.log),
    "log1p": (-0.8, 2, np.log1p),
    "log2": (0.2, 3, np.log2),
    "log10": (0.2, 3, np.log10),
    "sqrt": (0.2, 3, np.sqrt),
    "rsqrt": (0.2, 3, lambda x: 1 / np.sqrt(x)),
    "reciprocal": (0.2, 3, lambda x: 1 / x),
    "sin": (-3, 3, np.sin),
    "cos": (-3, 3, np.cos),
    "tan": (-1.2, 1.2, np.tan),
    "asin": (-0.9, 0.9, np.arcsin),
    "acos": (-0.9, 0.9, np.arccos),
    "atan": (-3, 3, np.arctan),
    "sinh": (-2, 2, np.sinh),
    "cosh": (-2, 2, np.cosh),
    "tanh": (-3, 3, np.tanh),
    "asinh": (-3, 3, np.arcsinh),
    "acosh": (1.2, 4, np.arccosh),
    "atanh": (-0.9, 0.9, np.arctanh),
    "sigmoid": (-4, 4, _sigmoid),
    "erf": (-2.5, 2.5, _erf),
    "square": (-2, 2, np.square),
    "neg": (-2, 2, np.negative),
    "clone": (-2, 2, np.copy),
    "contiguous": (-2, 2, np.copy),
    "silu": (-4, 4, lambda x: x * _sigmoid(x)),
    "mish": (-4, 4, lambda x: x * np.tanh(np.log1p(np.exp(x)))),
    "logsigmoid": (-4, 4, lambda x: np.log(_sigmoid(x))),
}
KINKED: dict[str, tuple[tuple[float, ...], Any]] = {  # kinks, in NumPy
    "abs": ((0,), np.abs),
    "relu": ((0,), lambda x: np.maximum(x, 0)),
    "relu6": ((0, 6), lambda x: np.clip(x, 0, 6)),
    "selu": ((0,), None),
    "hardswish": ((-3, 3), lambda x: x * np.clip(x + 3, 0, 6) / 6),
    "hardsigmoid": ((-3, 3), lambda x: np.clip(x + 3, 0, 6) / 6),
    "softsign": ((0,), lambda x: x / (1 + np.abs(x))),
    "floor": (tuple(range(-12, 13)), np.floor),
    "ceil": (tuple(range(-12, 13)), np.ceil),
    "trunc": (tuple(range(-12, 13)), np.trunc),
    "frac": (tuple(range(-12, 13)), lambda x: x - np.trunc(x)),
    "sign": ((0,), np.sign),
    "round": (tuple(k + 0.5 for k in range(-12, 12)), np.round),
}


@strategy(*SMOOTH)
def smooth(d: Draw, name: str) -> Case:
    low, high, exact = SMOOTH[name]
    return Case(getattr(ops, name), [d.uniform(d.shape(), low, high)], exact)


@strategy(*KINKED)
def kinked(d: Draw, name: str) -> Case:
    points, exact = KINKED[name]
    return Case(getattr(ops, name), [d.avoiding(d.shape(), *points, scale=2)], exact)


@strategy("gelu")
def gelu(d: Draw, name: str) -> Case:
    tanh = d.flag()
    exact = None if tanh else lambda x: x * (1 + _erf(x / math.sqrt(2))) / 2
    return Case(lambda x: F.gelu(x, "tanh" if tanh else "none"), [d.normal(d.shape())], exact)


@strategy("elu", "celu")
def elu(d: Draw, name: str) -> Case:
    alpha = d.pick(1.0, 0.3, 1.7)
    inner = 1.0 if name == "elu" else alpha
    return Case(
        lambda x: getattr(F, name)(x, alpha),
        [d.avoiding(d.shape(), 0)],
        lambda x: np.where(x > 0, x, alpha * np.expm1(x / inner)),
    )


@strategy("leaky_relu")
def leaky_relu(d: Draw, name: str) -> Case:
    slope = d.pick(0.01, 0.3, 0.0, 1.5)
    return Case(
        lambda x: F.leaky_relu(x, slope), [d.avoiding(d.shape(), 0)], lambda x: np.where(x > 0, x, slope * x)
    )


@strategy("hardtanh")
def hardtanh(d: Draw, name: str) -> Case:
    low, high = d.pick((-1.0, 1.0), (-0.5, 1.7), (0.0, 6.0))
    return Case(
        lambda x: F.hardtanh(x, low, high),
        [d.avoiding(d.shape(), low, high, scale=2)],
        lambda x: np.clip(x, low, high),
    )


@strategy("softplus")
def softplus(d: Draw, name: str) -> Case:
    beta, threshold = d.pick(1.0, 2.0, 0.5), d.pick(20.0, 1.0)
    return Case(
        lambda x: F.softplus(x, beta, threshold),
        [d.avoiding(d.shape(), threshold / beta, scale=2)],
        lambda x: np.where(x * beta > threshold, x, np.log1p(np.exp(np.minimum(x * beta, 50))) / beta),
    )


@strategy("prelu")
def prelu(d: Draw, name: str) -> Case:
    shape = d.shape(1, 4, 1, 3)
    channels = shape[1] if len(shape) > 1 and d.flag() else 1
    return Case(F.prelu, [d.avoiding(shape, 0), d.normal((channels,))])


@strategy("glu")
def glu(d: Draw, name: str) -> Case:
    shape = list(d.shape(1))
    dim = d.axis(len(shape))
    shape[dim] *= 2
    return Case(lambda x: F.glu(x, dim), [d.normal(shape)])


@strategy("nan_to_num")
def nan_to_num(d: Draw, name: str) -> Case:
    x = d.normal(d.shape())
    hole = d.mask(x.shape)
    return Case(
        lambda x: ops.nan_to_num(ops.where(hole, np.nan, x), 0.5),
        [x],
        lambda x: np.where(hole, 0.5, x),
    )


# --- two numbers ----------------------------------------------------------------------------------------------


def _binary(d: Draw, low: float | None = None, high: float = 2.0) -> list[np.ndarray]:
    return [d.normal(s) if low is None else d.uniform(s, low, high) for s in d.broadcast(2)]


def _apart(d: Draw) -> list[np.ndarray]:
    """Two operands that are equal nowhere."""
    a, b = d.broadcast(2)
    return [np.round(d.normal(a), 1), np.round(d.normal(b), 1) + 0.05]


@strategy("add", "sub")
def add(d: Draw, name: str) -> Case:
    alpha = d.pick(1, 2, -0.5)
    sign = alpha if name == "add" else -alpha
    return Case(lambda a, b: getattr(ops, name)(a, b, alpha=alpha), _binary(d), lambda a, b: a + sign * b)


@strategy("mul", "atan2")
def binary(d: Draw, name: str) -> Case:
    return Case(getattr(ops, name), _binary(d), {"mul": np.multiply, "atan2": np.arctan2}[name])


@strategy("maximum", "minimum")
def extreme(d: Draw, name: str) -> Case:
    return Case(getattr(ops, name), _apart(d), getattr(np, name))


@strategy("div")
def div(d: Draw, name: str) -> Case:
    return Case(ops.div, _binary(d, 0.5), np.divide)


@strategy("pow")
def pow_(d: Draw, name: str) -> Case:
    exponent = d.pick(None, 2, 3, -1, 0.5, 0, 1)
    if exponent is None:
        return Case(ops.pow, _binary(d, 0.5), np.power)
    return Case(lambda a: a**exponent, [d.uniform(d.shape(), 0.5, 2)], lambda a: a**exponent)


@strategy("floor_divide", "fmod", "remainder")
def remainder(d: Draw, name: str) -> Case:
    a, b = d.broadcast(2)
    exact: Any = {"floor_divide": np.floor_divide, "fmod": np.fmod, "remainder": np.mod}[name]
    function = getattr(ops, name)
    divisor = d.pick(0.7, 1.3, -0.7)
    if d.flag():  # a number
        x = (d.rng.integers(-3, 4, a) + d.uniform(a, 0.2, 0.8)) * divisor
        return Case(lambda x: function(x, divisor), [x], lambda x: exact(x, divisor))
    return Case(function, [d.uniform(a, 0.1, 0.4) * np.sign(d.normal(a)), d.uniform(b, 0.5, 0.9)], exact)


@strategy("lerp")
def lerp(d: Draw, name: str) -> Case:
    t = d.pick(0.3, 0.0, 1.0, 1.5)
    return Case(lambda a, b: ops.lerp(a, b, t), _binary(d), lambda a, b: a + t * (b - a))


@strategy("where")
def where(d: Draw, name: str) -> Case:
    a, b, c = d.broadcast(3)
    mask = d.mask(c)
    return Case(
        lambda a, b: ops.where(mask, a, b), [d.normal(a), d.normal(b)], lambda a, b: np.where(mask, a, b)
    )


@strategy("mask")
def mask(d: Draw, name: str) -> Case:
    shape = d.shape()
    m = d.normal(shape)
    return Case(lambda x: ops.mask(x, m), [d.normal(shape)], lambda x: x * m)


@strategy("masked_fill")
def masked_fill(d: Draw, name: str) -> Case:
    a, c = d.broadcast(2)
    m = d.mask(c)
    return Case(
        lambda x, v: ops.masked_fill(x, m, v),
        [d.normal(a), d.normal(())],
        lambda x, v: np.where(m, v, x),
    )


@strategy("clamp")
def clamp(d: Draw, name: str) -> Case:
    kind = d.pick("numbers", "low", "high", "tensors")
    if kind == "tensors":
        x, low, high = d.broadcast(3)
        arrays = [
            np.round(d.normal(x), 1),
            np.round(d.normal(low), 1) - 0.55,
            np.round(d.normal(high), 1) + 0.575,
        ]
        return Case(ops.clamp, arrays, lambda x, low, high: np.minimum(np.maximum(x, low), high))
    low, high = (None if kind == "high" else -0.4), (None if kind == "low" else 0.6)
    return Case(
        lambda x: ops.clamp(x, low, high), [d.avoiding(d.shape(), -0.4, 0.6)], lambda x: np.clip(x, low, high)
    )


# --- in place -------------------------------------------------------------------------------------------------


def _in_place(d: Draw, name: str) -> Case:
    """On a copy; the other operand broadcasts into it. The result goes on, so that its place in the graph counts."""
    shape = d.shape()
    other = tuple(1 if d.flag() else n for n in shape[d.int(0, len(shape)) :])
    low, high = (0.5, 2) if name in ("pow_", "div_") else (-2, 2)
    a, b = d.uniform(shape, low, high), d.uniform(other, low, high)
    binary = {"add_": np.add, "sub_": np.subtract, "mul_": np.multiply, "div_": np.divide, "pow_": np.power}

    def run(x: Any, y: Any) -> Any:
        z = x * 1
        getattr(z, name)(y)
        return z * x

    return Case(run, [a, b], lambda x, y: binary[name](x, y) * x)


strategy("add_", "sub_", "mul_", "div_", "pow_")(_in_place)


@strategy("neg_", "relu_", "clamp_", "zero_")
def alone_in_place(d: Draw, name: str) -> Case:
    args = (-0.4, 0.6) if name == "clamp_" else ()

    def run(x: Any) -> Any:
        y = x * 1
        getattr(y, name)(*args)
        return y * x

    exact = {
        "neg_": np.negative,
        "relu_": lambda x: np.maximum(x, 0),
        "clamp_": lambda x: np.clip(x, -0.4, 0.6),
        "zero_": np.zeros_like,
    }[name]
    return Case(run, [d.avoiding(d.shape(), -0.4, 0, 0.6)], lambda x: exact(x) * x)


@strategy("copy_", "fill_", "masked_fill_")
def replaced_in_place(d: Draw, name: str) -> Case:
    shape = d.shape()
    other = tuple(1 if d.flag() else n for n in shape) if name == "copy_" else ()
    m = d.mask(shape)

    def run(x: Any, v: Any) -> Any:
        y = x * 1
        if name == "masked_fill_":
            y.masked_fill_(m, v)
        else:
            getattr(y, name)(v)
        return y * x

    return Case(
        run,
        [d.normal(shape), d.normal(other)],
        lambda x, v: np.where(m if name == "masked_fill_" else np.ones(shape, bool), v, x) * x,
    )


@strategy("dropout", "dropout1d", "dropout2d", "stochastic_depth")
def dropout(d: Draw, name: str) -> Case:
    p, training = d.pick(0.4, 0.0, 1.0), d.flag()
    low, high = {"dropout": (0, 3), "dropout1d": (2, 3), "dropout2d": (3, 4), "stochastic_depth": (1, 3)}[
        name
    ]

    def run(x: Any) -> Any:
        minidl.manual_seed(d.seed)
        return getattr(F, name)(x, p, training=training) * 1

    return Case(
        run,
        [d.normal(d.shape(low, high))],
        None if training and p == 0.4 else lambda x: x * (not training or p == 0),
    )
