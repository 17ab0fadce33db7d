"""The checks that every entry of the operator table goes through, one function each, and all of them at once."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from minidl import kernels
from minidl.autograd import grad
from minidl.creation import default_device
from minidl.kernels import devices
from minidl.tensor import Tensor
from minidl.testing.check import gradcheck, gradgradcheck

__all__ = ["CHECKS", "check", "close", "run"]


def call(entry: Any, tensors: Sequence[Tensor]) -> Tensor:
    """The entry's function on tensors."""
    import minidl
    from minidl.nn import functional as F

    y: Tensor = entry.function(minidl, F, *tensors)
    return y


def leaves(entry: Any, dtype: Any = np.float64) -> list[Tensor]:
    """The entry's inputs as tensors that require a gradient."""
    return [Tensor(a, requires_grad=True) for a in entry.inputs(dtype)]


def run(entry: Any, arrays: Sequence[np.ndarray], device: str = "cpu") -> tuple[np.ndarray, list[np.ndarray]]:
    """Output, and the gradients of the weighted sum of its elements, computed on a device.

    Raises:
        AssertionError: a gradient has another shape or dtype than its input, or something lies on another device.
    """
    with default_device(device):
        tensors = [Tensor(devices.move(a, device), requires_grad=True) for a in arrays]
        y = call(entry, tensors)
        (y * Tensor(entry.output_weights(y.shape).astype(y.dtype)).to(device)).sum().backward()
    for t in (y, *(t.grad for t in tensors if t.grad is not None)):
        if t.device != tensors[0].device:
            raise AssertionError(f"a result is on {t.device}, the inputs are on {tensors[0].device}")
    grads = []
    for i, t in enumerate(tensors):
        if t.grad is not None and (t.grad.shape != t.shape or t.grad.dtype != t.dtype):
            raise AssertionError(
                f"gradient {i} is {t.grad.shape} {t.grad.dtype}, the input {t.shape} {t.dtype}"
            )
        grads.append(np.zeros(t.shape) if t.grad is None else devices.host(t.grad.data))
    return devices.host(y.data), grads


CANCELLED = 0.1
"""Results smaller than this are measured against it: the terms of a sum are of order 1, and may cancel."""


def close(what: str, ours: np.ndarray, theirs: np.ndarray, tolerance: float) -> None:
    """Equal up to ``tolerance``, relative to each element or to the largest finite one (at least CANCELLED); NaN
    equals NaN.

    Raises:
        AssertionError: not so; the message shows the worst element.
    """
    if ours.shape != theirs.shape:
        raise AssertionError(f"{what}: shape {ours.shape}, expected {theirs.shape}")
    scale = max(float(np.abs(theirs[np.isfinite(theirs)]).max(initial=0)), CANCELLED)
    np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance * scale, err_msg=what)


def first_order(entry: Any) -> None:
    """Gradients against finite differences, in all memory layouts."""
    gradcheck(functools.partial(_spread, entry), leaves(entry), directions=2)


def second_order(entry: Any) -> None:
    """Gradients of gradients against finite differences; every input has a gradient."""
    tensors = leaves(entry)
    y = call(entry, tensors)
    tangent = Tensor(entry.output_weights(y.shape), requires_grad=True)
    found = grad(y, tensors, grad_outputs=tangent, create_graph=True, allow_unused=True)
    for i, g in enumerate(found):
        if g is None:
            raise AssertionError(f"input {i} has no gradient")
    gradgradcheck(functools.partial(_spread, entry), tensors, directions=2)


def _spread(entry: Any, *tensors: Tensor) -> Tensor:
    return call(entry, tensors)


def single_precision(entry: Any) -> None:
    """float32 stays float32 and lies close to float64."""
    y, grads = run(entry, entry.inputs(np.float32))
    exact, exact_grads = run(entry, entry.inputs())
    if y.dtype != np.float32:
        raise AssertionError(f"float32 inputs gave an output of dtype {y.dtype}")
    close("float32 output", y, exact, 1e-5)
    for i, (g, e) in enumerate(zip(grads, exact_grads, strict=True)):
        close(f"float32 gradient {i}", g, e, 2e-5)


def half_precision(entry: Any, dtype: Any) -> None:
    """A half type stays what it is, and lies as close to float64 as its rounding allows: every operator adds up in
    float32 and rounds its result.

    The tolerance is 2.5 units in the last place for the output (an entry may chain a few operators) and 4 for a
    gradient, relative to the largest element.
    """
    rounded = entry.inputs(dtype)
    y, grads = run(entry, rounded)
    exact, exact_grads = run(entry, [a.astype(np.float64) for a in rounded])
    if y.dtype != dtype:
        raise AssertionError(f"{dtype} inputs gave an output of dtype {y.dtype}")
    unit = 2.0**-10 if dtype == np.float16 else 2.0**-7
    close(f"{dtype} output", y.astype(np.float64), exact, 2.5 * unit)
    for i, (g, e) in enumerate(zip(grads, exact_grads, strict=True)):
        close(f"{dtype} gradient {i}", g.astype(np.float64), e, 4 * unit)


def float16(entry: Any) -> None:
    """See :func:`half_precision`."""
    half_precision(entry, np.dtype(np.float16))


