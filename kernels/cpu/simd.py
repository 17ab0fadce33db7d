"""The vector vocabulary: explicit SIMD registers inside ordinary Numba functions.

Numba's automatic vectorisation reaches a tenth of a processor's arithmetic limit on a matrix product,
because it does not keep a block of the result in registers. A *tile* is such a block: ``rows`` x
``vectors`` SIMD registers, held in one opaque value that LLVM dissolves into registers. A micro-kernel then
reads::

    acc = tile.zero()
    for k in range(depth):
        acc = tile.fma(acc, a, i + k, stride, b, j + k * tile.cols)      # acc[r, c] += a[r, k] * b[k, c]
    tile.store(acc, c, offset, row_stride)

and compiles to one broadcast load per row, one vector load per register column and ``rows * vectors`` fused
multiply-adds.

                b[k, 0:16]  b[k, 16:32]          a panel of b: `vectors` registers
    a[0, k]  ->  acc 0,0     acc 0,1
    a[1, k]  ->  acc 1,0     acc 1,1              each a[r, k] is broadcast to all lanes
      ...          ...         ...
    a[13,k]  ->  acc 13,0    acc 13,1             28 accumulators of the 32 registers of AVX-512

A tile of "bfloat16" multiplies pairs: an element of a and b is a uint32 that holds two bfloat16 numbers next to
each other in the reduction, and one instruction adds both products to a float32 sum. It runs twice as
many multiplications as float32 where the processor has that instruction (AVX512-BF16).

All intrinsics take an array and an offset in elements; none checks bounds.
"""

from __future__ import annotations

import functools
import re
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.registry import cpu_target
from numba.extending import intrinsic, models, register_model

I32 = ir.IntType(32)
I64 = ir.IntType(64)

CHUNK = 16  # columns that ``store_apart`` leaves beside each other


class Target(NamedTuple):
    """What the code that Numba generates may use."""

    float_lanes: int  # of one vector register
    registers: int
    fma: bool
    dot_bfloat16: bool = False  # one instruction for 16 sums of two products of bfloat16 numbers


_AVX512_NAMES = re.compile(
    "avx512|icelake|tigerlake|rocketlake|cannonlake|cascadelake|cooperlake|sapphirerapids|emeraldrapids|graniterapids"
    "|diamondrapids|knl|knm|znver4|znver5"
)
_AVX2_NAMES = re.compile(
    "haswell|broadwell|skylake|alderlake|raptorlake|meteorlake|arrowlake|lunarlake|znver[123]|core-avx2|x86-64-v3"
)


def target_of(triple: str, name: str, features: str) -> Target:
    """The vector unit of an LLVM target: its triple, processor name and feature string ("+avx2,-avx512f,...")."""
    if triple.startswith(("aarch64", "arm64")):
        return Target(4, 32, True)
    if not triple.startswith("x86_64"):
        return Target(4, 16, False)
    enabled = {f[1:] for f in features.split(",") if f.startswith("+")}
    disabled = {f[1:] for f in features.split(",") if f.startswith("-")}
    if "avx512f" in enabled or ("avx512f" not in disabled and _AVX512_NAMES.search(name)):
        return Target(16, 32, True, "avx512bf16" in enabled)
    if {"avx2", "fma"} <= enabled or ("avx2" not in disabled and _AVX2_NAMES.search(name)):
        return Target(8, 16, True)
    return Target(8 if "avx" in enabled else 4, 16, False)


@functools.cache
def target() -> Target:
    """The vector unit that Numba compiles for: its target's features, not the processor's, decide.

    They differ under NUMBA_CPU_FEATURES (NUMBA_CPU_NAME alone keeps the host's features) and NUMBA_ENABLE_AVX.
    """
    return target_of(*cpu_target.target_context.codegen().magic_tuple())


def element_of(dtype: str) -> tuple[Any, Any, int]:
    """LLVM type and Numba type of a sum, and bytes of an operand's element (bfloat16: of a pair)."""
    if dtype in ("float32", "bfloat16"):
        return ir.FloatType(), types.float32, 4
    if dtype == "float64":
        return ir.DoubleType(), types.float64, 8
    raise ValueError(f"tile: dtype expects float32, float64 or bfloat16, got {dtype}")


def const(value: int) -> Any:
    return ir.Constant(I64, value)


def pointer_to(context: Any, builder: Any, array_type: Any, array: Any, offset: Any) -> Any:
    """The address of element ``offset`` of a contiguous array."""
    return builder.gep(context.make_array(array_type)(context, builder, array).data, [offset])


