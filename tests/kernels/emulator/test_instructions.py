"""The translation of PTX, instruction by instruction, against NumPy on edge values.

Every entry is one line of inline assembly in a kernel of its own; all of them are compiled together.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from minidl.kernels.cuda.device import CUDAError, Module
from minidl.kernels.emulator import EmulatedDevice
from tests.kernels.emulator.needs import emulator

pytestmark = emulator

C = {"u32": "unsigned", "s32": "int", "u64": "unsigned long long", "s64": "long long", "f32": "float"}
C |= {"f64": "double", "b16": "unsigned short"}
LETTER = {"u32": "r", "s32": "r", "u64": "l", "s64": "l", "f32": "f", "f64": "d", "b16": "h"}
NUMPY = {"u32": "u4", "s32": "i4", "u64": "u8", "s64": "i8", "f32": "f4", "f64": "f8", "b16": "u2"}


@dataclass(frozen=True)
class Case:
    """``asm`` with %0 as the result and %1, %2, %3 as arguments of ``types``; ``expected`` says what it must give."""

    asm: str
    result: str
    types: tuple[str, ...]
    expected: Callable[..., Any]
    exact: bool = True


def _bits(x: Any, kind: str) -> Any:
    return np.asarray(x).view(kind)


def _f16(x: Any) -> Any:
    return np.asarray(x, np.uint16).view(np.float16).astype(np.float32)


def _bf16(x: Any) -> Any:
    return np.asarray(x, np.uint16).view(ml_dtypes.bfloat16).astype(np.float32)


def _h(x: Any) -> Any:
    return np.asarray(x, np.float32).astype(np.float16).view(np.uint16)


def _b(x: Any) -> Any:
    return np.asarray(x, np.float32).astype(ml_dtypes.bfloat16).view(np.uint16)


def _each(f: Callable[..., int]) -> Callable[..., Any]:
    return lambda *columns: np.array(
        [f(*(int(v) for v in row)) for row in zip(*columns, strict=True)], object
    )


def _to_int(low: int, high: int, rounding: Callable[[Any], Any]) -> Callable[..., Any]:
    def convert(x: Any) -> Any:
        whole = rounding(np.where(np.isnan(x), 0, x).astype(np.float64))
        return np.array([int(min(max(float(v), low), high)) for v in whole], object)

    return convert


def _extract(signed: bool) -> Callable[..., Any]:
    def field(a: int, at: int, length: int) -> int:
        at, length = at & 255, length & 255
        if length == 0:
            return 0
        sign = (a >> min(at + length - 1, 31)) & 1 if signed else 0
        return sum(((a >> (at + i)) & 1 if at + i < 32 else sign) << i for i in range(min(length, 32))) | (
            (~((1 << min(length, 32)) - 1)) & 0xFFFFFFFF if sign else 0
        )

    return _each(field)


def _permute(a: int, b: int, selector: int) -> int:
    source = (b & 0xFFFFFFFF) << 32 | a & 0xFFFFFFFF
    out = 0
    for i in range(4):
        s = selector >> 4 * i & 15
        byte = source >> 8 * (s & 7) & 255
        out |= (255 if byte & 128 else 0) << 8 * i if s & 8 else byte << 8 * i
    return out


M32, M64 = 0xFFFFFFFF, (1 << 64) - 1
CASES = {
    "add.s32": Case("add.s32 %0, %1, %2;", "s32", ("s32", "s32"), lambda a, b: a + b),
    "sub.s64": Case("sub.s64 %0, %1, %2;", "s64", ("s64", "s64"), lambda a, b: a - b),
    "add.sat.s32": Case("add.sat.s32 %0, %1, %2;", "s32", ("s32", "s32"),
                        lambda a, b: np.clip(a.astype("i8") + b, -(2**31), 2**31 - 1)),
    "carry": Case("{ .reg .u32 t; add.cc.u32 t, %1, %2; addc.u32 %0, 0, 0; }", "u32", ("u32", "u32"),
                  _each(lambda a, b: (a + b) >> 32)),
    "borrow": Case("{ .reg .u32 t; sub.cc.u32 t, %1, %2; subc.u32 %0, 7, 0; }", "u32", ("u32", "u32"),
                   _each(lambda a, b: 7 - (a < b))),
    "mul.lo.s32": Case("mul.lo.s32 %0, %1, %2;", "s32", ("s32", "s32"), lambda a, b: a * b),
    "mul.hi.s32": Case("mul.hi.s32 %0, %1, %2;", "s32", ("s32", "s32"), lambda a, b: a.astype("i8") * b >> 32),
    "mul.hi.u32": Case("mul.hi.u32 %0, %1, %2;", "u32", ("u32", "u32"), lambda a, b: a.astype("u8") * b >> 32),
    "mul.hi.u64": Case("mul.hi.u64 %0, %1, %2;", "u64", ("u64", "u64"), _each(lambda a, b: a * b >> 64)),
    "mul.wide.s32": Case("mul.wide.s32 %0, %1, %2;", "s64", ("s32", "s32"), lambda a, b: a.astype("i8") * b),
    "mul.wide.u32": Case("mul.wide.u32 %0, %1, %2;", "u64", ("u32", "u32"), lambda a, b: a.astype("u8") * b),
    "mad.lo.s32": Case("mad.lo.s32 %0, %1, %2, %3;", "s32", ("s32",) * 3, lambda a, b, c: a * b + c),
    "mad.wide.u32": Case("mad.wide.u32 %0, %1, %2, %3;", "u64", ("u32", "u32", "u64"),
                         _each(lambda a, b, c: (a * b + c) & M64)),
    "mad.hi.u32": Case("mad.hi.u32 %0, %1, %2, %3;", "u32", ("u32",) * 3,
                       _each(lambda a, b, c: ((a * b >> 32) + c) & M32)),
    "div.s32": Case("div.s32 %0, %1, %2;", "s32", ("s32", "s32"),
                    _each(lambda a, b: int(math.copysign(abs(a) // abs(b), a * b)) if b else -1)),
    "rem.s32": Case("rem.s32 %0, %1, %2;", "s32", ("s32", "s32"),
                    _each(lambda a, b: int(math.copysign(abs(a) % abs(b), a)) if b else a)),
    "div.u64": Case("div.u64 %0, %1, %2;", "u64", ("u64", "u64"), _each(lambda a, b: a // b if b else M64)),
    "min.s32": Case("min.s32 %0, %1, %2;", "s32", ("s32", "s32"), np.minimum),
    "max.u64": Case("max.u64 %0, %1, %2;", "u64", ("u64", "u64"), np.maximum),
    "abs.s32": Case("abs.s32 %0, %1;", "s32", ("s32",), np.abs),
    "neg.s64": Case("neg.s64 %0, %1;", "s64", ("s64",), lambda a: -a),
    "sad.u32": Case("sad.u32 %0, %1, %2, %3;", "u32", ("u32",) * 3,
                    _each(lambda a, b, c: (abs(a - b) + c) & M32)),
    "and.b32": Case("and.b32 %0, %1, %2;", "u32", ("u32", "u32"), np.bitwise_and),
    "xor.b64": Case("xor.b64 %0, %1, %2;", "u64", ("u64", "u64"), np.bitwise_xor),
    "not.b32": Case("not.b32 %0, %1;", "u32", ("u32",), np.invert),
    "cnot.b32": Case("cnot.b32 %0, %1;", "u32", ("u32",), lambda a: a == 0),
    "lop3": Case("lop3.b32 %0, %1, %2, %3, 0x96;", "u32", ("u32",) * 3, lambda a, b, c: a ^ b ^ c),
    "lop3.mux": Case("lop3.b32 %0, %1, %2, %3, 0xCA;", "u32", ("u32",) * 3, lambda a, b, c: (a & b) | (~a & c)),
    "shl.b32": Case("shl.b32 %0, %1, %2;", "u32", ("u32", "u32"),
                    _each(lambda a, n: (a << n) & M32 if n < 32 else 0)),
    "shr.u32": Case("shr.u32 %0, %1, %2;", "u32", ("u32", "u32"), _each(lambda a, n: a >> n if n < 32 else 0)),
    "shr.s32": Case("shr.s32 %0, %1, %2;", "s32", ("s32", "u32"), _each(lambda a, n: a >> min(n, 31))),
    "shf.l.wrap": Case("shf.l.wrap.b32 %0, %1, %2, %3;", "u32", ("u32",) * 3,
                       _each(lambda a, b, n: ((b << 32 | a) << (n & 31)) >> 32 & M32)),
    "shf.r.clamp": Case("shf.r.clamp.b32 %0, %1, %2, %3;", "u32", ("u32",) * 3,
                        _each(lambda a, b, n: (b << 32 | a) >> min(n, 32) & M32)),
    "prmt": Case("prmt.b32 %0, %1, %2, %3;", "u32", ("u32",) * 3, _each(_permute)),
    "bfe.u32": Case("bfe.u32 %0, %1, %2, %3;", "u32", ("u32",) * 3, _extract(False)),
    "bfe.s32": Case("bfe.s32 %0, %1, %2, %3;", "u32", ("u32",) * 3, _extract(True)),
    "bfi": Case("bfi.b32 %0, %1, %2, 5, 9;", "u32", ("u32", "u32"),
                lambda a, b: (b & ~np.uint32(0x1FF << 5)) | (a & np.uint32(0x1FF)) << np.uint32(5)),
    "bfind.u32": Case("bfind.u32 %0, %1;", "u32", ("u32",), _each(lambda a: a.bit_length() - 1 if a else M32)),
    "bfind.s32": Case("bfind.s32 %0, %1;", "u32", ("s32",),
                      _each(lambda a: (a if a >= 0 else ~a).bit_length() - 1 & M32)),
    "clz.b64": Case("clz.b64 %0, %1;", "u32", ("u64",), _each(lambda a: 64 - a.bit_length())),
    "popc.b32": Case("popc.b32 %0, %1;", "u32", ("u32",), _each(lambda a: a.bit_count())),
    "brev.b32": Case("brev.b32 %0, %1;", "u32", ("u32",), _each(lambda a: int(f"{a:032b}"[::-1], 2))),
    "selp": Case("{ .reg .pred p; setp.lt.s32 p, %1, %2; selp.b32 %0, %1, %2, p; }", "s32", ("s32", "s32"),
                 np.minimum),
    "setp with a second predicate": Case(
        "{ .reg .pred p, q; setp.gt.and.s32 p|q, %1, %2, 1; @p mov.b32 %0, 1; @q mov.b32 %0, 2; }",
        "u32", ("s32", "s32"), lambda a, b: np.where(a > b, 1, 2)),
    "setp.ltu.f32": Case("{ .reg .pred p; setp.ltu.f32 p, %1, %2; selp.b32 %0, 1, 0, p; }", "u32", ("f32", "f32"),
                         lambda a, b: (a < b) | np.isnan(a) | np.isnan(b)),
    "setp.ne.f32": Case("{ .reg .pred p; setp.ne.f32 p, %1, %2; selp.b32 %0, 1, 0, p; }", "u32", ("f32", "f32"),
                        lambda a, b: (a != b) & ~np.isnan(a) & ~np.isnan(b)),
    "setp.nan.f32": Case("{ .reg .pred p; setp.nan.f32 p, %1, %2; selp.b32 %0, 1, 0, p; }", "u32", ("f32", "f32"),
                         lambda a, b: np.isnan(a) | np.isnan(b)),
    "set.gt": Case("set.gt.u32.f32 %0, %1, %2;", "u32", ("f32", "f32"), lambda a, b: np.where(a > b, M32, 0)),
    "slct": Case("slct.s32.s32 %0, %1, %2, %3;", "s32", ("s32",) * 3, lambda a, b, c: np.where(c >= 0, a, b)),
    "add.f32": Case("add.rn.f32 %0, %1, %2;", "f32", ("f32", "f32"), np.add),
    "mul.f64": Case("mul.rn.f64 %0, %1, %2;", "f64", ("f64", "f64"), np.multiply),
    "add.sat.f32": Case("add.sat.f32 %0, %1, %2;", "f32", ("f32", "f32"),
                        lambda a, b: np.where(np.isnan(a + b), 0, np.clip(a + b, 0, 1))),
    "fma.f32": Case("fma.rn.f32 %0, %1, %2, %3;", "f32", ("f32",) * 3,
                    lambda a, b, c: (a.astype("f8") * b + c).astype("f4"), False),
    "div.f32": Case("div.rn.f32 %0, %1, %2;", "f32", ("f32", "f32"), np.divide),
    "min.f32": Case("min.f32 %0, %1, %2;", "f32", ("f32", "f32"), np.fmin),
    "max.NaN.f32": Case("max.NaN.f32 %0, %1, %2;", "f32", ("f32", "f32"), np.maximum),
    "neg.f32": Case("neg.f32 %0, %1;", "f32", ("f32",), np.negative),
    "abs.f64": Case("abs.f64 %0, %1;", "f64", ("f64",), np.abs),
    "copysign": Case("copysign.f32 %0, %1, %2;", "f32", ("f32", "f32"), lambda a, b: np.copysign(b, a)),
    "sqrt": Case("sqrt.rn.f32 %0, %1;", "f32", ("f32",), np.sqrt),
    "rsqrt": Case("rsqrt.approx.f32 %0, %1;", "f32", ("f32",), lambda a: 1 / np.sqrt(a), False),
    "rcp": Case("rcp.rn.f64 %0, %1;", "f64", ("f64",), np.reciprocal),
    "ex2": Case("ex2.approx.ftz.f32 %0, %1;", "f32", ("f32",), np.exp2, False),
    "lg2": Case("lg2.approx.f32 %0, %1;", "f32", ("f32",), np.log2, False),
    "tanh": Case("tanh.approx.f32 %0, %1;", "f32", ("f32",), np.tanh, False),
    "sin": Case("sin.approx.f32 %0, %1;", "f32", ("f32",), np.sin, False),
    "testp": Case("{ .reg .pred p; testp.finite.f32 p, %1; selp.b32 %0, 1, 0, p; }", "u32", ("f32",), np.isfinite),
    "cvt.s64.s32": Case("cvt.s64.s32 %0, %1;", "s64", ("s32",), lambda a: a),
    "cvt.u8": Case("{ .reg .u16 t; cvt.u16.u32 t, %1; cvt.u32.u8 %0, t; }", "u32", ("u32",), lambda a: a & 255),
    "cvt.sat.u8": Case("cvt.sat.u8.s32 %0, %1;", "u32", ("s32",), lambda a: np.clip(a, 0, 255)),
    "cvt.rzi.s32.f32": Case("cvt.rzi.s32.f32 %0, %1;", "s32", ("f32",), _to_int(-(2**31), 2**31 - 1, np.trunc)),
    "cvt.rni.s32.f32": Case("cvt.rni.s32.f32 %0, %1;", "s32", ("f32",), _to_int(-(2**31), 2**31 - 1, np.rint)),
    "cvt.rzi.u32.f64": Case("cvt.rzi.u32.f64 %0, %1;", "u32", ("f64",), _to_int(0, 2**32 - 1, np.trunc)),
    "cvt.rmi.f32": Case("cvt.rmi.f32.f32 %0, %1;", "f32", ("f32",), np.floor),
    "cvt.rpi.f64": Case("cvt.rpi.f64.f64 %0, %1;", "f64", ("f64",), np.ceil),
    "cvt.rn.f32.s32": Case("cvt.rn.f32.s32 %0, %1;", "f32", ("s32",), lambda a: a.astype("f4")),
    "cvt.rn.f64.u64": Case("cvt.rn.f64.u64 %0, %1;", "f64", ("u64",), lambda a: a.astype("f8")),
    "cvt.rn.f32.f64": Case("cvt.rn.f32.f64 %0, %1;", "f32", ("f64",), lambda a: a.astype("f4")),
    "cvt.sat.f32": Case("cvt.sat.f32.f32 %0, %1;", "f32", ("f32",),
                        lambda a: np.where(np.isnan(a), 0, np.clip(a, 0, 1))),
    "cvt.rn.f16.f32": Case("cvt.rn.f16.f32 %0, %1;", "b16", ("f32",), _h),
    "cvt.f32.f16": Case("cvt.f32.f16 %0, %1;", "f32", ("b16",), _f16),
    "cvt.rn.bf16.f32": Case("cvt.rn.bf16.f32 %0, %1;", "b16", ("f32",), _b),
    "cvt.rn.bf16x2.f32": Case("cvt.rn.bf16x2.f32 %0, %1, %2;", "u32", ("f32", "f32"),
                              lambda a, b: _b(a).astype("u4") << np.uint32(16) | _b(b)),
    "cvt.rn.f16x2.f32": Case("cvt.rn.f16x2.f32 %0, %1, %2;", "u32", ("f32", "f32"),
                             lambda a, b: _h(a).astype("u4") << np.uint32(16) | _h(b)),
    "cvt.rna.tf32": Case("cvt.rna.tf32.f32 %0, %1;", "u32", ("f32",),
                         lambda a: np.where(
                             np.isfinite(a), _bits(a, "u4") + np.uint32(0x1000) & np.uint32(0xFFFFE000), _bits(a, "u4")
                         )),
    "add.f16": Case("add.f16 %0, %1, %2;", "b16", ("b16", "b16"), lambda a, b: _h(_f16(a) + _f16(b))),
    "fma.rn.f16": Case("fma.rn.f16 %0, %1, %2, %3;", "b16", ("b16",) * 3,
                       lambda a, b, c: _h((_f16(a).astype("f8") * _f16(b) + _f16(c)).astype("f4"))),
    "mul.bf16": Case("fma.rn.bf16 %0, %1, %2, %3;", "b16", ("b16",) * 3,
                     lambda a, b, c: _b((_bf16(a).astype("f8") * _bf16(b) + _bf16(c)).astype("f4"))),
    "mul.f16x2": Case("mul.f16x2 %0, %1, %2;", "u32", ("u32", "u32"),
                      lambda a, b: _h(_f16(a >> np.uint32(16)) * _f16(b >> np.uint32(16))).astype("u4") << np.uint32(16)
                      | _h(_f16(a & np.uint32(0xFFFF)) * _f16(b & np.uint32(0xFFFF)))),
    "mov.b64": Case("mov.b64 %0, {%1, %2};", "u64", ("u32", "u32"), _each(lambda a, b: b << 32 | a)),
    "mov.unpack": Case("{ .reg .b32 t; mov.b64 {t, %0}, %1; }", "u32", ("u64",), lambda a: a >> np.uint64(32)),
    "nested registers of one name": Case(
        "{ .reg .u32 t; mov.u32 t, %1; { .reg .u64 t; mov.u64 t, 5; } mov.u32 %0, t; }", "u32", ("u32",), lambda a: a),
    "a loop": Case(
        "{ .reg .u32 i; .reg .pred p; mov.u32 i, 0; mov.u32 %0, 0; AGAIN: add.u32 %0, %0, %1; add.u32 i, i, 1; "
        "setp.lt.u32 p, i, 3; @p bra AGAIN; }", "u32", ("u32",), lambda a: a * np.uint32(3)),
}  # fmt: skip

EDGES = {
    "u": [0, 1, 2, 5, 31, 32, 33, 100, 255, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF, 0x12345678],
    "s": [0, 1, -1, 2, -5, 31, 100, 300, -300, 2**31 - 1, -(2**31), 12345678, -87654321, 7],
    "f": [
        0.0,
        -0.0,
        1.0,
        -1.5,
        2.5,
        0.5,
        3e-40,
        1e-3,
        65519.0,
        7e4,
        3e9,
        -3e9,
        np.inf,
        -np.inf,
        np.nan,
        1.0000001,
    ],
    "b": [
        0x0000,
        0x8000,
        0x3C00,
        0x3F80,
        0xBC01,
        0x0001,
        0x7BFF,
        0x7C00,
        0xFC00,
        0x4200,
        0x0400,
        0x83FF,
        0x4049,
    ],
}


def values(kind: str, position: int) -> np.ndarray:
    """Edge values of a type, then random ones; each argument gets another order."""
    rng = np.random.default_rng(position)
    dtype = np.dtype(NUMPY[kind])
    edges = np.array(EDGES[kind[0]]).astype(dtype)
    if kind[0] == "f":
        extra = (rng.standard_normal(64) * 10.0 ** rng.integers(-6, 6, 64)).astype(dtype)
    elif kind == "b16":
        extra = rng.integers(0, 0x7BFF, 64).astype(dtype)
    else:
        extra = rng.integers(np.iinfo(dtype).min, np.iinfo(dtype).max, 64, dtype, endpoint=True)
    grid = np.tile(edges, len(edges)) if position else np.repeat(edges, len(edges))
    return np.concatenate([np.roll(grid, position * 3), extra])


def source() -> str:
    kernels = []
    for number, case in enumerate(CASES.values()):
        args = ", ".join(f"const {C[t]}* a{i}" for i, t in enumerate(case.types))
        inputs = ", ".join(f'"{LETTER[t]}"(a{i}[t])' for i, t in enumerate(case.types))
        text = case.asm.replace("AGAIN", f"AGAIN{number}")
        kernels.append(
            f'extern "C" __global__ void case_{number}({args}, {C[case.result]}* y, int n) {{\n'
            f"  const int t = threadIdx.x + blockIdx.x * blockDim.x;\n  if (t >= n) return;\n"
            f"  {C[case.result]} r = 0;\n"
            f'  asm volatile("{text}" : "+{LETTER[case.result]}"(r) : {inputs});\n  y[t] = r;\n}}'
        )
    return "\n".join(kernels)


@pytest.fixture(scope="module")
def module() -> tuple[EmulatedDevice, Module]:
    device = EmulatedDevice(90, check=False)
    return device, device.compile("instructions.cu", code=source())


@pytest.mark.parametrize("name", CASES)
def test_an_instruction_computes_what_the_manual_says(
    name: str, module: tuple[EmulatedDevice, Module]
) -> None:
    device, kernels = module
    case = CASES[name]
    columns = [values(kind, i) for i, kind in enumerate(case.types)]
    count = min(map(len, columns))
    columns = [c[:count] for c in columns]
    y = np.zeros(count, NUMPY[case.result])
    number = list(CASES).index(name)
    device.launch(kernels[f"case_{number}"], -(-count // 64), 64, (*columns, y, count))
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wanted = np.asarray(case.expected(*columns))
        if wanted.dtype == object or (wanted.dtype.kind in "iu" and y.dtype.kind in "iu"):
            whole = [int(v) % 2 ** (8 * y.itemsize) for v in wanted.reshape(-1)]
            wanted = np.array(whole, f"u{y.itemsize}").view(y.dtype)
        wanted = wanted.astype(y.dtype)
    if case.exact:
        if case.result == "b16":  # every NaN is as good as another
            same = (y == wanted) | (((y & 0x7FFF) > 0x7C00) & ((wanted & 0x7FFF) > 0x7C00))
            assert same.all(), [(hex(a), hex(b)) for a, b in zip(y[~same], wanted[~same], strict=True)][:5]
        elif name.endswith("x2.f32") or name == "mul.f16x2":
            nan = [((v >> s & 0x7FFF) > 0x7C00) for v in (y, wanted) for s in (0, 16)]
            halves = [(y >> s & 0xFFFF) == (wanted >> s & 0xFFFF) for s in (0, 16)]
            assert ((halves[0] | (nan[0] & nan[2])) & (halves[1] | (nan[1] & nan[3]))).all()
        else:
            np.testing.assert_array_equal(y, wanted)
    else:
        np.testing.assert_allclose(y, wanted, rtol=2e-6, atol=1e-38, equal_nan=True)


def test_an_unknown_instruction_is_named_with_its_line() -> None:
    body = 'int r;\n  asm("dp4a.s32.s32 %0, 1, 2, 3;" : "=r"(r));\n  *y = r;'
    code = f'extern "C" __global__ void f(int* y) {{\n  {body}\n}}'
    with pytest.raises(CUDAError, match=r"strange\.cu:3: .* does not know the PTX instruction: dp4a\.s32"):
        EmulatedDevice().compile("strange.cu", code=code)
