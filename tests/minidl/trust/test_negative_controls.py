"""Every deliberately wrong gradient is noticed by the operator table's checks."""

from __future__ import annotations

import functools
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from minidl.testing.cases import TABLE
from minidl.testing.operators import check
from tests.minidl.trust.controls import CONTROLS, Control
from tests.planting import planted

ENTRIES = {entry.name: entry for entry in TABLE}


@functools.cache
def stored() -> dict[str, np.ndarray]:
    results: dict[str, np.ndarray] = {}
    for path in (Path(__file__).parents[2] / "fixtures").glob("operators_*.npz"):
        with np.load(path) as arrays:
            results |= dict(arrays)
    return results


@pytest.mark.parametrize("control", CONTROLS, ids=lambda c: c.name)
def test_a_wrong_gradient_is_noticed(control: Control) -> None:
    results = stored() if control.pytorch else None
    with planted(control.path, control.old, control.new):
        missed = [n for n in control.entries if not check(ENTRIES[n], control.backend, results, stop=True)]
    assert not missed


@pytest.mark.parametrize("name", sorted({n for c in CONTROLS for n in c.entries}))
def test_the_same_entries_pass_without_it(name: str) -> None:
    assert check(ENTRIES[name], "reference", stored()) == {} == check(ENTRIES[name], "cpu", stored())


def test_there_are_many_and_of_many_kinds() -> None:
    assert len(CONTROLS) >= 50 and len(Counter(c.kind for c in CONTROLS)) >= 20
    assert len({(c.path, c.old, c.new) for c in CONTROLS}) == len(CONTROLS)


def test_planting_needs_the_text_that_it_replaces() -> None:
    with (
        pytest.raises(AssertionError, match="the planted defect must follow the source"),
        planted("minidl.ops.arithmetic:Neg.backward", "no such text", ""),
    ):
        pass
