"""A wrong use of an operator, and the tensors that the wrong uses are tried on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from minidl.tensor import Tensor


@dataclass(frozen=True)
class Wrong:
    """A call that must fail, and what it must say.

    The call takes minidl and its functional module, as those of :class:`minidl.testing.cases.Entry` do. The text
    names the operator, the argument, what was expected and what came.
    """

    operator: str
    call: Callable[[Any, Any], Any]
    error: type[Exception]
    text: str


def _tensor(values: Any, dtype: Any = np.float32) -> Any:
    """Typed Any: these tensors go where they do not belong."""
    return Tensor(np.array(values, dtype))


ARRAY: Any = np.ones((3, 4), np.float32)
MATRIX = _tensor(np.full((3, 4), 0.5))
BOOLS = _tensor(np.ones((3, 4)), np.bool_)
INTS = _tensor([1, 2, 3], np.int64)
VECTOR3 = _tensor(np.ones(3))
VECTOR4 = _tensor(np.ones(4))
EMPTY = _tensor(np.ones(0))
SIGNALS = _tensor(np.ones((2, 4, 9)))
IMAGES = _tensor(np.ones((2, 4, 6, 5)))


def set_item(x: Any, index: Any, value: Any) -> None:
    """``x[index] = value`` on a copy, as an expression."""
    x.clone()[index] = value
