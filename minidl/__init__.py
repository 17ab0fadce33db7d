"""minidl: a deep learning engine written from scratch in Python.

>>> import minidl
>>> x = minidl.randn(2, 3, requires_grad=True)
>>> (x * x).sum().backward()
>>> x.grad.shape
(2, 3)

Numba, CuPy and Pillow are imported by the first call that needs them, not here.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from minidl import ops, random
from minidl.autograd import Function, enable_grad, grad, is_grad_enabled, no_grad, set_grad_enabled
from minidl.creation import arange, full, ones, ones_like, randn, tensor, zeros, zeros_like
from minidl.ops import cat, clamp, log_softmax, logsumexp, matmul, maximum, softmax, stack, where
from minidl.random import manual_seed
from minidl.tensor import Parameter, Tensor

__version__ = "0.1.0"

if TYPE_CHECKING:
    from minidl import data, kernels, models, nn, optim, training, weights
    from minidl.gradcheck import gradcheck
    from minidl.kernels import get_num_threads, memory_stats, set_num_threads

_SUBMODULES = {"data", "kernels", "models", "nn", "optim", "training", "weights"}
_ELSEWHERE = {
    "gradcheck": "minidl.gradcheck",
    "set_num_threads": "minidl.kernels",
    "get_num_threads": "minidl.kernels",
    "memory_stats": "minidl.kernels",
}

__all__ = [
    "Function",
    "Parameter",
    "Tensor",
    "arange",
    "cat",
    "clamp",
    "data",
    "enable_grad",
    "full",
    "get_num_threads",
    "grad",
    "gradcheck",
    "is_grad_enabled",
    "kernels",
    "log_softmax",
    "logsumexp",
    "manual_seed",
    "matmul",
    "maximum",
    "memory_stats",
    "models",
    "nn",
    "no_grad",
    "ones",
    "ones_like",
    "ops",
    "optim",
    "randn",
    "random",
    "set_grad_enabled",
    "set_num_threads",
    "softmax",
    "stack",
    "tensor",
    "training",
    "weights",
    "where",
    "zeros",
    "zeros_like",
]


def __getattr__(name: str) -> Any:
    """Sub-packages are imported when they are first named, so that ``import minidl`` stays quick."""
    if name in _SUBMODULES:
        return importlib.import_module(f"minidl.{name}")
    if name in _ELSEWHERE:
        return getattr(importlib.import_module(_ELSEWHERE[name]), name)
    raise AttributeError(f"module 'minidl' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
