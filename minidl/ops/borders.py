"""Borders made of an image's own pixels: mirrored, repeated or wrapped around; and crops."""

from __future__ import annotations

from collections.abc import Sequence

from minidl.ops.movement import cat, expand, getitem
from minidl.ops.movement import pad as constant
from minidl.tensor import Tensor

__all__ = ["MODES", "pad_border"]

MODES = ("constant", "reflect", "replicate", "circular")


def _along(x: Tensor, axis: int, part: slice) -> Tensor:
    return getitem(x, (*[slice(None)] * axis, part))


def _repeat(x: Tensor, axis: int, edge: slice, count: int) -> Tensor:
    shape = list(x.shape)
    shape[axis] = count
    return expand(_along(x, axis, edge), shape)


def _border(x: Tensor, axis: int, before: int, after: int, mode: str) -> Tensor:
    """x with ``before`` and ``after`` more elements along one axis."""
    size = x.shape[axis]
    if mode == "replicate":
        parts = [_repeat(x, axis, slice(0, 1), before), x, _repeat(x, axis, slice(size - 1, None), after)]
    elif mode == "circular":
        parts = [_along(x, axis, slice(size - before, None)), x, _along(x, axis, slice(0, after))]
    else:  # the edge itself is not repeated
        back = None if after == size - 1 else size - 2 - after
        parts = [_along(x, axis, slice(before, 0, -1)), x, _along(x, axis, slice(size - 2, back, -1))]
    kept = [part for part, count in zip(parts, (before, 1, after), strict=True) if count]
    return cat(kept, axis) if len(kept) > 1 else x


def pad_border(x: Tensor, pad: Sequence[int], mode: str = "constant", value: float = 0.0) -> Tensor:
    """A border around the last dimensions, as ``torch.nn.functional.pad``.

    Args:
        x: any shape; for modes other than "constant" (N, C, L) or (N, C, H, W), or without N.
        pad: pairs that count from the last dimension: (left, right, top, bottom, ...). Negative values
            crop.
        mode: "constant", "reflect" (mirrored at the edge pixels, which are not repeated), "replicate" (the
            edge pixels repeated), "circular" (wrapped around).
        value: of a constant border.
    """
    op, widths = "pad", tuple(pad)
    pairs = [tuple(int(w) for w in widths[i : i + 2]) for i in range(0, len(widths), 2)]
    if mode not in MODES:
        raise ValueError(f"{op}: mode expects one of {', '.join(MODES)}, got {mode!r}")
    if len(widths) % 2 or len(pairs) > x.ndim:
        raise ValueError(
            f"{op}: pad expects pairs of ints for at most {x.ndim} dimensions, got {tuple(widths)}"
        )
    if mode != "constant" and len(pairs) not in (x.ndim - 1, x.ndim - 2):
        raise ValueError(
            f"{op}: mode {mode!r} expects a pair for each spatial dimension of shape {x.shape}, got {tuple(widths)}"
        )
    crop = [slice(None)] * x.ndim
    for i, (before, after) in enumerate(pairs):
        axis = x.ndim - 1 - i
        size = x.shape[axis]
        if size + min(before, 0) + min(after, 0) < 0:
            raise ValueError(f"{op}: pad {tuple(widths)} crops more than shape {x.shape} holds")
        crop[axis] = slice(max(-before, 0), size + min(after, 0))
        limit = {"reflect": size - 1, "circular": size}.get(mode)
        if limit is not None and max(before, after) > limit:
            raise ValueError(
                f"{op}: a {mode} border of {max(before, after)} needs more than the {size} elements of dimension {axis}"
            )
        if mode == "replicate" and size == 0:
            raise ValueError(f"{op}: dimension {axis} has no edge to replicate, shape {x.shape}")
    cropped = any(w < 0 for pair in pairs for w in pair)
    if cropped and mode != "constant":
        # PyTorch borders first and crops afterwards: the border is made of what lies beyond the crop
        raise ValueError(f"{op}: negative values are for mode 'constant', got {tuple(widths)} with {mode!r}")
    if cropped:
        x = getitem(x, tuple(crop))
    grown = [(max(before, 0), max(after, 0)) for before, after in pairs]
    if mode == "constant":
        flat = [w for pair in grown for w in pair]
        return constant(x, flat, value) if any(flat) else x
    for i, (before, after) in enumerate(grown):
        x = _border(x, x.ndim - 1 - i, before, after, mode)
    return x
