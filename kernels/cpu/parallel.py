"""Runs a compiled kernel on Numba's threads without compiling it a second time.

The direct way, one ``prange`` around each kernel, costs more than the kernel itself: Numba links the kernel
into the parallel function and optimises all of it twice more. Here one ``prange``, compiled once, serves
all kernels. It calls a machine address with a block of memory that holds the arguments::

    pack(block, arguments)            writes the arguments behind block[0], returns the trampoline of their
    types run_parts(trampoline, block, n)   for part in prange(n): trampoline(block, part, n)
    trampoline(block, part, n)        reads the arguments from the block, calls the code at block[0]
"""

from __future__ import annotations

import functools
import threading
from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import get_num_threads, prange, types
from numba.core import cgutils
from numba.extending import intrinsic

from minidl.kernels.cpu.compiler import jit

BLOCK_WORDS = 512  # 64-bit words: some forty arrays

_WORD = ir.IntType(64)
_BYTES = ir.IntType(8).as_pointer()
_ENTRY = ir.FunctionType(ir.VoidType(), [_BYTES, _WORD, _WORD])


def _borrowed(context: Any, builder: Any, kind: Any, value: Any) -> Any:
    """An array without its owner: the caller keeps the memory alive, the kernel counts no references."""
    if not isinstance(kind, types.Array):
        return value
    array = context.make_array(kind)(context, builder, value)
    array.meminfo = cgutils.get_null_value(array.meminfo.type)
    array.parent = cgutils.get_null_value(array.parent.type)
    return array._getvalue()


def _trampoline(context: Any, module: Any, argument_types: list[Any], places: list[int], returns: Any) -> Any:
    """An LLVM function (block, part, parts) that reads the arguments at ``places`` and calls the code at word 0."""
    function = ir.Function(module, _ENTRY, f"minidl_trampoline_{0}")
    function.linkage = "internal"
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    block, part, parts = function.args
    arguments = []
    for kind, place in zip(argument_types, places, strict=True):
        address = builder.gep(block, [ir.Constant(_WORD, place * 8)])
        arguments.append(builder.load(builder.bitcast(address, kind.as_pointer())))
    signature = ir.FunctionType(returns, [*argument_types, _WORD, _WORD])
    code = builder.load(builder.bitcast(block, signature.as_pointer().as_pointer()))
    builder.call(code, [*arguments, part, parts])
    builder.ret_void()
    return function


