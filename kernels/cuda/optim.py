"""Optimizer steps, launched: all parameters of a group in one launch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from minidl.kernels import capturing
from minidl.kernels.cuda.device import Device, blocks
from minidl.kernels.cuda.launch import operand
from minidl.kernels.gathered import GatheredOptimizers, Member, Numbers
from minidl.kernels.reference.checks import Array

ENTRY = np.dtype([(name, "i8") for name in ("param", "state0", "state1", "grad", "count", "first_block")])
PER_BLOCK = 1024
"""Elements of a block (optim.cu)."""
MOST = 72
"""Parameters of one launch: their table is an argument of the kernel."""
TABLE = np.dtype((np.void, MOST * ENTRY.itemsize))
LIVE = {"sgd": 4, "adam": 8, "rmsprop": 6}
"""How many of a rule's numbers, the first ones, may change from step to step."""
SWITCHES = {"sgd": 1, "adam": 0, "rmsprop": 1}
"""Numbers at the end that say whether there is a buffer: here a null address does."""


class OptimMixin(GatheredOptimizers):
    """sgd_step, adam_step and rmsprop_step of float32 parameters."""

    device: Device

    def _ready(self, member: Member) -> Member | None:
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
        return turned[0], operand(self.device, grad.transpose(order)), turned[1], turned[2]

    def _launch_steps(self, kernel: str, members: Sequence[Member], numbers: Numbers) -> None:
        device, live = self.device, self._live(kernel)
        numbers = numbers[: len(numbers) - SWITCHES[kernel]]
        for start in range(0, len(members), MOST):
            part, first = members[start : start + MOST], 0
            table = np.zeros(MOST, ENTRY)
            for i, (param, grad, *state) in enumerate(part):
                places = [0 if a is None else device.address(a) for a in (param, *state, grad)]
                table[i] = (*places, param.size, first)
                first += blocks(param.size, PER_BLOCK)
            args = (table.view(TABLE)[0], len(part), live, *numbers)
            device.launch(device.compile("optim.cu")[kernel], first, 256, args)

    def _live(self, kernel: str) -> Array | None:
        """In a captured step, where the kernel finds the numbers of the rule, as they are before each replay."""
        capture, again = capturing.active(), self._again()
        if capture is None:
            return None
        if again is None:
            capturing.refuse(f"{kernel}: a step whose numbers would never change", "call Optimizer.step()")
            return None
        return capture.feed(lambda: np.array(self._heard(again)[: LIVE[kernel]], np.float32))
