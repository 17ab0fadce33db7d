"""Sixteen numbers at a time: the vector type of the memory-bound kernels.

``load`` takes 16 neighbouring elements of an array, ``+ - *`` and the functions below work on all of them at
once, and ``store`` puts them back::

    for j in range(0, width, LANES):
        store(y, j, fma(load(x, j), load(scale, j), load(shift, j)))

Why not leave it to LLVM: it turns a plain loop into vectors only after proving, at run time, that no two of
the arrays overlap, and gives up beyond eight such comparisons. Sixteen lanes of any type are split by LLVM
into what the machine has: one register of AVX-512, two of AVX2, four of NEON.

Nothing here checks bounds. An index counts elements of a C-contiguous array from its first one, whatever its
shape.
"""

from __future__ import annotations

import operator
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic as _numba_intrinsic
from numba.extending import lower_builtin, models, register_model

from minidl.kernels.cpu.compiler import jit

LANES = 16

intrinsic: Any = _numba_intrinsic  # seen as the kernels call it: without the typing context

_INT32 = ir.IntType(32)


class Lanes(types.Type):
    """The Numba type of LANES elements of one scalar type; of types.boolean it is a mask."""

    def __init__(self, element: types.Type) -> None:
        self.element = element
        super().__init__(name=f"Lanes({element})")


@register_model(Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Lanes) -> None:
        super().__init__(manager, kind, ir.VectorType(_llvm(kind.element), LANES))


def _llvm(element: types.Type) -> ir.Type:
    if isinstance(element, types.Boolean):
        return ir.IntType(1)
    if isinstance(element, types.Integer):
        return ir.IntType(element.bitwidth)  # type: ignore[attr-defined]
    return ir.FloatType() if element == types.float32 else ir.DoubleType()


def vector_of(element: types.Type) -> ir.VectorType:
    return ir.VectorType(_llvm(element), LANES)


def address_of(context: Any, builder: ir.IRBuilder, kind: types.Array, array: Any, index: Any) -> Any:
    """Pointer to LANES elements of an array, from element `index` on."""
    data = context.make_array(kind)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), vector_of(kind.dtype).as_pointer())


def _broadcast(builder: ir.IRBuilder, value: Any) -> Any:
    undefined = ir.Constant(ir.VectorType(value.type, LANES), ir.Undefined)
    first = builder.insert_element(undefined, value, ir.Constant(_INT32, 0))
    return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(_INT32, LANES), [0] * LANES))


def _resize(builder: ir.IRBuilder, value: Any, source: types.Type, target: types.Type) -> Any:
    """Convert floating-point lanes to a wider or narrower type."""
    if source == target:
        return value
    convert = builder.fpext if target == types.float64 else builder.fptrunc
    return convert(value, vector_of(target))


def is_array(kind: Any) -> bool:
    return isinstance(kind, types.Array) and kind.layout == "C"


