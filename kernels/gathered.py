"""Optimizer steps of many parameters in one launch: what the back ends with kernels of their own share.

A network has hundreds of small parameters, and a launch for each would be mostly launching. Inside
:meth:`GatheredOptimizers.together` the steps are only noted down; at its end those that share their kernel and their
numbers are made by one launch over a table of where their arrays lie.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

from minidl.kernels import capturing
from minidl.kernels.reference import ReferenceBackend
from minidl.kernels.reference.checks import Array, expect
from minidl.kernels.reference.optim import expect_like

__all__ = ["GatheredOptimizers", "Member"]

Member: TypeAlias = tuple[Array, Array, Array | None, Array | None]
"""param, grad, and the rule's state arrays: momentum buffer; or both moments; or square average and buffer."""

Numbers: TypeAlias = tuple[float | int, ...]


class GatheredOptimizers(ReferenceBackend):
    """sgd_step, adam_step and rmsprop_step as kernels of a table of parameters; a back end defines two methods."""

    def __init__(self, xp: Any) -> None:
        super().__init__(xp)
        # Of each thread: .steps waits for the end of a block; .again makes one of them anew, while these are launched;
        # .heard takes the numbers of a step that is not to be made.
        self._gathered = threading.local()

    def _ready(self, member: Member) -> Member | None:
        """The arrays as the kernels take them, or None where they do not: the reference makes that step."""
        raise NotImplementedError(f"{type(self).__name__} does not define _ready")

    def _launch_steps(self, kernel: str, members: Sequence[Member], numbers: Numbers) -> None:
        """One step of all these parameters, of one dtype; none is empty and each is ready."""
        raise NotImplementedError(f"{type(self).__name__} does not define _launch_steps")

    @contextmanager
    def together(self, again: Callable[[], None] | None = None) -> Iterator[None]:
        """Optimizer steps in a ``with`` block are gathered, and launched at its end, those that share their numbers
        together. None is made when the block ends in an error.

        In a captured step all must share them, and ``again`` calls one of the steps anew, with its numbers of then.
        """
        if getattr(self._gathered, "steps", None) is not None:
            yield
            return
        waiting: dict[tuple[Any, ...], list[Member]] = {}
        self._gathered.steps = waiting
        try:
            yield
        finally:
            self._gathered.steps = None
        self._gathered.again = again if len(waiting) == 1 else None
        try:
            for (kernel, _, numbers), members in waiting.items():
                self._launch_steps(kernel, members, numbers)
        finally:
            self._gathered.again = None

    def _again(self) -> Callable[[], None] | None:
        """What makes one of the steps anew that are being launched."""
        return getattr(self._gathered, "again", None)

    def _heard(self, again: Callable[[], None]) -> Numbers:
        """The numbers of the step that ``again`` would make."""
        heard: list[Numbers] = []
        self._gathered.heard = heard
        try:
            again()
        finally:
            self._gathered.heard = None
        return heard[0]

    def _step(self, kernel: str, member: Member, numbers: Numbers, reference: Callable[[], None]) -> None:
        """Make the step now or, inside ``together``, at its end; ``reference`` makes the others."""
        param = member[0]
        heard = getattr(self._gathered, "heard", None)
        if heard is not None:
            heard.append(numbers)
            return
        if not param.size:
            return
        ready = self._ready(member)
        if ready is None:
            capturing.refuse(
                f"{kernel} of a {param.dtype} parameter", "its step is no kernel's; keep it in float32"
            )
            reference()
            return
        waiting = getattr(self._gathered, "steps", None)
        if waiting is None:
            self._launch_steps(kernel, [ready], numbers)
        else:
            waiting.setdefault((kernel, param.dtype, numbers), []).append(ready)

    def sgd_step(
        self,
        param: Array,
        grad: Array,
        momentum_buf: Array | None,
        lr: float,
        momentum: float,
        dampening: float,
        weight_decay: float,
        nesterov: bool,
    ) -> None:
        """Stochastic gradient descent, see the reference.

        Numbers: lr, momentum, 1 - dampening, weight_decay, nesterov, whether there is a buffer.
        """
        expect_like("sgd_step", param, grad=grad, momentum_buf=momentum_buf)
        heavy = momentum_buf is not None
        numbers = (lr, momentum, 1 - dampening, weight_decay, int(nesterov), int(heavy))
        self._step(
            "sgd",
            (param, grad, momentum_buf, None),
            numbers,
            lambda: super(GatheredOptimizers, self).sgd_step(
                param, grad, momentum_buf, lr, momentum, dampening, weight_decay, nesterov
            ),
        )

    def adam_step(
        self,
        param: Array,
        grad: Array,
        m: Array,
        v: Array,
        step: int,
        lr: float,
        beta1: float,
        beta2: float,
        eps: float,
        weight_decay: float,
        decoupled: bool,
    ) -> None:
        """Adam, or AdamW when decoupled, see the reference.

        Numbers: lr / (1 - beta1^step), 1 / sqrt(1 - beta2^step), 1 - beta1, beta2, 1 - beta2, eps, the decay in the
        gradient, the factor that shrinks the parameter.
        """
        expect(step >= 1, "adam_step", f"step expects at least 1, got {step}")
        expect_like("adam_step", param, grad=grad, m=m, v=v)
        numbers = (
            lr / (1 - beta1**step),
            1 / math.sqrt(1 - beta2**step),
            1 - beta1,
            beta2,
            1 - beta2,
            eps,
            0.0 if decoupled else weight_decay,
            1 - lr * weight_decay if decoupled else 1.0,
        )
        self._step(
            "adam",
            (param, grad, m, v),
            numbers,
            lambda: super(GatheredOptimizers, self).adam_step(
                param, grad, m, v, step, lr, beta1, beta2, eps, weight_decay, decoupled
            ),
        )

    def rmsprop_step(
        self,
        param: Array,
        grad: Array,
        square_avg: Array,
        momentum_buf: Array | None,
        lr: float,
        alpha: float,
        eps: float,
        weight_decay: float,
        momentum: float,
    ) -> None:
        """RMSprop, see the reference.

        Numbers: lr, alpha, 1 - alpha, eps, weight_decay, momentum, whether there is a buffer.
        """
        expect_like("rmsprop_step", param, grad=grad, square_avg=square_avg, momentum_buf=momentum_buf)
        numbers = (lr, alpha, 1 - alpha, eps, weight_decay, momentum, int(momentum_buf is not None))
        self._step(
            "rmsprop",
            (param, grad, square_avg, momentum_buf),
            numbers,
            lambda: super(GatheredOptimizers, self).rmsprop_step(
                param, grad, square_avg, momentum_buf, lr, alpha, eps, weight_decay, momentum
            ),
        )
