"""Derivatives of functions: products with the Jacobian from either side, the Jacobian, the Hessian.

All are built of :func:`minidl.grad`. A product J v from the right has no direct form in reverse mode; it is the
gradient of the gradient: with g(u) = J^T u, which is linear in u, J v = d<g(u), v>/du (the "double-backwards
trick", J. Townsend 2017).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from minidl import ops
from minidl.autograd import enable_grad, grad
from minidl.tensor import Tensor

__all__ = ["hessian", "hvp", "jacobian", "jvp", "vjp"]


def vjp(
    function: Callable[..., Any], inputs: Any, vectors: Any = None, create_graph: bool = False
) -> tuple[Any, Any]:
    """Value, and vector-Jacobian product u^T J, one walk back.

    Args:
        function: of tensors, returns a tensor or a tuple of tensors.
        inputs: a tensor or a tuple of them, the point.
        vectors: u, of the outputs' shapes; may be left out for an output of one element.
        create_graph: record the product, to differentiate it (by ``inputs`` that require a gradient).

    Returns:
        (function(*inputs), product): the product has the structure and shapes of ``inputs``, zeros where the
        function does not depend on one.
    """
    points, single = _points("vjp", inputs, create_graph)
    with enable_grad():
        outputs = _outputs("vjp", function(*points))
        active = [i for i, t in enumerate(outputs) if t.requires_grad]
        us = _vectors("vjp", vectors, outputs, "outputs")
        product = _grad([outputs[i] for i in active], points, [us[i] for i in active], create_graph)
    return _value(outputs, create_graph), product[0] if single else tuple(product)


def jvp(
    function: Callable[..., Any], inputs: Any, vectors: Any = None, create_graph: bool = False
) -> tuple[Any, Any]:
    """Value, and Jacobian-vector product J v: the derivative along ``vectors``, two walks back.

    Args:
        function, create_graph: see :func:`vjp`.
        inputs: a tensor or a tuple of them, the point.
        vectors: v, of the inputs' shapes; may be left out for an input of one element.

    Returns:
        (function(*inputs), product): the product has the structure and shapes of the outputs.
    """
    points, _ = _points("jvp", inputs, create_graph)
    vs = _vectors("jvp", vectors, points, "inputs")
    with enable_grad():
        outputs = _outputs("jvp", function(*points))
        active = [i for i, t in enumerate(outputs) if t.requires_grad]
        us = [_tensor(np.zeros(outputs[i].shape, outputs[i].dtype)).requires_grad_() for i in active]
        pulled = _grad([outputs[i] for i in active], points, us, create_graph=True)  # J^T u
        used = [i for i, g in enumerate(pulled) if g.requires_grad]
        found = _grad([pulled[i] for i in used], us, [vs[i] for i in used], create_graph)
    product = [_tensor(np.zeros(t.shape, t.dtype)) for t in outputs]
    for i, g in zip(active, found, strict=True):
        product[i] = g
    return _value(outputs, create_graph), product[0] if len(product) == 1 else tuple(product)


def jacobian(function: Callable[..., Any], inputs: Any, create_graph: bool = False) -> Any:
    """All first derivatives, one walk back for each element of the output.

    Args:
        function, inputs, create_graph: see :func:`vjp`; ``function`` returns one tensor.

    Returns:
        For each input a tensor of shape (*output.shape, *input.shape).
    """
    points, single = _points("jacobian", inputs, create_graph)
    with enable_grad():
        outputs = _outputs("jacobian", function(*points))
        if len(outputs) != 1:
            raise TypeError(f"jacobian: function expects to return one tensor, got {len(outputs)}")
        y = outputs[0]
        rows: list[list[Tensor]] = []
        for i in range(y.size if y.requires_grad else 0):
            one = np.zeros(y.shape, y.dtype)
            one.reshape(-1)[i] = 1
            rows.append(_grad([y], points, [_tensor(one)], create_graph, retain=True))
        result = [_rows([row[k] for row in rows], (*y.shape, *x.shape), x) for k, x in enumerate(points)]
    return result[0] if single else tuple(result)


def hessian(function: Callable[..., Any], inputs: Any, create_graph: bool = False) -> Any:
    """All second derivatives of a function with one output element.

    Returns:
        A tensor of shape (*input.shape, *input.shape); for a tuple of inputs a tuple of tuples, [i][j] of shape
        (*input_i.shape, *input_j.shape).
    """
    points, single = _points("hessian", inputs, create_graph)
    blocks = []
    for i in range(len(points)):

        def slope(*xs: Tensor, i: int = i) -> Tensor:
            return _gradient("hessian", function, xs)[i]

        row = jacobian(slope, tuple(points), create_graph)
        blocks.append(tuple(row))
    return blocks[0][0] if single else tuple(blocks)


def hvp(
    function: Callable[..., Any], inputs: Any, vectors: Any, create_graph: bool = False
) -> tuple[Any, Any]:
    """Value, and Hessian-vector product H v of a function with one output element, without the Hessian.

    ``vectors`` and the product have the structure and shapes of ``inputs``.
    """
    points, single = _points("hvp", inputs, create_graph)
    vs = _vectors("hvp", vectors, points, "inputs")
    with enable_grad():
        value = _outputs("hvp", function(*points))[0]
        slopes = _gradient("hvp", lambda *_: value, points)
        used = [i for i, g in enumerate(slopes) if g.requires_grad]
        product = _grad([slopes[i] for i in used], points, [vs[i] for i in used], create_graph)
    return _value((value,), create_graph), product[0] if single else tuple(product)


def _gradient(name: str, function: Callable[..., Any], xs: Sequence[Tensor]) -> list[Tensor]:
    """The gradient of a scalar function, recorded."""
    outputs = _outputs(name, function(*xs))
    if len(outputs) != 1 or outputs[0].size != 1:
        shapes = ", ".join(str(t.shape) for t in outputs)
        raise ValueError(f"{name}: function expects to return one element, got shape {shapes}")
    y = outputs[0]
    return _grad([y], xs, [_tensor(np.ones(y.shape, y.dtype))], create_graph=True)


def _grad(
    outputs: Sequence[Tensor],
    inputs: Sequence[Tensor],
    vectors: Sequence[Tensor],
    create_graph: bool,
    retain: bool | None = None,
) -> list[Tensor]:
    """:func:`minidl.grad` with zeros for what is not used."""
    pairs = [(o, v) for o, v in zip(outputs, vectors, strict=True) if o.requires_grad]
    found: Sequence[Any] = [None] * len(inputs)
    if pairs:
        outs, us = zip(*pairs, strict=True)
        found = grad(outs, inputs, us, retain_graph=retain, create_graph=create_graph, allow_unused=True)
    return [
        _tensor(np.zeros(x.shape, x.dtype)) if g is None else g for x, g in zip(inputs, found, strict=True)
    ]


def _points(name: str, inputs: Any, create_graph: bool) -> tuple[list[Tensor], bool]:
    """The inputs as tensors that require a gradient: new leaves, or the given ones' continuation."""

    single = isinstance(inputs, Tensor)
    given = [inputs] if single else list(inputs)
    points = []
    for i, t in enumerate(given):
        if not isinstance(t, Tensor) or not np.issubdtype(t.dtype, np.floating):
            kind = f"dtype {t.dtype}" if isinstance(t, Tensor) else type(t).__name__
            raise TypeError(f"{name}: input {i} expects a floating tensor, got {kind}")
        # with create_graph the derivative stays connected to what the caller differentiates by
        points.append(t if create_graph and t.requires_grad else t.detach().requires_grad_())
    if not points:
        raise ValueError(f"{name}: inputs expects at least one tensor")
    return points, single