@intrinsic
def load(typing: Any, array: Any, index: Any) -> Any:
    """array[index : index + LANES] of the flat array."""
    if not is_array(array):
        return None

    def generate(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        value = builder.load(address_of(context, builder, sig.args[0], *args))
        value.align = sig.args[0].dtype.bitwidth // 8
        return value

    return Lanes(array.dtype)(array, types.intp), generate


@intrinsic
def load_wide(typing: Any, array: Any, index: Any) -> Any:
    """Like load, converted to float64."""
    if not is_array(array):
        return None

    def generate(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        value = builder.load(address_of(context, builder, sig.args[0], *args))
        value.align = sig.args[0].dtype.bitwidth // 8
        return _resize(builder, value, sig.args[0].dtype, types.float64)

    return Lanes(types.float64)(array, types.intp), generate


@intrinsic
def store(typing: Any, array: Any, index: Any, value: Any) -> Any:
    """array[index : index + LANES] = value, rounded to the array's type."""
    if not is_array(array) or not isinstance(value, Lanes):
        return None

    def generate(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        target, place, lanes = args
        lanes = _resize(builder, lanes, sig.args[2].element, sig.args[0].dtype)
        instruction = builder.store(lanes, address_of(context, builder, sig.args[0], target, place))
        instruction.align = sig.args[0].dtype.bitwidth // 8
        return context.get_dummy_value()

    return types.void(array, types.intp, value), generate


@intrinsic
def stream(typing: Any, array: Any, index: Any, value: Any) -> Any:
    """Like store, past the caches: for outputs too large to be read again from there.

    Saves reading each cache line before it is overwritten. The address must be a multiple of the vector's
    size: an index that is a multiple of LANES in an array from the memory pool. Call ``drain`` after the last
    one.
    """
    if not is_array(array) or not isinstance(value, Lanes):
        return None

    def generate(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        target, place, lanes = args
        lanes = _resize(builder, lanes, sig.args[2].element, sig.args[0].dtype)
        instruction = builder.store(lanes, address_of(context, builder, sig.args[0], target, place))
        instruction.align = 64
        one = builder.module.add_metadata([ir.Constant(_INT32, 1)])
        instruction.set_metadata("nontemporal", one)
        return context.get_dummy_value()

    return types.void(array, types.intp, value), generate


@intrinsic
def drain(typing: Any) -> Any:
    """Make what ``stream`` wrote visible to other threads."""

    def generate(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), generate


@intrinsic
def splat(typing: Any, value: Any) -> Any:
    """One scalar in every lane."""
    if not isinstance(value, (types.Integer, types.Float)):
        return None

    def generate(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        return _broadcast(builder, args[0])

    return Lanes(value)(value), generate


@intrinsic
def zeros_like(typing: Any, value: Any) -> Any:
    """Zero in every lane."""

    def generate(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        return ir.Constant(vector_of(sig.return_type.element), None)

    return value(value), generate


@intrinsic
def widen(typing: Any, value: Any) -> Any:
    """The lanes as float64."""

    def generate(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        return _resize(builder, args[0], sig.args[0].element, types.float64)

    return Lanes(types.float64)(value), generate


@intrinsic
def fma(typing: Any, a: Any, b: Any, c: Any) -> Any:
    """a * b + c, rounded once where the machine has such an instruction."""

    def generate(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        kind = vector_of(sig.return_type.element)
        name = f"llvm.fmuladd.v{LANES}f{sig.return_type.element.bitwidth}"
        return builder.call(
            cgutils.get_or_insert_function(builder.module, ir.FunctionType(kind, [kind] * 3), name), args
        )

    return a(a, a, a), generate


@intrinsic
def at_least(typing: Any, x: Any, floor: Any) -> Any:
    """max(x, floor) where a NaN in x stays NaN. A floor of 0 is ReLU, one of -inf changes nothing."""

    def generate(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        value, low = args
        # floor > NaN is false, so NaN passes; x86 has exactly this as one instruction.
        return builder.select(builder.fcmp_ordered(">", low, value), low, value)

    return x(x, floor), generate


@intrinsic
def where_positive(typing: Any, y: Any, g: Any) -> Any:
    """g where y > 0, else 0."""

    def generate(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        positive = builder.fcmp_ordered(">", args[0], ir.Constant(args[0].type, None))
        return builder.select(positive, args[1], ir.Constant(args[1].type, None))

    return g(y, g), generate


@intrinsic
def beats(typing: Any, value: Any, best: Any) -> Any:
    """Mask: value > best, or value is the first NaN."""

    def generate(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        a, b = args
        return builder.and_(builder.fcmp_unordered(">", a, b), builder.fcmp_ordered("ord", b, b))

    return Lanes(types.boolean)(value, best), generate


@intrinsic
def has_nan(typing: Any, x: Any) -> Any:
    """Whether a lane is NaN."""

    def generate(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        mask = builder.fcmp_unordered("uno", args[0], args[0])
        bits = builder.bitcast(mask, ir.IntType(LANES))
        return builder.icmp_unsigned("!=", bits, ir.Constant(bits.type, 0))

    return types.boolean(x), generate


@intrinsic
def equal(typing: Any, a: Any, b: Any) -> Any:
    """Mask: the integers are equal."""

    def generate(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        return builder.icmp_signed("==", *args)

    return Lanes(types.boolean)(a, b), generate


@intrinsic
def select(typing: Any, mask: Any, a: Any, b: Any) -> Any:
    """a where the mask is true, else b."""

    def generate(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        return builder.select(*args)

    return a(mask, a, a), generate


def _define_operator(function: Any, instruction: str) -> None:
    class Template(AbstractTemplate):
        def generic(self, args: Any, kws: Any) -> Any:
            if len(args) == 2 and isinstance(args[0], Lanes) and args[0] == args[1]:
                return signature(args[0], *args)
            return None

    def generate(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        return getattr(builder, instruction)(*args)

    infer_global(function)(Template)
    lower_builtin(function, Lanes, Lanes)(generate)


for _function, _instruction in ((operator.add, "fadd"), (operator.sub, "fsub"), (operator.mul, "fmul")):
    _define_operator(_function, _instruction)


@intrinsic
def address(typing: Any, array: Any, index: Any) -> Any:
    """The address of one element, for fetch; any index is allowed."""
    if not is_array(array):
        return None

    def generate(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        data = context.make_array(sig.args[0])(context, builder, args[0]).data
        return builder.ptrtoint(builder.gep(data, [args[1]]), ir.IntType(64))

    return types.intp(array, types.intp), generate


def _prefetch(level: int) -> Any:
    def ask(typing: Any, place: Any) -> Any:
        def generate(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
            pointer = builder.inttoptr(args[0], ir.IntType(8).as_pointer())
            kind = ir.FunctionType(ir.VoidType(), [pointer.type, _INT32, _INT32, _INT32])
            function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
            read, data_cache = ir.Constant(_INT32, 0), ir.Constant(_INT32, 1)
            builder.call(function, [pointer, read, ir.Constant(_INT32, level), data_cache])
            return context.get_dummy_value()

        return types.void(types.intp), generate

    return intrinsic(ask)


fetch: Any = _prefetch(3)
"""fetch(address): ask for the cache line of an address ahead of its use; any address is allowed, nothing is read."""

fetch_far: Any = _prefetch(2)
"""Like fetch, into the L2 cache alone: for what is used after much else."""


@jit
def prefetch(array: Any, index: int) -> None:
    """Ask for the cache line of one element ahead of its use; any index is allowed, nothing is read."""
    fetch(address(array, index))
