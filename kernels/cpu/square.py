"""Square tiles: rows into columns without touching memory."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from minidl.kernels.cpu import simd


class Square(NamedTuple):
    """The intrinsics of a square tile; see :func:`square`. Tables are int64 arrays of offsets, one for each row."""

    lanes: int
    load: Any  # load(m, mi, stride) -> tile
    load_at: Any  # load_at(m, mi, table, ti) -> tile: tile[r, c] = m[mi + table[ti + r] + c]
    add_at: Any  # add_at(tile, m, mi, table, ti) -> tile: tile[r, c] += m[mi + table[ti + r] + c]
    transpose: Any  # transpose(tile) -> tile
    store: Any  # store(tile, m, mi, stride)
    store_at: Any  # store_at(tile, m, mi, table, ti): rows with a negative offset are left out


@functools.cache
def square(dtype: str) -> Square:
    """The square tile, one register per row: what turns rows into columns without touching memory."""
    _, _, itemsize = simd.element_of(dtype)
    lanes = simd.target().float_lanes * 4 // itemsize
    kind = simd.TileType(dtype, lanes, lanes, 1)
    vector, struct = kind.vector, kind.struct
    plain = simd.tile(dtype, lanes, 1)

    def address_at(context: Any, builder: Any, kinds: tuple[Any, Any], m: Any, mi: Any, offset: Any) -> Any:
        pointer = simd.pointer_to(context, builder, kinds[0], m, builder.add(mi, offset))
        return builder.bitcast(pointer, vector.as_pointer())

    def table_entry(context: Any, builder: Any, kind: Any, table: Any, ti: Any, r: int) -> Any:
        return builder.load(simd.pointer_to(context, builder, kind, table, builder.add(ti, simd.const(r))))

    def gather_rows(context: Any, builder: Any, kinds: Any, args: Any) -> list[Any]:
        m, mi, table, ti = args
        out = []
        for r in range(lanes):
            offset = table_entry(context, builder, kinds[2], table, ti, r)
            value = builder.load(address_at(context, builder, kinds, m, mi, offset))
            value.align = itemsize
            out.append(value)
        return out

    def build(builder: Any, values: list[Any]) -> Any:
        out = ir.Constant(struct, ir.Undefined)
        for place, value in enumerate(values):
            out = builder.insert_value(out, value, place)
        return out

    @intrinsic
    def load_at(typing: Any, m: Any, mi: Any, table: Any, ti: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return build(builder, gather_rows(context, builder, signature.args, args))

        return kind(m, types.intp, table, types.intp), generate

    @intrinsic
    def add_at(typing: Any, acc: Any, m: Any, mi: Any, table: Any, ti: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            rows = gather_rows(context, builder, signature.args[1:], args[1:])
            old = [builder.extract_value(args[0], r) for r in range(lanes)]
            return build(builder, [builder.fadd(a, b) for a, b in zip(old, rows, strict=True)])

        return kind(kind, m, types.intp, table, types.intp), generate

    @intrinsic
    def transpose(typing: Any, acc: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            rows = [builder.extract_value(args[0], r) for r in range(lanes)]
            # Swap the off-diagonal quarters of every 2s x 2s block, for s = 1, 2, 4, ...
            step = 1
            while step < lanes:
                upper = [i if not i & step else lanes + (i ^ step) for i in range(lanes)]
                lower = [i ^ step if not i & step else lanes + i for i in range(lanes)]
                masks = [ir.Constant(ir.VectorType(simd.I32, lanes), mask) for mask in (upper, lower)]
                for r in range(lanes):
                    if not r & step:
                        a, b = rows[r], rows[r | step]
                        rows[r] = builder.shuffle_vector(a, b, masks[0])
                        rows[r | step] = builder.shuffle_vector(a, b, masks[1])
                step *= 2
            return build(builder, rows)

        return kind(kind), generate

    @intrinsic
    def store_at(typing: Any, acc: Any, m: Any, mi: Any, table: Any, ti: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            acc, m, mi, table, ti = args
            for r in range(lanes):
                offset = table_entry(context, builder, signature.args[3], table, ti, r)
                with builder.if_then(builder.icmp_signed(">=", offset, simd.const(0)), likely=True):
                    address = address_at(context, builder, signature.args[1:], m, mi, offset)
                    builder.store(builder.extract_value(acc, r), address).align = itemsize
            return context.get_dummy_value()

        return types.void(kind, m, types.intp, table, types.intp), generate

    return Square(lanes, plain.load, load_at, add_at, transpose, plain.store, store_at)
