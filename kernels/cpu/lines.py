"""Lines: a few vectors of an array at equal distances, loaded and stored as one tuple.

For functions that take such a tuple and give another, as the transforms of Winograd's convolution do::

    line = lines(6)
    r0, r1, r2, r3, r4, r5 = line.load(image, at, row)     # six pixels below each other, 16 channels of each

The vectors are those of lanes.py. Nothing here checks bounds.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

from llvmlite import ir
from numba import types

from minidl.kernels.cpu.lanes import Lanes, address_of, intrinsic, is_array, vector_of

_INT64 = ir.IntType(64)


class Line(NamedTuple):
    """The intrinsics for lines of one length; see :func:`lines`."""

    load: Any  # load(a, at, step) -> (a[at:], a[at + step:], ...), LANES elements of each
    load_inside: Any  # load_inside(a, at, step, first, last): zeros for all but the vectors first..last-1
    store: Any  # store(a, at, step, values)
    zeros: Any  # zeros(a) -> a tuple of zeros of the elements' type


@functools.cache
def lines(length: int) -> Line:
    """The intrinsics for lines of ``length`` vectors."""

    def kind(array: Any) -> Any:
        return types.UniTuple(Lanes(array.dtype), length)

    def places(context: Any, builder: Any, sig: Any, array: Any, at: Any, step: Any) -> list[Any]:
        found = []
        for k in range(length):
            index = builder.add(at, builder.mul(step, ir.Constant(_INT64, k)))
            found.append(address_of(context, builder, sig.args[0], array, index))
        return found

    def loaded(context: Any, builder: Any, sig: Any, addresses: list[Any]) -> Any:
        values = []
        for address in addresses:
            value = builder.load(address)
            value.align = sig.args[0].dtype.bitwidth // 8
            values.append(value)
        return context.make_tuple(builder, sig.return_type, values)

    @intrinsic
    def load(typing: Any, array: Any, at: Any, step: Any) -> Any:
        if not is_array(array):
            return None

        def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            return loaded(context, builder, sig, places(context, builder, sig, *args))

        return kind(array)(array, types.intp, types.intp), generate

    @intrinsic
    def load_inside(typing: Any, array: Any, at: Any, step: Any, first: Any, last: Any) -> Any:
        if not is_array(array):
            return None

        def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            array, at, step, first, last = args
            vector = vector_of(sig.args[0].dtype)
            zeros = context.insert_unique_const(
                builder.module, f"minidl.zeros.{sig.args[0].dtype}", ir.Constant(vector, None)
            )
            chosen = []
            for k, address in enumerate(places(context, builder, sig, array, at, step)):
                here = ir.Constant(_INT64, k)
                inside = builder.and_(
                    builder.icmp_signed("<=", first, here), builder.icmp_signed("<", here, last)
                )
                chosen.append(builder.select(inside, address, zeros))
            return loaded(context, builder, sig, chosen)

        return kind(array)(array, types.intp, types.intp, types.intp, types.intp), generate

    @intrinsic
    def store(typing: Any, array: Any, at: Any, step: Any, values: Any) -> Any:
        if not is_array(array) or values != kind(array):
            return None

        def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            array, at, step, values = args
            for k, address in enumerate(places(context, builder, sig, array, at, step)):
                instruction = builder.store(builder.extract_value(values, k), address)
                instruction.align = sig.args[0].dtype.bitwidth // 8
            return context.get_dummy_value()

        return types.void(array, types.intp, types.intp, values), generate

    @intrinsic
    def zeros(typing: Any, array: Any) -> Any:
        def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            zero = ir.Constant(vector_of(sig.args[0].dtype), None)
            return context.make_tuple(builder, sig.return_type, [zero] * length)

        return kind(array)(array), generate

    return Line(load, load_inside, store, zeros)