def _outputs(name: str, result: Any) -> tuple[Tensor, ...]:

    several = (result,) if isinstance(result, Tensor) else tuple(result)
    for t in several:
        if not isinstance(t, Tensor):
            raise TypeError(f"{name}: function expects to return tensors, got {type(t).__name__}")
    return several


def _vectors(name: str, vectors: Any, like: Sequence[Tensor], what: str) -> list[Tensor]:

    if vectors is None:
        if len(like) != 1 or like[0].size != 1:
            raise ValueError(f"{name}: vectors may be left out for {what} of one element only")
        return [_tensor(np.ones(like[0].shape, like[0].dtype))]
    given = [vectors] if isinstance(vectors, Tensor) else list(vectors)
    if [tuple(v.shape) for v in given] != [t.shape for t in like]:
        raise ValueError(
            f"{name}: vectors has shapes {[tuple(v.shape) for v in given]}, the {what} {[t.shape for t in like]}"
        )
    return given


def _value(outputs: Sequence[Tensor], connected: bool) -> Any:
    kept = tuple(t if connected else t.detach() for t in outputs)
    return kept[0] if len(kept) == 1 else kept


def _rows(rows: list[Tensor], shape: tuple[int, ...], like: Tensor) -> Tensor:

    if not rows:
        return _tensor(np.zeros(shape, like.dtype))
    return ops.stack(rows).reshape(shape)


def _tensor(array: Any) -> Tensor:

    return Tensor(array)
