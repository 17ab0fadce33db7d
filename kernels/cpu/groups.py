"""Small groups in the lanes of a vector: multiply-adds in which every lane reads channels of its own group only.

With ``width`` channels and outputs to a group, 16 lanes hold 16 / width groups. Output lane l adds up the channels of
its group, one after the other, each brought to its lane by a shuffle within the register::

    width 4, channel 1 of each group        x:      0  1  2  3 | 4  5  6  7 | 8  9 ...
                                            moved:  1  1  1  1 | 5  5  5  5 | 9  9 ...

So no lane multiplies by the zeros between groups. Width 1 is the depthwise convolution, where nothing moves.
"""

from __future__ import annotations

import functools
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from minidl.kernels.cpu import simd
from minidl.kernels.cpu.simd import I32, const, element_of, pointer_to, target


def group_width(outputs: int, channels: int, groups: int, itemsize: int) -> int:
    """Channels of a group where groups fit side by side into a vector: 1 for depthwise convolutions. Else 0.

    ``outputs`` are those of all groups, ``channels`` those of one. bfloat16 is computed in float32.
    """
    lanes = target().float_lanes * 4 // max(itemsize, 4)
    fits = groups > 1 and outputs == groups * channels and lanes % max(channels, 1) == 0
    return channels if fits else 0


class _Vectors:
    """The LLVM of loads, shuffles and multiply-adds of one dtype."""

    def __init__(self, dtype: str, width: int) -> None:
        element, _, self.itemsize = element_of(dtype)
        self.lanes = target().float_lanes * 4 // self.itemsize
        self.width = width
        self.vector = ir.VectorType(element, self.lanes)

    def load(self, builder: Any, address: Any) -> Any:
        value = builder.load(builder.bitcast(address, self.vector.as_pointer()))
        value.align = self.itemsize
        return value

    def multiply_add(self, builder: Any, x: Any, y: Any, z: Any) -> Any:
        if not target().fma:  # llvm.fma would become a library call
            return builder.fadd(builder.fmul(x, y), z)
        signature = ir.FunctionType(self.vector, [self.vector] * 3)
        name = f"llvm.fma.v{self.lanes}f{self.itemsize * 8}"
        return builder.call(cgutils.get_or_insert_function(builder.module, signature, name), [x, y, z])

    def channel(self, builder: Any, value: Any, i: int) -> Any:
        """Channel i of each lane's group, in every lane of the group."""
        if self.width == 1:
            return value
        places = [lane // self.width * self.width + i for lane in range(self.lanes)]
        mask = ir.Constant(ir.VectorType(I32, self.lanes), places)
        return builder.shuffle_vector(value, ir.Constant(self.vector, ir.Undefined), mask)


@functools.cache
def group_fma(dtype: str, rows: int, vectors: int, width: int) -> Any:
    """The intrinsic fma(tile, a, ai, step, b, bi) -> tile of a tile of simd.py:

    tile[r, c] += sum over i < width of a[ai + r*step + channel i of c's group] * b[bi + i*cols + c].
    """
    v = _Vectors(dtype, width)
    kind = simd.TileType(dtype, v.lanes, rows, vectors)
    cols = vectors * v.lanes

    @intrinsic
    def fma(typing: Any, acc: Any, a: Any, ai: Any, step: Any, b: Any, bi: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            acc, a, ai, step, b, bi = args
            left = pointer_to(context, builder, signature.args[1], a, ai)
            right = pointer_to(context, builder, signature.args[4], b, bi)
            out = acc
            for x in range(vectors):
                weights = [
                    v.load(builder, builder.gep(right, [const(i * cols + x * v.lanes)])) for i in range(width)
                ]
                for r in range(rows):
                    offset = builder.add(builder.mul(step, const(r)), const(x * v.lanes))
                    pixel = v.load(builder, builder.gep(left, [offset]))
                    place = r * vectors + x
                    total = builder.extract_value(acc, place)
                    for i in range(width):
                        moved = v.channel(builder, pixel, i)
                        total = v.multiply_add(builder, moved, weights[i], total)
                    out = builder.insert_value(out, total, place)
            return out

        return kind(kind, a, types.intp, types.intp, b, types.intp), generate

    return fma


@functools.cache
def group_outer(dtype: str, taps: int, width: int) -> Any:
    """The intrinsic outer(tile, a, ai, table, ti, b, bi) -> tile of a tile of taps*width rows of one register:

    tile[t*width + i, c] += a[ai + table[ti + t] + channel i of c's group] * b[bi + c].
    """
    v = _Vectors(dtype, width)
    kind = simd.TileType(dtype, v.lanes, taps * width, 1)

    @intrinsic
    def outer(typing: Any, acc: Any, a: Any, ai: Any, table: Any, ti: Any, b: Any, bi: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            acc, a, ai, table, ti, b, bi = args
            gradient = v.load(builder, pointer_to(context, builder, signature.args[5], b, bi))
            out = acc
            for t in range(taps):
                entry = pointer_to(context, builder, signature.args[3], table, builder.add(ti, const(t)))
                at = builder.add(ai, builder.load(entry))
                pixel = v.load(builder, pointer_to(context, builder, signature.args[1], a, at))
                for i in range(width):
                    place = t * width + i
                    total = builder.extract_value(acc, place)
                    moved = v.channel(builder, pixel, i)
                    out = builder.insert_value(out, v.multiply_add(builder, moved, gradient, total), place)
            return out

        return kind(kind, a, types.intp, table, types.intp, b, types.intp), generate

    return outer
