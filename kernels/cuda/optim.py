"""Optimizer steps, launched: all parameters of a group in one launch."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import numpy as np

from minidl.kernels.cuda.device import Device, blocks
from minidl.kernels.cuda.launch import operand
from minidl.kernels.reference import ReferenceBackend
from minidl.kernels.reference.checks import Array, expect
from minidl.kernels.reference.optim import expect_like

ENTRY = np.dtype([(name, "i8") for name in ("param", "state0", "state1", "grad", "count", "first_block")])
PER_BLOCK = 1024
"""Elements of a block (optim.cu)."""
MOST = 72
"""Parameters of one launch: their table is an argument of the kernel."""
TABLE = np.dtype((np.void, MOST * ENTRY.itemsize))
Member: TypeAlias = tuple[Array, Array, Array | None, Array | None]
"""param, grad, and the rule's state arrays."""


def flat(device: Device, member: Member) -> Member | None:
    """The arrays in an order of axes in which param and state are C-contiguous, the gradient brought to that order.

    None where there is no such order, or where a dtype is not float32.
    """
    param, grad, *state = member
    order = sorted(range(param.ndim), key=lambda axis: (-abs(param.strides[axis]), axis))
    turned = [None if a is None else a.transpose(order) for a in (param, *state)]
    if any(a is not None and not (a.flags.c_contiguous and a.dtype == np.float32) for a in turned):
        return None
    if grad.dtype != np.float32:
        return None
    assert turned[0] is not None
    return turned[0], operand(device, grad.transpose(order)), turned[1], turned[2]


class OptimMixin(ReferenceBackend):
    """sgd_step, adam_step and rmsprop_step, each also for a list of parameters in one launch."""

    device: Device

    def __init__(self, xp: Any) -> None:
        super().__init__(xp)
        self._gathered = threading.local()  # .steps: what waits for the end of a block in this thread

    @contextmanager
    def together(self) -> Iterator[None]:
        """Optimizer steps in a ``with`` block are gathered, and launched at its end, those that share their numbers
        together. None is made when the block ends in an error."""
        if getattr(self._gathered, "steps", None) is not None:
            yield
            return
        waiting: dict[tuple[Any, ...], list[Member]] = {}
        self._gathered.steps = waiting
        try:
            yield
        finally:
            self._gathered.steps = None
        for (kernel, *numbers), members in waiting.items():
            self._step(kernel, members, tuple(numbers))

    def _step(self, kernel: str, members: Sequence[Member], numbers: tuple[float | int, ...]) -> None:
        """Launch ``kernel`` over these parameters; none is empty and each is flat."""
        waiting = getattr(self._gathered, "steps", None)
        if waiting is not None:
            waiting.setdefault((kernel, *numbers), []).extend(members)
            return
        device = self.device
        for start in range(0, len(members), MOST):
            part, first = members[start : start + MOST], 0
            table = np.zeros(MOST, ENTRY)
            for i, (param, grad, *state) in enumerate(part):
                places = [0 if a is None else device.address(a) for a in (param, *state, grad)]
                table[i] = (*places, param.size, first)
                first += blocks(param.size, PER_BLOCK)
            args = (table.view(TABLE)[0], len(part), *numbers)
            device.launch(device.compile("optim.cu")[kernel], first, 256, args)

    def _each(
        self,
        kernel: str,
        members: Sequence[Member],
        numbers: tuple[float | int, ...],
        reference: Callable[[Member], None],
    ) -> None:
        """One launch for the parameters that the kernel takes, ``reference`` for each of the others."""
        ready = []
        for member in members:
            if not member[0].size:
                continue
            same = flat(self.device, member)
            if same is None:
                reference(member)
            else:
                ready.append(same)
        self._step(kernel, ready, numbers)

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
        """Stochastic gradient descent, see the reference."""
        self.sgd_steps([param], [grad], [momentum_buf], lr, momentum, dampening, weight_decay, nesterov)

    def sgd_steps(
        self,
        params: Sequence[Array],
        grads: Sequence[Array],
        momentum_bufs: Sequence[Array | None],
        lr: float,
        momentum: float,
        dampening: float,
        weight_decay: float,
        nesterov: bool,
    ) -> None:
        """``sgd_step`` for each parameter, in one launch."""
        members: list[Member] = []
        for param, grad, buf in zip(params, grads, momentum_bufs, strict=True):
            expect_like("sgd_step", param, grad=grad, momentum_buf=buf)
            members.append((param, grad, buf, None))
        settings = (lr, momentum, dampening, weight_decay, nesterov)
        step = super().sgd_step
        self._each(
            "sgd",
            members,
            (lr, momentum, 1 - dampening, weight_decay, int(nesterov)),
            lambda m: step(m[0], m[1], m[2], *settings),
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
        """Adam, or AdamW when decoupled, see the reference."""
        self.adam_steps([param], [grad], [m], [v], step, lr, beta1, beta2, eps, weight_decay, decoupled)

    def adam_steps(
        self,
        params: Sequence[Array],
        grads: Sequence[Array],
        ms: Sequence[Array],
        vs: Sequence[Array],
        step: int,
        lr: float,
        beta1: float,
        beta2: float,
        eps: float,
        weight_decay: float,
        decoupled: bool,
    ) -> None:
        """``adam_step`` for each parameter, all at the same step, in one launch."""
        expect(step >= 1, "adam_step", f"step expects at least 1, got {step}")
        members: list[Member] = []
        for param, grad, m, v in zip(params, grads, ms, vs, strict=True):
            expect_like("adam_step", param, grad=grad, m=m, v=v)
            members.append((param, grad, m, v))
        reference = super().adam_step
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

        def alone(member: Member) -> None:
            param, grad, m, v = member
            assert m is not None and v is not None
            reference(param, grad, m, v, step, lr, beta1, beta2, eps, weight_decay, decoupled)

        self._each("adam", members, numbers, alone)

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
        """RMSprop, see the reference."""
        self.rmsprop_steps(
            [param], [grad], [square_avg], [momentum_buf], lr, alpha, eps, weight_decay, momentum
        )

    def rmsprop_steps(
        self,
        params: Sequence[Array],
        grads: Sequence[Array],
        square_avgs: Sequence[Array],
        momentum_bufs: Sequence[Array | None],
        lr: float,
        alpha: float,
        eps: float,
        weight_decay: float,
        momentum: float,
    ) -> None:
        """``rmsprop_step`` for each parameter, in one launch."""
        members: list[Member] = []
        for param, grad, square, buf in zip(params, grads, square_avgs, momentum_bufs, strict=True):
            expect_like("rmsprop_step", param, grad=grad, square_avg=square, momentum_buf=buf)
            members.append((param, grad, square, buf))
        reference = super().rmsprop_step
        numbers = (lr, alpha, 1 - alpha, eps, weight_decay, momentum)

        def alone(member: Member) -> None:
            param, grad, square, buf = member
            assert square is not None
            reference(param, grad, square, buf, lr, alpha, eps, weight_decay, momentum)

        self._each("rmsprop", members, numbers, alone)
