"""Checks of constructor arguments that several layers share."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any, Literal

__all__ = [
    "IntPair",
    "IntSingle",
    "Padding",
    "Padding1d",
    "choice",
    "integer",
    "padding2d",
    "pair",
    "probability",
    "real",
    "sides",
    "single",
]

IntSingle = int | tuple[int]
Padding1d = int | tuple[int] | tuple[tuple[int, int]] | Literal["same", "valid"]
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


def single(where: str, value: Any, minimum: int) -> tuple[int]:
    """(length,) from an int or a sequence of one int of at least `minimum`."""
    if isinstance(value, tuple | list):
        if len(value) != 1:
            raise ValueError(f"{where} must be an int, got {value!r}")
        (value,) = value
    return (integer(where, value, minimum),)


def sides(where: str, value: Any, axes: int) -> tuple[int, ...]:
    """(left, right, top, bottom, ...) from an int for all sides or the sides themselves; negative crops."""
    if not isinstance(value, tuple | list):
        return (integer(where, value, -(2**31)),) * (2 * axes)
    if len(value) != 2 * axes:
        raise ValueError(f"{where} must be an int or {2 * axes} ints, got {value!r}")
    return tuple(integer(where, v, -(2**31)) for v in value)


def choice(where: str, value: Any, allowed: tuple[str, ...]) -> str:
    """One of a few words."""
    if value not in allowed:
        *first, last = (repr(word) for word in allowed)
        raise ValueError(f"{where} must be {', '.join(first)} or {last}, got {value!r}")
    return str(value)