class TileType(types.Type):
    """A block of SIMD registers, opaque to Python code."""

    def __init__(self, dtype: str, lanes: int, rows: int, vectors: int) -> None:
        super().__init__(name=f"tile({dtype}x{lanes},{rows}x{vectors})")
        element = element_of(dtype)[0]
        self.vector = ir.VectorType(element, lanes)
        self.struct = ir.LiteralStructType([self.vector] * (rows * vectors))


@register_model(TileType)
class TileModel(models.PrimitiveModel):
    def __init__(self, manager: Any, tile_type: TileType) -> None:
        super().__init__(manager, tile_type, tile_type.struct)


class _BFloat(ir.Type):
    """LLVM's bfloat, which llvmlite does not know."""

    def _to_string(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _BFloat)

    def __hash__(self) -> int:
        return hash(_BFloat)


def _halves(builder: Any, pairs: Any, lanes: int) -> tuple[Any, Any]:
    """The first and the second bfloat16 number of each uint32, as floats: a bfloat16 is the upper half of a float32."""
    vector = ir.VectorType(ir.FloatType(), lanes)
    first = builder.shl(pairs, ir.Constant(pairs.type, [16] * lanes))
    second = builder.and_(pairs, ir.Constant(pairs.type, [0xFFFF0000] * lanes))
    return builder.bitcast(first, vector), builder.bitcast(second, vector)


def _widen_bfloat16(builder: Any, value: Any, lanes: int) -> Any:
    """A vector of uint16 (bfloat16 numbers) as floats."""
    wide = ir.VectorType(I32, lanes)
    shifted = builder.shl(builder.zext(value, wide), ir.Constant(wide, [16] * lanes))
    return builder.bitcast(shifted, ir.VectorType(ir.FloatType(), lanes))


def _narrow_bfloat16(builder: Any, value: Any, lanes: int) -> Any:
    """A vector of floats rounded to bfloat16, to the nearest and half to even, as uint16; NaN stays NaN."""
    wide, narrow = ir.VectorType(I32, lanes), ir.VectorType(ir.IntType(16), lanes)

    def all_lanes(number: int) -> Any:
        return ir.Constant(wide, [number] * lanes)

    bits = builder.bitcast(value, wide)
    odd = builder.and_(builder.lshr(bits, all_lanes(16)), all_lanes(1))
    rounded = builder.add(bits, builder.add(odd, all_lanes(0x7FFF)))
    quiet = builder.or_(bits, all_lanes(0x400000))  # adding could carry a NaN over to infinity
    kept = builder.select(builder.fcmp_unordered("uno", value, value), quiet, rounded)
    return builder.trunc(builder.lshr(kept, all_lanes(16)), narrow)


class Tile(NamedTuple):
    """The intrinsics of one tile shape; see :func:`tile`."""

    name: str  # for cache variants
    rows: int
    vectors: int
    cols: int  # vectors * lanes, in elements
    zero: Any  # zero() -> tile
    fma: Any  # fma(tile, a, ai, stride, b, bi): tile[r, c] += a[ai + r*stride] * b[bi + c]
    load: Any  # load(m, mi, stride) -> tile: tile[r, c] = m[mi + r*stride + c]
    add: Any  # add(tile, m, mi, stride) -> tile: tile[r, c] += m[mi + r*stride + c]
    store: Any  # store(tile, m, mi, stride): m[mi + r*stride + c] = tile[r, c]
    stream: Any  # like store, past the caches: rows start at multiples of a vector's bytes
    store_apart: Any  # store_apart(tile, m, mi, stride, apart): 16 columns together, the next 16 ``apart`` on
    add_row: Any  # add_row(tile, v, vi) -> tile: tile[r, c] += v[vi + c]
    relu: Any  # relu(tile) -> tile: negative elements become 0, NaN stays
    fma_at: Any  # fma_at(tile, at, i, k, b, bi) -> tile: tile[r, c] += (number k at address at[i + r]) * b[bi + c]
    add_at: Any  # add_at(tile, m, places, mi) -> tile: tile[r, c] += m[places[r] + mi + c]
    store_at: Any  # store_at(tile, m, places, mi): m[places[r] + mi + c] = tile[r, c]


