"""Reverse-mode automatic differentiation: the operator class, the graph it leaves behind, and the walk over
it.

An operator is told once, as a subclass of :class:`Function`: ``forward`` computes an array from arrays,
``backward`` computes the gradients of the inputs from the gradient of the output, *in differentiable operators*,
so that gradients of gradients need no code of their own. The instance of an operator is the node of the graph.
"""

from __future__ import annotations

from minidl.autograd.function import Function, install_tensor
from minidl.autograd.mode import enable_grad, is_grad_enabled, is_recomputing, no_grad, set_grad_enabled
from minidl.autograd.walk import backward, grad

__all__ = [
    "Function",
    "backward",
    "enable_grad",
    "grad",
    "install_tensor",
    "is_grad_enabled",
    "is_recomputing",
    "no_grad",
    "set_grad_enabled",
]