def _pack_intrinsic(typing: Any, block: Any, arguments: Any) -> Any:
    for kind in arguments.types:
        if any(not isinstance(member, types.Number) for member in getattr(kind, "types", ())):
            raise TypeError(f"kernel: a tuple argument expects numbers, got {kind}")

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        words = context.make_array(signature.args[0])(context, builder, values[0]).data
        argument_types, places = [], []
        place = 1
        for n, kind in enumerate(signature.args[1].types):
            value = _borrowed(context, builder, kind, builder.extract_value(values[1], n))
            address = builder.gep(words, [ir.Constant(_WORD, place)])
            builder.store(value, builder.bitcast(address, value.type.as_pointer())).align = 8
            argument_types.append(value.type)
            places.append(place)
            place += -(-context.get_abi_sizeof(value.type) // 8)
        if place > BLOCK_WORDS:
            raise ValueError(f"kernel: the arguments need {place} words, there are {BLOCK_WORDS}")
        returns = context.get_value_type(types.none)
        return builder.ptrtoint(_trampoline(context, builder.module, argument_types, places, returns), _WORD)

    return types.intp(block, arguments), generate


_pack: Any = intrinsic(_pack_intrinsic)  # typed Any: for mypy the typing context is an argument


@jit
def pack(block: Any, arguments: Any) -> Any:
    """Write the arguments to block[1:]; return the address of the trampoline of their types."""
    return _pack(block, arguments)


def _call_intrinsic(typing: Any, code: Any, block: Any, part: Any, parts: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        code, block, part, parts = values
        function = builder.inttoptr(code, _ENTRY.as_pointer())
        builder.call(function, [builder.inttoptr(block, _BYTES), part, parts])
        return context.get_dummy_value()

    return types.void(types.intp, types.intp, types.intp, types.intp), generate


_call: Any = intrinsic(_call_intrinsic)


@jit
def call_packed(code: int, block: Any, arguments: Any, part: int, parts: int) -> None:
    """Call the code at an address for one share, from within a kernel that need not be compiled together with it.

    block: BLOCK_WORDS words for its arguments, which must have the types that the code was compiled for.
    """
    block[0] = code
    _call(_pack(block, arguments), block.ctypes.data, part, parts)


@jit(parallel=True)
def run_parts(trampoline: int, block: int, parts: int) -> None:
    """Call the trampoline for part = 0..parts-1, in parallel."""
    for part in prange(parts):
        _call(trampoline, block, part, parts)


@jit(inline="always")
def _run_alone(trampoline: int, block: int, parts: int) -> None:
    for part in range(parts):
        _call(trampoline, block, part, parts)


@jit(inline="always")
def _run_shared(trampoline: int, block: int, parts: int) -> None:
    if parts == 1:
        _call(trampoline, block, 0, parts)
    else:
        run_parts(trampoline, block, parts)


# What runs all parts in its own thread must not be linked with run_parts: loaded from the cache where no threads have
# been started, that code would lack the threading layer's symbols.


@functools.cache
def patched_runner(alone: bool) -> Any:
    """The function that runs launches with addresses put in; ``alone``: all parts in this thread."""
    run = _run_alone if alone else _run_shared

    @jit(variant="alone" if alone else "shared")
    def run_patched(words: Any, heads: Any, patches: Any, block: Any, address: int, arrays: Any) -> None:
        """Run launches one after the other: copy the arguments of each to ``block``, at ``address``, and put addresses
        in.

        Args:
            words: the arguments of all, each behind the address of its code.
            heads: (n, 6): trampoline, parts, first word and past the last, first patch and past the last.
            patches: (m, 3): word of a launch, number of an array, and bytes from its start to the address to put there.
            arrays: a tuple of arrays.
        """
        starts = np.empty(len(arrays), np.int64)
        for i in range(len(arrays)):
            starts[i] = arrays[i].ctypes.data
        for n in range(heads.shape[0]):
            trampoline, parts, first = heads[n, 0], heads[n, 1], heads[n, 2]
            for i in range(first, heads[n, 3]):
                block[i - first] = words[i]
            for p in range(heads[n, 4], heads[n, 5]):
                block[patches[p, 0]] = starts[patches[p, 1]] + patches[p, 2]
            run(trampoline, address, parts)

    return run_patched


@functools.cache
def recorded_runner(alone: bool) -> Any:
    """The function that runs a recording; ``alone``: all parts in this thread."""
    run = _run_alone if alone else _run_shared

    @jit(variant="alone" if alone else "shared")
    def run_recorded(records: Any) -> None:
        """Call the trampolines of records (n, 3) int64, one after another: address, block and parts of each."""
        for i in range(len(records)):
            run(records[i, 0], records[i, 1], records[i, 2])

    return run_recorded


@jit
def own_threads() -> int:
    """:func:`numba.get_num_threads` once the threading layer is there, without what that looks after each time."""
    count: int = get_num_threads()
    return count


class _ThreadBlock(threading.local):
    def __init__(self) -> None:
        self.words = np.zeros(BLOCK_WORDS, np.int64)
        self.address = self.words.ctypes.data


_blocks = _ThreadBlock()


def argument_block() -> tuple[npt.NDArray[np.int64], int]:
    """This thread's block and its address."""
    return _blocks.words, _blocks.address


def code_address(dispatcher: Any, signature: tuple[Any, ...]) -> int:
    """The address of the C function that Numba makes beside a compiled function; its arguments are LLVM values."""
    dispatcher.compile(signature)
    result = dispatcher.overloads[signature]
    return int(result.library.get_pointer_to_function(result.fndesc.llvm_cfunc_wrapper_name))