@functools.cache
def tile(dtype: str, rows: int, vectors: int) -> Tile:
    """The tile of ``rows`` x ``vectors`` registers of this machine's width, made once for each shape.

    Args:
        dtype: "float32", "float64", or "bfloat16": operands of bfloat16 pairs, float32 sums that are loaded from
            and stored to arrays of float32 or of uint16 (bfloat16 numbers).
        rows: rows of the tile, each a broadcast operand.
        vectors: SIMD registers per row.
    """
    _, _, itemsize = element_of(dtype)
    machine = target()
    lanes = machine.float_lanes * 4 // itemsize
    kind = TileType(dtype, lanes, rows, vectors)
    vector, struct = kind.vector, kind.struct
    places = [(r, v, r * vectors + v) for r in range(rows) for v in range(vectors)]
    splat = ir.Constant(ir.VectorType(I32, lanes), [0] * lanes)
    operand = ir.VectorType(I32, lanes) if dtype == "bfloat16" else vector
    nothing = ir.Constant(operand, ir.Undefined)
    zeros = ir.Constant(vector, [0.0] * lanes)

    def build(builder: Any, values: list[Any]) -> Any:
        out = ir.Constant(struct, ir.Undefined)
        for place, value in enumerate(values):
            out = builder.insert_value(out, value, place)
        return out

    def load_vector(builder: Any, address: Any, kind: Any = vector) -> Any:
        value = builder.load(builder.bitcast(address, kind.as_pointer()))
        value.align = itemsize
        return value

    def load_operand(builder: Any, address: Any) -> Any:
        return load_vector(builder, address, operand)

    def load_sums(builder: Any, array_type: Any, address: Any) -> Any:
        if array_type.dtype != types.uint16:
            return load_vector(builder, address)
        narrow = ir.VectorType(ir.IntType(16), lanes)
        value = builder.load(builder.bitcast(address, narrow.as_pointer()))
        value.align = 2
        return _widen_bfloat16(builder, value, lanes)

    def store_sums(builder: Any, array_type: Any, address: Any, value: Any, streaming: bool) -> None:
        align = itemsize
        if array_type.dtype == types.uint16 and machine.dot_bfloat16:
            rounded = ir.VectorType(_BFloat(), lanes)  # one instruction; numbers below 1e-38 become 0
            value = call(builder, "llvm.x86.avx512bf16.cvtneps2bf16.512", value, result=rounded)
            value, align = builder.bitcast(value, ir.VectorType(ir.IntType(16), lanes)), 2
        elif array_type.dtype == types.uint16:
            value, align = _narrow_bfloat16(builder, value, lanes), 2
        instruction = builder.store(value, builder.bitcast(address, value.type.as_pointer()))
        instruction.align = align
        if streaming:
            instruction.align = lanes * (2 if array_type.dtype == types.uint16 else itemsize)
            one = builder.module.add_metadata([ir.Constant(I32, 1)])
            instruction.set_metadata("nontemporal", one)

    def multiply_add(builder: Any, x: Any, y: Any, z: Any) -> Any:
        if x.type != vector and machine.dot_bfloat16:
            pairs = ir.VectorType(_BFloat(), 2 * lanes)
            x, y = builder.bitcast(x, pairs), builder.bitcast(y, pairs)
            return call(builder, "llvm.x86.avx512bf16.dpbf16ps.512", z, x, y)
        if x.type != vector:
            for left, right in zip(_halves(builder, x, lanes), _halves(builder, y, lanes), strict=True):
                z = multiply_add(builder, left, right, z)
            return z
        if not machine.fma:  # llvm.fma would become a library call
            return builder.fadd(builder.fmul(x, y), z)
        return call(builder, f"llvm.fma.v{lanes}f{itemsize * 8}", x, y, z)

    def call(builder: Any, name: str, *operands: Any, result: Any = vector) -> Any:
        signature = ir.FunctionType(result, [operand.type for operand in operands])
        return builder.call(cgutils.get_or_insert_function(builder.module, signature, name), operands)

    @intrinsic
    def zero(typing: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return build(builder, [zeros] * len(places))

        return kind(), generate

    @intrinsic
    def fma(typing: Any, acc: Any, a: Any, ai: Any, stride: Any, b: Any, bi: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            acc, a, ai, stride, b, bi = args
            column = pointer_to(context, builder, signature.args[1], a, ai)
            row = pointer_to(context, builder, signature.args[4], b, bi)
            right = [load_operand(builder, builder.gep(row, [const(v * lanes)])) for v in range(vectors)]
            out: list[Any] = []
            for r in range(rows):
                left = builder.load(builder.gep(column, [builder.mul(stride, const(r))]))
                left = builder.insert_element(nothing, left, ir.Constant(I32, 0))
                left = builder.shuffle_vector(left, nothing, splat)
                for v in range(vectors):
                    old = builder.extract_value(acc, r * vectors + v)
                    out.append(multiply_add(builder, left, right[v], old))
            return build(builder, out)

        return kind(kind, a, types.intp, types.intp, b, types.intp), generate

    def entry(context: Any, builder: Any, table_type: Any, table: Any, place: Any) -> Any:
        return builder.load(pointer_to(context, builder, table_type, table, place))

    @intrinsic
    def fma_at(typing: Any, acc: Any, rows_at: Any, ri: Any, k: Any, b: Any, bi: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            acc, table, ri, k, b, bi = args
            row = pointer_to(context, builder, signature.args[4], b, bi)
            right = [load_operand(builder, builder.gep(row, [const(v * lanes)])) for v in range(vectors)]
            out: list[Any] = []
            for r in range(rows):
                address = entry(context, builder, signature.args[1], table, builder.add(ri, const(r)))
                pointer = builder.inttoptr(address, operand.element.as_pointer())
                left = builder.load(builder.gep(pointer, [k]))
                left = builder.insert_element(nothing, left, ir.Constant(I32, 0))
                left = builder.shuffle_vector(left, nothing, splat)
                for v in range(vectors):
                    old = builder.extract_value(acc, r * vectors + v)
                    out.append(multiply_add(builder, left, right[v], old))
            return build(builder, out)

        return kind(kind, rows_at, types.intp, types.intp, b, types.intp), generate

    def address_at(context: Any, builder: Any, array_types: Any, operands: Any, r: int, v: int) -> Any:
        m, table, mi = operands
        offset = builder.add(entry(context, builder, array_types[1], table, const(r)), mi)
        return pointer_to(context, builder, array_types[0], m, builder.add(offset, const(v * lanes)))

    @intrinsic
    def add_at(typing: Any, acc: Any, m: Any, table: Any, mi: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            values = []
            for r, v, place in places:
                address = address_at(context, builder, signature.args[1:], args[1:], r, v)
                old = load_sums(builder, signature.args[1], address)
                values.append(builder.fadd(builder.extract_value(args[0], place), old))
            return build(builder, values)

        return kind(kind, m, table, types.intp), generate

    @intrinsic
    def store_at(typing: Any, acc: Any, m: Any, table: Any, mi: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            for r, v, place in places:
                address = address_at(context, builder, signature.args[1:], args[1:], r, v)
                store_sums(builder, signature.args[1], address, builder.extract_value(args[0], place), False)
            return context.get_dummy_value()

        return types.void(kind, m, table, types.intp), generate

    @intrinsic
    def load(typing: Any, m: Any, mi: Any, stride: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            m, mi, stride = args
            base = pointer_to(context, builder, signature.args[0], m, mi)
            values = []
            for r, v, _ in places:
                offset = builder.add(builder.mul(stride, const(r)), const(v * lanes))
                values.append(load_sums(builder, signature.args[0], builder.gep(base, [offset])))
            return build(builder, values)

        return kind(m, types.intp, types.intp), generate

    @intrinsic
    def add(typing: Any, acc: Any, c: Any, ci: Any, stride: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            acc, c, ci, stride = args
            base = pointer_to(context, builder, signature.args[1], c, ci)
            values = []
            for r, v, place in places:
                offset = builder.add(builder.mul(stride, const(r)), const(v * lanes))
                old = load_sums(builder, signature.args[1], builder.gep(base, [offset]))
                values.append(builder.fadd(builder.extract_value(acc, place), old))
            return build(builder, values)

        return kind(kind, c, types.intp, types.intp), generate

    def storing(streaming: bool) -> Any:
        def store(typing: Any, acc: Any, c: Any, ci: Any, stride: Any) -> Any:
            def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
                acc, c, ci, stride = args
                base = pointer_to(context, builder, signature.args[1], c, ci)
                for r, v, place in places:
                    offset = builder.add(builder.mul(stride, const(r)), const(v * lanes))
                    value = builder.extract_value(acc, place)
                    store_sums(builder, signature.args[1], builder.gep(base, [offset]), value, streaming)
                return context.get_dummy_value()

            return types.void(kind, c, types.intp, types.intp), generate

        return intrinsic(store)

    @intrinsic
    def store_apart(typing: Any, acc: Any, c: Any, ci: Any, stride: Any, apart: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            acc, c, ci, stride, apart = args
            base = pointer_to(context, builder, signature.args[1], c, ci)
            for r, v, place in places:
                jump, column = divmod(v * lanes, CHUNK)
                offset = builder.add(builder.mul(stride, const(r)), builder.mul(apart, const(jump)))
                address = builder.gep(base, [builder.add(offset, const(column))])
                store_sums(builder, signature.args[1], address, builder.extract_value(acc, place), False)
            return context.get_dummy_value()

        return types.void(kind, c, types.intp, types.intp, types.intp), generate

    @intrinsic
    def add_row(typing: Any, acc: Any, row: Any, ri: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            acc, row, ri = args
            base = pointer_to(context, builder, signature.args[1], row, ri)
            right = [load_vector(builder, builder.gep(base, [const(v * lanes)])) for v in range(vectors)]
            return build(
                builder, [builder.fadd(builder.extract_value(acc, p), right[v]) for _, v, p in places]
            )

        return kind(kind, row, types.intp), generate

    @intrinsic
    def relu(typing: Any, acc: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            old = [builder.extract_value(args[0], place) for _, _, place in places]
            # An ordered comparison is false for NaN, which therefore passes.
            return build(
                builder, [builder.select(builder.fcmp_ordered("<", x, zeros), zeros, x) for x in old]
            )

        return kind(kind), generate

    name = f"{dtype}x{lanes}-{rows}x{vectors}"
    plain = (zero, fma, load, add, storing(False), storing(True), store_apart, add_row, relu)
    return Tile(name, rows, vectors, vectors * lanes, *plain, fma_at, add_at, store_at)


def _number_intrinsic(typing: Any, array: Any, index: Any) -> Any:
    result = types.float32 if array.dtype == types.uint16 else array.dtype

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        value = builder.load(pointer_to(context, builder, signature.args[0], *args))
        if result == array.dtype:
            return value
        lane = builder.insert_element(_ONE_HALF, value, ir.Constant(I32, 0))
        return builder.extract_element(_widen_bfloat16(builder, lane, 1), ir.Constant(I32, 0))

    return result(array, types.intp), generate


def _put_intrinsic(typing: Any, array: Any, index: Any, value: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        array, index, value = args
        if signature.args[0].dtype == types.uint16:
            lane = builder.insert_element(_ONE_FLOAT, value, ir.Constant(I32, 0))
            value = builder.extract_element(_narrow_bfloat16(builder, lane, 1), ir.Constant(I32, 0))
        builder.store(value, pointer_to(context, builder, signature.args[0], array, index))
        return context.get_dummy_value()

    stored = types.float32 if array.dtype == types.uint16 else array.dtype
    return types.void(array, types.intp, stored), generate


_ONE_HALF = ir.Constant(ir.VectorType(ir.IntType(16), 1), ir.Undefined)
_ONE_FLOAT = ir.Constant(ir.VectorType(ir.FloatType(), 1), ir.Undefined)

number: Any = intrinsic(_number_intrinsic)
"""number(m, i): m[i], of a uint16 array the bfloat16 number as float32."""

put: Any = intrinsic(_put_intrinsic)
"""put(m, i, value): m[i] = value, into a uint16 array rounded to bfloat16."""


def _copy_intrinsic(typing: Any, to: Any, ti: Any, source: Any, si: Any, count: Any) -> Any:

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        to, ti, source, si, count = args
        target_pointer = pointer_to(context, builder, signature.args[0], to, ti)
        source_pointer = pointer_to(context, builder, signature.args[2], source, si)
        itemsize = context.get_abi_sizeof(context.get_data_type(signature.args[0].dtype))
        cgutils.raw_memcpy(builder, target_pointer, source_pointer, count, itemsize)
        return context.get_dummy_value()

    return types.void(to, types.intp, source, types.intp, types.intp), generate


copy: Any = intrinsic(_copy_intrinsic)  # typed Any: for mypy the typing context is an argument
"""copy(to, ti, source, si, count): to[ti : ti+count] = source[si : si+count], which must not overlap."""


def _fetch_intrinsic(typing: Any, address: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = builder.inttoptr(args[0], ir.IntType(8).as_pointer())
        kind = ir.FunctionType(ir.VoidType(), [pointer.type, I32, I32, I32])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
        read, second_level, data_cache = (ir.Constant(I32, value) for value in (0, 2, 1))
        builder.call(function, [pointer, read, second_level, data_cache])
        return context.get_dummy_value()

    return types.void(types.intp), generate


fetch: Any = intrinsic(_fetch_intrinsic)
"""fetch(address): ask for the cache line at this address, to be in the L2 cache when it is used."""


def lanes_of(dtype: np.dtype[Any]) -> int:
    """Elements of this dtype in one vector register."""
    return target().float_lanes * 4 // dtype.itemsize
