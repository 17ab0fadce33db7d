"""An array put into a larger one: padding, and the gradient of slices."""

from __future__ import annotations

from typing import Any

from minidl.kernels.cpu import memory
from minidl.kernels.cpu.layout import SMALL_COPY, elements, supported
from minidl.kernels.cpu.runtime import address_of, kernel, launch, recording, share
from minidl.kernels.reference.checks import Array
from minidl.kernels.reference.place import Placing, memory_order

Quad = tuple[int, int, int, int]


@kernel
def _place(
    address: int,
    strides: Quad,
    counts: Quad,
    starts: Quad,
    steps: Quad,
    value: Any,
    out: Any,
    part: int,
    parts: int,
) -> None:
    """out = value, and where starts + i * steps the array of ``counts`` at ``address``; strides in elements."""
    n, h, w, c = out.shape
    extent = 1
    for axis in range(4):
        extent += (counts[axis] - 1) * strides[axis]
    x = elements(address, 0, extent, out)
    first, last = share(n * h, part, parts)
    for item in range(first, last):
        image, row = item // h, item % h
        line = out[image, row].reshape(w * c)
        for i in range(w * c):
            line[i] = value
        a, b = image - starts[0], row - starts[1]
        if a < 0 or b < 0 or a % steps[0] or b % steps[1]:
            continue
        a, b = a // steps[0], b // steps[1]
        if a >= counts[0] or b >= counts[1]:
            continue
        for q in range(counts[2]):
            source = x[a * strides[0] + b * strides[1] + q * strides[2] :]
            target = line[(starts[2] + q * steps[2]) * c + starts[3] :]
            for k in range(counts[3]):
                target[k] = source[k]


class PlaceMixin(Placing):
    """place for four axes of which the innermost in memory is dense; the rest goes to the reference."""

    def place(self, x: Array, shape: tuple[int, ...], index: tuple[slice, ...], value: float = 0) -> Array:
        """See the reference. One pass, on all threads."""
        order = memory_order(x)
        turned = x.transpose(order)
        spans = [range(*index[axis].indices(shape[axis])) for axis in order]
        if (
            x.ndim != 4
            or (x.size < SMALL_COPY and not recording())
            or not (supported(x) and x.flags.aligned)
            or any(stride < 0 for stride in x.strides)
            or turned.strides[3] != x.itemsize
            or any(span.step < 1 for span in spans)
            or spans[3].step != 1
            or tuple(map(len, spans)) != turned.shape
        ):
            return super().place(x, shape, index, value)
        out = memory.empty(tuple(shape[axis] for axis in order), x.dtype)
        launch(
            *(
                _place,
                address_of(turned),
                tuple(stride // x.itemsize for stride in turned.strides),
                turned.shape,
            ),
            *(
                tuple(span.start for span in spans),
                tuple(span.step for span in spans),
                x.dtype.type(value),
                out,
            ),
            work=out.size,
        )
        return out.transpose(sorted(range(4), key=order.__getitem__))