def bfloat16(entry: Any) -> None:
    """See :func:`half_precision`; passes where the package ``ml_dtypes`` is not installed."""
    try:
        from minidl.dtypes import bfloat16 as dtype
    except ImportError:
        return
    half_precision(entry, dtype)


def adjoint(entry: Any) -> None:
    """<A d, u> = <d, A' u>: an operator that is linear in an input, whatever constant it adds, has its adjoint for a
    gradient, to the last digits. For other inputs this says nothing.
    """
    arrays = entry.inputs()
    for i in linear_inputs(entry, arrays):
        d = _step(entry, arrays[i].shape)
        y, moved = (_value(entry, arrays, i, d, k) for k in (0, 1))
        tensors = [Tensor(a, requires_grad=k == i) for k, a in enumerate(arrays)]
        u = entry.output_weights(y.shape)
        (g,) = grad(call(entry, tensors), [tensors[i]], Tensor(u), allow_unused=True)
        found = 0.0 if g is None else float(np.vdot(g.data, d))
        scale = float(np.abs((moved - y) * u).sum()) + 1e-9
        if not abs(float(np.vdot(moved - y, u)) - found) <= 1e-12 * max(scale, 1.0):
            raise AssertionError(
                f"input {i}: <A d, u> = {float(np.vdot(moved - y, u)):.17g}, <d, A' u> = {found:.17g}"
            )


def linear_inputs(entry: Any, arrays: Sequence[np.ndarray]) -> list[int]:
    """The inputs that the entry is linear in (up to a constant), by large steps along a line."""
    if not entry.smooth:
        return []
    found = []
    for i, a in enumerate(arrays):
        d = _step(entry, a.shape)
        try:
            with np.errstate(all="ignore"):
                ys = [_value(entry, arrays, i, d, k) for k in (0, 1, 2, -7)]
        except ValueError:  # the domain has an end: not linear
            continue
        if not all(np.isfinite(y).all() for y in ys) or not all(np.shape(y) == np.shape(ys[0]) for y in ys):
            continue
        scale = max(float(np.abs(ys[3]).max(initial=0)), 1e-9)
        if all(
            np.abs(ys[0] + k * (ys[1] - ys[0]) - y).max(initial=0) <= 1e-12 * scale
            for k, y in ((2, ys[2]), (-7, ys[3]))
        ):
            found.append(i)
    return found


def _step(entry: Any, shape: tuple[int, ...]) -> np.ndarray:
    """A direction of large steps."""
    return np.asarray(np.random.default_rng(entry.seed).uniform(1, 5, shape))


def _value(entry: Any, arrays: Sequence[np.ndarray], i: int, d: np.ndarray, steps: int) -> np.ndarray:
    return call(entry, [Tensor(a + steps * d if k == i else a) for k, a in enumerate(arrays)]).data


def same_as_reference(entry: Any) -> None:
    """Output and gradients equal those of the reference back end."""
    y, grads = run(entry, entry.inputs())
    with kernels.use("reference"):
        expected, expected_grads = run(entry, entry.inputs())
    close("output", y, expected, 1e-11)
    for i, (g, e) in enumerate(zip(grads, expected_grads, strict=True)):
        close(f"gradient {i}", g, e, 1e-11)


def same_on_device(entry: Any, device: str, dtype: Any = np.float32, tolerance: float = 2e-5) -> None:
    """Output and gradients on a device equal those of the CPU."""
    y, grads = run(entry, entry.inputs(dtype), device)
    expected, expected_grads = run(entry, entry.inputs(dtype))
    close("output", y, expected, tolerance)
    for i, (g, e) in enumerate(zip(grads, expected_grads, strict=True)):
        close(f"gradient {i}", g, e, tolerance)


def same_as_stored(entry: Any, stored: Mapping[str, np.ndarray]) -> None:
    """Output and gradients equal the stored ones (PyTorch's)."""
    y, grads = run(entry, entry.inputs())
    close("output", y, stored[entry.name], 1e-11)
    for i, g in enumerate(grads):
        close(f"gradient {i}", g, stored[f"{entry.name}/grad{i}"], 1e-11)


CHECKS: dict[str, Callable[[Any], None]] = {
    "gradient": first_order,
    "second order": second_order,
    "adjoint": adjoint,
    "float32": single_precision,
    "float16": float16,
    "bfloat16": bfloat16,
    "reference": same_as_reference,
}
"""Name and function of the checks that need nothing but an entry."""


def check(
    entry: Any, backend: str, stored: Mapping[str, np.ndarray] | None = None, stop: bool = False
) -> dict[str, str]:
    """Run every check on one entry and one back end.

    Args:
        entry: of the operator table.
        backend: a name of ``minidl.kernels.NAMES``.
        stored: PyTorch's results by entry name, to compare with as well.
        stop: end with the first check that fails.

    Returns:
        For each check that failed, what it said.
    """
    checks = dict(CHECKS)
    if stored is not None:
        checks = {"PyTorch": functools.partial(same_as_stored, stored=stored), **checks}
    if backend == "reference":
        del checks["reference"]
    if not entry.smooth:
        del checks["gradient"], checks["second order"], checks["adjoint"]
    failed: dict[str, str] = {}
    for name, function in checks.items():
        try:
            with kernels.use(backend), np.errstate(all="ignore"):
                function(entry)
        except Exception as error:  # whatever a wrong operator raises is a finding
            failed[name] = f"{type(error).__name__}: {error}"
            if stop:
                break
    return failed
