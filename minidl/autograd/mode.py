"""What a thread does with the operators it calls: record them or not, watch them for NaN or not."""

from __future__ import annotations

import threading
import weakref
from contextlib import ContextDecorator
from copy import copy
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from minidl.autograd.anomaly import Watch
    from minidl.tensor import Tensor

__all__ = [
    "Setting",
    "deferring",
    "enable_grad",
    "is_grad_enabled",
    "is_recomputing",
    "no_grad",
    "set_grad_enabled",
    "settle",
]


class _Mode(threading.local):
    enabled: bool = True
    recomputing: bool = False
    watch: Watch | None = None
    witness: Any = None  # a minidl.replays.Witness, while a step is recorded in main memory
    autocast: Any = None  # the 16-bit dtype of minidl.autocast
    deferring: bool = False  # inside a module's call or a walk: see minidl.ops.deferred

    def __init__(self) -> None:
        self.pending: list[weakref.ref[Tensor]] = []


mode = _Mode()
"""The calling thread's settings; each thread starts with recording on."""


def is_grad_enabled() -> bool:
    """Whether operators called by this thread are recorded for backward."""
    return mode.enabled


def is_recomputing() -> bool:
    """Whether this thread is computing a checkpointed function again for its gradient.

    What moves at each forward pass (running statistics) asks here, so that it moves once.
    """
    return mode.recomputing


class Setting(ContextDecorator):
    """Context manager and decorator: inside, one of the thread's settings has another value."""

    def __init__(self, name: str, value: Any) -> None:
        self._name, self._value = name, value
        self._outer: list[Any] = []

    def _recreate_cm(self) -> Self:
        """A decorated function enters a fresh one at each call: several threads may be in it at once."""
        fresh = copy(self)
        fresh._outer = []
        return fresh

    def __enter__(self) -> None:
        self._outer.append(getattr(mode, self._name))
        setattr(mode, self._name, self._value)

    def __exit__(self, *_: object) -> None:
        setattr(mode, self._name, self._outer.pop())


class set_grad_enabled(Setting):
    """Context manager and decorator: record operators (``True``) or not, in this thread."""

    def __init__(self, enabled: bool) -> None:
        super().__init__("enabled", bool(enabled))


class no_grad(set_grad_enabled):
    """Context manager and decorator: operators inside leave no graph (and hold no memory for it)."""

    def __init__(self) -> None:
        super().__init__(False)


class enable_grad(set_grad_enabled):
    """Context manager and decorator: records again inside a :class:`no_grad`."""

    def __init__(self) -> None:
        super().__init__(True)


class deferring:
    """Context manager: operators may put off their work until the outermost such block ends."""

    def __enter__(self) -> None:
        self._outer = mode.deferring
        mode.deferring = True

    def __exit__(self, *_: object) -> None:
        mode.deferring = self._outer
        if not self._outer:
            settle()


def settle() -> None:
    """Compute what this thread has put off and somebody still holds."""
    pending = mode.pending
    while pending:
        t = pending.pop()()  # the last first: those before it may be parts of it
        if t is not None:
            t.data  # noqa: B018 - looking at it computes it
        del t


def without_autocast() -> Setting:
    """Operators inside keep the dtypes of their inputs: gradients have those of the forward pass already."""
    return Setting("autocast", None)
