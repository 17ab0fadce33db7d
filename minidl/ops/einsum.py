"""Einstein summation, through permutations, reshapes and one matrix product for each pair of operands."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from minidl.ops._common import expect_tensors
from minidl.ops.indexing import diagonal
from minidl.ops.linear import matmul
from minidl.ops.movement import expand, permute, reshape
from minidl.ops.promotion import in_float32
from minidl.ops.reduce import sum
from minidl.tensor import Tensor

_ELLIPSIS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"  # after renaming: names of the dimensions that "..." stands for


def einsum(equation: str, *operands: Any) -> Tensor:
    """The sum of products that ``equation`` describes, as ``torch.einsum``: "bij,bjk->bik" is a batched matrix product.

    Each operand's dimensions are named by letters. Letters that do not occur after "->" are summed over; a letter that
    occurs twice in one operand takes its diagonal; "..." stands for any further dimensions, broadcast against each
    other. Without "->" the result has the letters that occur once, in alphabetical order, after those of "...".
    Operands are multiplied from left to right.

    Raises:
        ValueError: the equation does not fit the operands.
    """
    if len(operands) == 1 and isinstance(operands[0], (list, tuple)):
        operands = tuple(operands[0])
    if not isinstance(equation, str):
        raise TypeError(f"einsum: equation expects a str, got {type(equation).__name__}")
    expect_tensors("einsum", operands)
    terms, result = _parse(equation, operands)
    return _contract(terms, result, *operands)


def _parse(equation: str, operands: Sequence[Tensor]) -> tuple[list[str], str]:
    """One letter for each dimension of each operand and of the result; "..." as capital letters of their own."""
    text = equation.replace(" ", "")
    left, arrow, right = text.partition("->")
    terms = left.split(",")
    if len(terms) != len(operands) or not operands:
        raise ValueError(f"einsum: {equation!r} names {len(terms)} operands, got {len(operands)}")
    # capital letters of the user are moved out of the way of those that stand for "..."
    for part in [*terms, right]:
        letters = part.replace("...", "", 1)
        if "." in letters or not all(c.isascii() and c.isalpha() for c in letters):
            raise ValueError(f"einsum: {equation!r} has {part!r} where letters and one '...' are expected")
    sizes: dict[str, int] = {}
    named: list[str] = []
    longest = 0
    for i, (term, x) in enumerate(zip(terms, operands, strict=True)):
        letters = _rename(term.replace("...", ""))
        extra = x.ndim - len(letters)
        if extra < 0 or (extra and "..." not in term):
            raise ValueError(
                f"einsum: operand {i} expects {len(letters)} dimensions ({term!r}), got {x.shape}"
            )
        longest = max(longest, extra if "..." in term else 0)
        before, dots, after = term.partition("...")
        name = _rename(before) + (_ELLIPSIS[26 - extra :] if dots and extra else "") + _rename(after)
        for letter, n in zip(name, x.shape, strict=True):
            known = sizes.setdefault(letter, n)
            if known != n and 1 not in (known, n):
                raise ValueError(f"einsum: {equation!r} needs one size for a letter, got {known} and {n}")
            sizes[letter] = max(known, n) if 0 not in (known, n) else 0
        named.append(name)
    dots = _ELLIPSIS[26 - longest :] if longest else ""
    if arrow:
        before, _, after = right.partition("...")
        result = _rename(before) + (dots if "..." in right else "") + _rename(after)
    else:
        every = "".join(named)
        result = dots + "".join(sorted(c for c in set(every) - set(dots) if every.count(c) == 1))
    if len(set(result)) != len(result) or not set(result) <= set("".join(named)):
        raise ValueError(
            f"einsum: the result of {equation!r} repeats a letter or has one that no operand has"
        )
    return named, result


def _rename(letters: str) -> str:
    """Capital letters to a range of their own (in the same order, before the lower-case ones)."""
    return "".join(chr(ord(c) - 65 + 0x100) if c.isupper() else chr(ord(c) + 0x100) for c in letters)


@in_float32
def _contract(terms: list[str], result: str, *operands: Tensor) -> Tensor:
    parts = [_diagonals(x, name) for x, name in zip(operands, terms, strict=True)]
    x, name = parts[0]
    for i, (y, other) in enumerate(parts[1:], 1):
        later = set(result).union(*[n for _, n in parts[i + 1 :]])
        x, name = _pair(x, name, y, other, later)
    x, name = _keep(x, name, set(result))
    return permute(x, [name.index(c) for c in result])


def _diagonals(x: Tensor, name: str) -> tuple[Tensor, str]:
    """Letters that occur twice become one."""
    for letter in dict.fromkeys(name):
        while name.count(letter) > 1:
            a = name.index(letter)
            b = name.index(letter, a + 1)
            if x.shape[a] != x.shape[b]:
                raise ValueError(f"einsum: a repeated letter has the sizes {x.shape[a]} and {x.shape[b]}")
            x = diagonal(x, 0, a, b)
            name = name[:a] + name[a + 1 : b] + name[b + 1 :] + letter
    return x, name


def _keep(x: Tensor, name: str, wanted: set[str]) -> tuple[Tensor, str]:
    """Letters that nobody needs any more are summed over."""
    gone = [i for i, c in enumerate(name) if c not in wanted]
    return (sum(x, gone), "".join(c for c in name if c in wanted)) if gone else (x, name)


def _pair(a: Tensor, an: str, b: Tensor, bn: str, later: set[str]) -> tuple[Tensor, str]:
    """Two operands into one, by a batched matrix product: (batch, left, shared) @ (batch, shared, right)."""
    a, an = _keep(a, an, later | set(bn))
    b, bn = _keep(b, bn, later | set(an))
    size = dict.fromkeys(an + bn, 1)
    for x, name in ((a, an), (b, bn)):
        for c, n in zip(name, x.shape, strict=True):
            size[c] = n if size[c] == 1 else size[c]
    batch = [c for c in an if c in bn and c in later]
    shared = [c for c in an if c in bn and c not in later]
    left, right = [c for c in an if c not in bn], [c for c in bn if c not in an]

    def lay(x: Tensor, name: str, *groups: list[str]) -> Tensor:
        order = [c for group in groups for c in group]
        x = expand(permute(x, [name.index(c) for c in order]), [size[c] for c in order])
        return reshape(x, [math.prod(size[c] for c in group) for group in groups])

    y = matmul(lay(a, an, batch, left, shared), lay(b, bn, batch, shared, right))
    names = [*batch, *left, *right]
    return reshape(y, [size[c] for c in names]), "".join(names)
