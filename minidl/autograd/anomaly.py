"""Anomaly mode: the first NaN is reported where it is made, forward or backward, with the caller's line."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from minidl.autograd.mode import Setting

if TYPE_CHECKING:
    from minidl.autograd.function import Function
    from minidl.tensor import Tensor

__all__ = ["AnomalyError", "detect_anomaly"]

_PACKAGE = Path(__file__).resolve().parents[1]
_OWN = tuple(str(p.resolve()) for p in (_PACKAGE, _PACKAGE / "kernels", _PACKAGE / "models"))


class AnomalyError(RuntimeError):
    """An operator made a NaN out of numbers; the message names it and the line that called it."""


class detect_anomaly(Setting):
    """Context manager and decorator: stop at the first operator that makes a NaN.

    Inside, every operator's result is looked at, and every gradient; each node remembers the line of the
    caller's code that made it. An operator whose inputs hold NaN already is not to blame. Slow: for finding an
    error, not for training.

    >>> import minidl
    >>> with minidl.detect_anomaly():
    ...     x = minidl.zeros(3, requires_grad=True)
    ...     (x.sqrt() * 0).sum().backward()
    Traceback (most recent call last):
        ...
    minidl.autograd.anomaly.AnomalyError: ...

    Args:
        check_inf: report infinities as well.
    """

    def __init__(self, check_inf: bool = False) -> None:
        super().__init__("watch", Watch(check_inf))


class Watch:
    """What operators and the walk call while :class:`detect_anomaly` is active."""

    def __init__(self, check_inf: bool) -> None:
        self.check_inf = check_inf
        self._differentiating: list[Function] = []

    def forward(self, node: Function, inputs: Sequence[Tensor | None], data: Any) -> None:
        """Remember where ``node`` was made; raise if its result has a NaN that its inputs have not."""
        node.made_at = self._place()
        if self._bad(data) and not any(t is not None and self._bad(t.data) for t in inputs):
            shapes = ", ".join(str(tuple(t.shape)) for t in inputs if t is not None)
            raise AnomalyError(
                f"{node.name} made {self._what(data)} from inputs of shape {shapes} without any; "
                f"called at {node.made_at}"
            )

    def enter_backward(self, node: Function) -> None:
        """The walk calls ``node.backward`` next: operators made inside belong to its gradient."""
        self._differentiating.append(node)

    def leave_backward(self, node: Function, grad: Tensor, grads: Sequence[Tensor | None] | None) -> None:
        """Raise if ``node.backward`` made a NaN from a gradient without one. ``grads`` is None on errors."""
        self._differentiating.pop()
        if grads is None or self._bad(grad.data):
            return
        for i, g in enumerate(grads):
            if g is not None and self._bad(g.data):
                made_at = node.made_at or "a line outside of detect_anomaly()"
                raise AnomalyError(
                    f"{node.name}.backward made {self._what(g.data)} in the gradient of input {i}; "
                    f"the operator was called at {made_at}"
                )

    def _place(self) -> str:
        place = _caller()
        if self._differentiating:
            node = self._differentiating[-1]
            place += (
                f", in the gradient of {node.name}, which was called at {node.made_at or 'an earlier line'}"
            )
        return place

    def _bad(self, data: Any) -> bool:
        if not np.issubdtype(data.dtype, np.inexact) and data.dtype.kind != "V":
            return False
        return not np.isfinite(data).all() if self.check_inf else bool(np.isnan(data).any())

    def _what(self, data: Any) -> str:
        bad = ~np.isfinite(data) if self.check_inf else np.isnan(data)
        first = tuple(int(i) for i in np.argwhere(bad)[0])
        name = "NaN" if np.isnan(data).any() else "infinity"
        return f"{name} ({int(bad.sum())} of {data.size} elements, the first at {first})"


def _caller() -> str:
    """File, line and function of the innermost frame outside of the library, with the text of the line."""
    import linecache

    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_OWN):
        frame = frame.f_back
    code, line = frame.f_code, frame.f_lineno
    text = linecache.getline(code.co_filename, line).strip()
    return f"{code.co_filename}:{line} in {code.co_name}" + (f": {text}" if text else "")
