"""Calls on arrays of the emulated device that are recorded: a replay computes what they would compute now."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from minidl.kernels import capturing, devices
from tests.kernels.emulator.needs import emulator

pytestmark = emulator


def put(*values: float) -> Any:
    return devices.place("emulated").put(np.array(values, np.float32))


def xp() -> Any:
    return devices.place("emulated").xp


CALLS: dict[str, Callable[[Any, Any, Any], Any]] = {
    "an operator": lambda x, y, xp: x * 2,
    "a view": lambda x, y, xp: x[::-1],
    "a write through a view": lambda x, y, xp: y[1:].__iadd__(x[:2]),
    "a view by a method": lambda x, y, xp: x.reshape(3, 1),
    "an operator in place": lambda x, y, xp: x.__iadd__(1),
    "an element": lambda x, y, xp: y.__setitem__(1, x[0] * 3),
    "a function": lambda x, y, xp: np.where(x > 1, x, -x),
    "a function with out": lambda x, y, xp: np.clip(x, 0, 2, out=y),
    "a method with out": lambda x, y, xp: x.cumsum(out=y),
    "a ufunc with out": lambda x, y, xp: np.multiply(x, x, out=y),
    "a ufunc of the module with out": lambda x, y, xp: xp.multiply(x, x, out=y),
    "a ufunc of the module with out as its last argument": lambda x, y, xp: xp.multiply(x, x, y),
    "a ufunc with two results": lambda x, y, xp: np.modf(x / 2, out=(y, xp.empty_like(y))),
    "a reduction with out": lambda x, y, xp: xp.add.reduce(x, out=y[0, ...]),
    "an accumulation with out": lambda x, y, xp: np.add.accumulate(x, out=y),
    "a method in place": lambda x, y, xp: x.sort(),
    "a function in place": lambda x, y, xp: np.copyto(y, x),
    "a list of elements": lambda x, y, xp: xp.array([x[2], x[0]]),
    "a deep copy": lambda x, y, xp: copy.deepcopy(x),
}


def values(result: Any) -> Any:
    """Arrays of the device as lists, in containers too."""
    if isinstance(result, tuple):
        return [values(r) for r in result]
    return None if result is None else result.tolist()


@pytest.mark.parametrize("what", CALLS)
def test_a_replay_computes_anew(what: str) -> None:
    call = CALLS[what]
    x, y = put(2, 1, 3), put(0, 0, 0)
    capture = capturing.Capture(devices.place("emulated"))
    result = capture.record(lambda: call(x, y, xp()))
    assert values(x) == [2, 1, 3] and values(y) == [0, 0, 0], "it was done at once"
    for numbers in ((5, 4, 3), (-1, 1.5, 7)):
        x.set(np.array(numbers, np.float32))
        y.set(np.zeros(3, np.float32))
        capture.replay()
        now_x, now_y = np.array(numbers, np.float32), np.zeros(3, np.float32)
        expected = call(now_x, now_y, np)
        assert [values(a) for a in (result, x, y)] == [values(a) for a in (expected, now_x, now_y)]


READS: dict[str, Callable[[Any], Any]] = {
    "nonzero": lambda x: np.nonzero(x),
    "nonzero reads": lambda x: np.where(x > 1),
    "bincount": lambda x: np.bincount(x.astype(np.int64)),
    "array_str": lambda x: np.array_str(x),
    "an index of bools": lambda x: x[x > 1],
    "an index of bools reads": lambda x: x[None, :][:, x > 1],
    "a copy from main memory": lambda x: xp().asarray(np.ones(3)),
    "a pickle": lambda x: pickle.dumps(x),
}


@pytest.mark.parametrize("what", READS)
def test_what_the_host_must_wait_for_is_refused(what: str) -> None:
    x = put(2, 1, 3)
    with pytest.raises(capturing.CaptureError, match=f"{what}.* inside a captured step"):
        capturing.Capture(devices.place("emulated")).record(lambda: READS[what](x))
    READS[what](x)  # nothing is left of the attempt


def test_what_changes_its_array_returns_nothing() -> None:
    x = put(2, 1, 3)
    assert x.sort() is None and np.copyto(x, x + 1) is None
    assert x.tolist() == [2, 3, 4]


def test_one_element_is_a_view() -> None:
    x = put(2, 1, 3)
    element = x[1]
    element += 4
    assert element.shape == () and x.tolist() == [2, 5, 3]
    assert x[-1].shape == x[..., 0].shape == () and x[[0, 1]].tolist() == [2, 5]


def test_out_is_given_for_all_results_or_none() -> None:
    x = put(2, 1, 3)
    assert np.add(x, x, out=x) is x and np.add(x, x, out=None).tolist() == [8, 4, 12]
    with pytest.raises(TypeError, match="modf: out expects an array for each result"):
        np.modf(x, out=(None, x))


def test_a_result_holds_nothing_before_the_first_replay() -> None:
    x = put(2, 1, 3)
    capture = capturing.Capture(devices.place("emulated"))
    floats, integers = capture.record(lambda: (x * 2, np.argsort(x)))
    assert np.isnan(floats.get()).all()
    assert integers.tolist() == [0, 0, 0]  # an index that other calls may use while the recording is made
    capture.replay()
    assert floats.tolist() == [4, 2, 6] and integers.tolist() == [1, 0, 2]
