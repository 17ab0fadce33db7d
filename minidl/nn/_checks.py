"""Checks of constructor arguments that several layers share."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any, Literal

__all__ = ["IntPair", "Padding", "integer", "padding2d", "pair", "probability", "real"]

IntPair = int | tuple[int, int]
Padding = int | tuple[int, int] | tuple[tuple[int, int], tuple[int, int]] | Literal["same", "valid"]


def integer(where: str, value: Any, minimum: int) -> int:
    """The value as an int; TypeError unless it is an integer (bool is not), ValueError below the minimum."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{where} must be an integer, got {value!r}")
    if value < minimum:
        raise ValueError(f"{where} must be at least {minimum}, got {value}")
    return int(value)


def pair(where: str, value: Any, minimum: int) -> tuple[int, int]:
    """(height, width) from an int or a pair of ints, each at least `minimum`."""
    if isinstance(value, tuple | list):
        if len(value) != 2:
            raise ValueError(f"{where} must be an int or a pair of ints, got {value!r}")
        return integer(where, value[0], minimum), integer(where, value[1], minimum)
    both = integer(where, value, minimum)
    return both, both


def padding2d(where: str, value: Any) -> tuple[int, int] | tuple[tuple[int, int], tuple[int, int]] | str:
    """(h, w), ((top, bottom), (left, right)) or "same"; "valid" becomes (0, 0)."""
    if isinstance(value, str):
        if value not in ("same", "valid"):
            raise ValueError(f"{where} must be 'same', 'valid' or integers, got {value!r}")
        return "same" if value == "same" else (0, 0)
    if isinstance(value, tuple | list) and any(isinstance(side, tuple | list) for side in value):
        if len(value) != 2 or not all(isinstance(side, tuple | list) and len(side) == 2 for side in value):
            raise ValueError(f"{where} must be ((top, bottom), (left, right)), got {value!r}")
        top, bottom, left, right = (integer(where, v, 0) for side in value for v in side)
        return (top, bottom), (left, right)
    return pair(where, value, 0)


def real(where: str, value: Any, minimum: float = 0.0, *, exclusive: bool = False) -> float:
    """The value as a finite float at least (exclusive=True: above) `minimum`."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{where} must be a number, got {value!r}")
    number = float(value)
    if not (number > minimum if exclusive else number >= minimum) or number == float("inf"):
        bound = "greater than" if exclusive else "at least"
        raise ValueError(f"{where} must be finite and {bound} {minimum:g}, got {value!r}")
    return number


def probability(where: str, value: Any) -> float:
    """A number in [0, 1]."""
    number = real(where, value)
    if number > 1:
        raise ValueError(f"{where} must lie in [0, 1], got {value!r}")
    return number
