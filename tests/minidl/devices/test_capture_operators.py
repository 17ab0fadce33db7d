"""Every operator of the table inside a captured step: replayed on other numbers, it gives what it gives without."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import minidl
from minidl import CaptureError, Tensor
from minidl.creation import default_device
from minidl.nn import functional as F
from minidl.testing.cases import TABLE

READ = {"getitem_mask", "masked_select", "repeat_interleave_counts"}
"""The shapes of these results depend on values, which a captured step cannot read."""


def step(entry: Any, device: str, gradients: bool) -> Callable[..., list[Tensor]]:
    """The entry's output, and the gradients of the weighted sum of its elements."""

    def run(*given: Tensor) -> list[Tensor]:
        tensors = [t.detach().requires_grad_(gradients) for t in given]
        with default_device(device):
            y = entry.function(minidl, F, *tensors)
        if not y.requires_grad:
            return [y]
        weights = Tensor(entry.output_weights(y.shape).astype(y.dtype)).to(device)
        found = minidl.grad((y * weights).sum(), tensors, allow_unused=True)
        return [y.detach(), *[g for g in found if g is not None]]

    return run


def replayed(entry: Any, device: str, gradients: bool) -> tuple[bool, bool]:
    """Whether the step was captured, and whether on other inputs it gives what the step itself gives."""
    first = entry.inputs(np.float32)
    arrays = [np.roll(a, 1, axis=-1) if a.ndim else a for a in first]
    run = step(entry, device, gradients)
    captured = minidl.compile_step(run, device=device, warmup=1)
    for _ in range(2):
        captured(*[Tensor(a).to(device) for a in first])
    inputs = [Tensor(a).to(device) for a in arrays]
    found, expected = captured(*inputs), run(*inputs)
    return captured.captures == 1, all(
        np.array_equal(a.cpu().numpy(), b.cpu().numpy(), equal_nan=True)
        for a, b in zip(found, expected, strict=True)
    )


def test_every_operator_of_the_table_is_captured(device: str) -> None:
    wrong, refused = [], set()
    for entry in TABLE:
        try:
            if replayed(entry, device, gradients=True) != (True, True):
                wrong.append(entry.name)
        except CaptureError as error:
            assert "its result's shape depends on them" in str(error) or "a copy to main memory" in str(error)
            refused.add(entry.name)
    assert wrong == []
    interpolations = {name for name in refused if name.startswith("interpolate_")}  # in their gradients
    assert refused - interpolations == READ
    entries = [entry for entry in TABLE if entry.name in interpolations]
    assert {replayed(entry, device, gradients=False) for entry in entries} == {(True, True)}


@pytest.mark.filterwarnings("ignore:compile_step")  # what is not captured is called
def test_on_the_cpu_the_forward_pass_of_every_operator_is_right_captured_or_not() -> None:
    found = {entry.name: replayed(entry, "cpu", gradients=False) for entry in TABLE}
    assert [name for name, (_, right) in found.items() if not right] == []
    assert all(captured for name, (captured, _) in found.items() if name.startswith("interpolate_"))
