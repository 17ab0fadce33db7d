"""Every wrong use in the operator table is answered with its text, and every operator has one."""

from __future__ import annotations

from collections import Counter

import pytest

import minidl
import minidl.nn.functional as F
from minidl import ops
from minidl.testing.cases.wrong import ANY_TENSOR, SPEAKS_AS, WRITTEN, WRONG, Wrong


def _id(use: Wrong) -> str:
    return f"{use.operator}-{use.error.__name__}"


@pytest.mark.parametrize("use", WRONG, ids=_id)
def test_a_wrong_use_is_answered_with_its_text(use: Wrong) -> None:
    with pytest.raises(use.error) as caught:
        use.call(minidl, F)
    assert type(caught.value) is use.error
    assert str(caught.value) == use.text


def test_every_text_names_its_operator() -> None:
    silent = [
        (use.operator, use.text)
        for use in WRONG
        if not use.text.startswith((f"{use.operator}:", SPEAKS_AS.get(use.operator, f"{use.operator}:")))
    ]
    assert silent == []


def test_every_operator_has_a_wrong_use_of_its_own_or_takes_any_tensor() -> None:
    written = {use.operator for use in WRITTEN}
    assert set(ops.__all__) - written - set(ANY_TENSOR) == set(), "add a line to minidl/testing/cases/wrong"
    assert (written | set(ANY_TENSOR)) - set(ops.__all__) == set(), "no such operators"
    assert written & set(ANY_TENSOR) == set()
    counts = Counter(use.operator for use in WRONG)
    assert [name for name in ANY_TENSOR if not counts[name]] == []


def test_every_argument_that_is_a_tensor_is_checked_in_methods_too() -> None:
    x = minidl.ones(2, 3)
    with pytest.raises(TypeError, match="mm: b expects a Tensor, got ndarray"):
        x.mm(x.numpy())
    with pytest.raises(TypeError, match="scatter_add: source expects a Tensor, got list"):
        x.scatter_add(0, [[0]], source=[[1.0]])
