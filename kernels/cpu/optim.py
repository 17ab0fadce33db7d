"""Optimizer steps: every array is read and written once, in place, all parameters of a group in one launch.

A kernel gets a table of addresses. Its threads share the elements of all parameters, one after the other; each element
is computed on its own, so the split changes nothing. Numbers are rounded to the parameter's type first, as in PyTorch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from minidl.kernels.cpu.compiler import jit
from minidl.kernels.cpu.layout import dense, elements, supported
from minidl.kernels.cpu.runtime import Kernel, kernel, launch, share
from minidl.kernels.gathered import GatheredOptimizers, Member, Numbers

# Columns of the table: addresses of param, grad and the two states, and how many elements lie before the parameter.
PARAM, GRAD, STATE0, STATE1, START = range(5)


@jit(inline="always")
def _bounds(table: Any, row: int, part: int, parts: int) -> tuple[int, int]:
    """The elements of a parameter that belong to a part."""
    first, last = share(table[-1, START], part, parts)
    start, end = table[row, START], table[row + 1, START]
    return max(first, start) - start, min(last, end) - start


@kernel
def _sgd(
    table: Any,
    like: Any,
    lr: Any,
    momentum: Any,
    keep: Any,
    decay: Any,
    nesterov: Any,
    heavy: Any,
    part: Any,
    parts: Any,
) -> None:
    """keep = 1 - dampening; heavy: there is a momentum buffer, the first state."""
    for row in range(table.shape[0] - 1):
        first, last = _bounds(table, row, part, parts)
        if first >= last:
            continue
        p, g = elements(table[row, PARAM], first, last, like), elements(table[row, GRAD], first, last, like)
        m = elements(table[row, STATE0], first, last, like)
        for i in range(last - first):
            d = g[i] + decay * p[i]
            if heavy:
                m[i] = momentum * m[i] + keep * d
                d = d + momentum * m[i] if nesterov else m[i]
            p[i] -= lr * d


@kernel
def _adam(
    table: Any,
    like: Any,
    rate: Any,
    scale: Any,
    keep1: Any,
    beta2: Any,
    keep2: Any,
    eps: Any,
    decay: Any,
    shrink: Any,
    part: Any,
    parts: Any,
) -> None:
    """rate = lr / (1 - beta1^step), scale = 1 / sqrt(1 - beta2^step), shrink = 1 - lr * decay for AdamW, else 1."""
    for row in range(table.shape[0] - 1):
        first, last = _bounds(table, row, part, parts)
        if first >= last:
            continue
        p, g = elements(table[row, PARAM], first, last, like), elements(table[row, GRAD], first, last, like)
        m, v = (
            elements(table[row, STATE0], first, last, like),
            elements(table[row, STATE1], first, last, like),
        )
        for i in range(last - first):
            w = shrink * p[i]
            d = g[i] + decay * w
            m[i] += keep1 * (d - m[i])
            v[i] = beta2 * v[i] + keep2 * (d * d)
            p[i] = w - rate * (m[i] / (np.sqrt(v[i]) * scale + eps))


@kernel
def _rmsprop(
    table: Any,
    like: Any,
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
    """keep = 1 - alpha; heavy: there is a momentum buffer, the second state."""
    for row in range(table.shape[0] - 1):
        first, last = _bounds(table, row, part, parts)
        if first >= last:
            continue
        p, g = elements(table[row, PARAM], first, last, like), elements(table[row, GRAD], first, last, like)
        s, m = (
            elements(table[row, STATE0], first, last, like),
            elements(table[row, STATE1], first, last, like),
        )
        for i in range(last - first):
            d = g[i] + decay * p[i]
            s[i] = alpha * s[i] + keep * (d * d)
            d = d / (np.sqrt(s[i]) + eps)
            if heavy:
                m[i] = momentum * m[i] + d
                d = m[i]
            p[i] -= lr * d


@jit
def _enter(table: Any, row: int, param: Any, grad: Any, state0: Any, state1: Any) -> None:
    """Write a parameter's row, and where the next one starts."""
    table[row, PARAM] = param.ctypes.data
    table[row, GRAD] = grad.ctypes.data
    table[row, STATE0] = state0.ctypes.data
    table[row, STATE1] = state1.ctypes.data
    table[row + 1, START] = table[row, START] + param.size


# Name of a rule: its kernel, and how many of its numbers at the end are switches.
RULES: dict[str, tuple[Kernel, int]] = {"sgd": (_sgd, 2), "adam": (_adam, 0), "rmsprop": (_rmsprop, 1)}


class OptimMixin(GatheredOptimizers):
    """Optimizer steps for C-contiguous float32 and float64 parameters; the rest goes to the reference."""

    def _ready(self, member: Member) -> Member | None:
        """Flat views, of a copy where the gradient has another layout."""
        param, grad, *states = member
        if not supported(param, grad, *states):
            return None
        for written in (param, *states):
            if written is not None and not (written.flags.c_contiguous and written.flags.aligned):
                return None
        first, second = (None if state is None else state.reshape(-1) for state in states)
        return param.reshape(-1), dense(grad).reshape(-1), first, second

    def _launch_steps(self, kernel: str, members: Sequence[Member], numbers: Numbers) -> None:
        rule, switches = RULES[kernel]
        dtype = members[0][0].dtype
        table = np.zeros((len(members) + 1, 5), np.int64)
        for row, (param, grad, state0, state1) in enumerate(members):
            _enter(
                *(table, row, param, grad),
                param if state0 is None else state0,
                param if state1 is None else state1,
            )
        cut = len(numbers) - switches
        values = [dtype.type(number) for number in numbers[:cut]]
        flags = [bool(number) for number in numbers[cut:]]
        launch(rule, table, np.empty(0, dtype), *values, *flags, work=float(table[-1, START]))
