"""Moves, arithmetic, comparisons, bits and conversions."""

from __future__ import annotations

from minidl.kernels.emulator.ptx import SIZES, Instruction
from minidl.kernels.emulator.translate import C, Writer, instruction

HALVES = {"f16x2": "f16", "bf16x2": "bf16"}
FLOATS = ("f16", "bf16", "f32", "f64")


def unsigned(kind: str) -> str:
    """The unsigned type of a size, in which integer arithmetic wraps around."""
    return "u" + kind[1:] if kind[0] in "sb" else kind


def signed_twin(kind: str, bits: int) -> str:
    """The type of another size with the same sign."""
    return kind[0] + str(bits)


def lanewise(w: Writer, i: Instruction, kind: str, formula: str, names: str) -> str:
    """``formula`` over named operands, for one value or for the two halves of a register."""
    values = [w.read(o, kind) for o in i.operands[1 : 1 + len(names)]]
    half = HALVES.get(kind)
    if half is None:
        lets = " ".join(f"const {C[kind]} {n} = {v};" for n, v in zip(names, values, strict=True))
        return f"using T = {C[kind]}; {lets} {w.result(i, formula, kind)}"
    arguments = ", ".join(f"{half} {n}" for n in names)
    return f"using T = {half}; " + w.result(
        i, f"both<T>([&]({arguments}) -> T {{ return {formula}; }}, {', '.join(values)})", "b32"
    )


# --- moves --------------------------------------------------------------------------------------------------


@instruction("mov")
def move(w: Writer, i: Instruction) -> str:
    target, source = i.operands
    kind = i.opcode[-1]
    if target.startswith("{"):
        parts = w.vector(target)
        bits = 8 * SIZES[kind] // len(parts)
        v = f"const {C[unsigned(kind)]} v = {w.read(source, unsigned(kind))}; "
        return v + " ".join(
            w.write(p, f"({C[f'u{bits}']})(v >> {n * bits})", f"b{bits}") for n, p in enumerate(parts)
        )
    if source.startswith("{"):
        parts = w.vector(source)
        bits = 8 * SIZES[kind] // len(parts)
        whole = C[unsigned(kind)]
        terms = [f"({whole}){w.read(p, f'b{bits}')} << {n * bits}" for n, p in enumerate(parts)]
        return w.write(target, " | ".join(terms), unsigned(kind))
    return w.write(target, w.read(source, kind), kind)


@instruction("selp")
def select(w: Writer, i: Instruction) -> str:
    kind = i.opcode[-1]
    _, a, b, p = i.operands
    return w.result(i, f"{w.read(p, 'pred')} ? {w.read(a, kind)} : {w.read(b, kind)}", kind)


@instruction("slct")
def select_by_sign(w: Writer, i: Instruction) -> str:
    kind, sign = i.opcode[-2:]
    _, a, b, c = i.operands
    return w.result(i, f"{w.read(c, sign)} >= 0 ? {w.read(a, kind)} : {w.read(b, kind)}", kind)


# --- arithmetic ---------------------------------------------------------------------------------------------


@instruction("add", "sub")
def add(w: Writer, i: Instruction) -> str:
    kind = i.opcode[-1]
    if kind in HALVES or kind in FLOATS:
        sat = "sat" in i.opcode
        formula = (
            f"{i.opcode[0]}<float>(a, b)" if kind in ("f16", "bf16", *HALVES) else f"{i.opcode[0]}<T>(a, b)"
        )
        return lanewise(w, i, kind, f"saturate<T>({formula})" if sat else formula, "ab")
    sign = "+" if i.opcode[0] == "add" else "-"
    if "sat" in i.opcode:
        wide = f"(int64_t){w.read(i.operands[1], kind)} {sign} (int64_t){w.read(i.operands[2], kind)}"
        return w.result(i, f"clamp_int<{C[kind]}>({wide})", kind)
    u = unsigned(kind)
    a, b = w.sources(i, u)
    if "cc" in i.opcode:  # carry out, or borrow
        code = f"const {C[u]} a = {a}, b = {b}; carry = {'(' + C[u] + ')(a + b) < a' if sign == '+' else 'a < b'}; "
        return code + w.result(i, f"a {sign} b", u)
    return w.result(i, f"{a} {sign} {b}", u)


@instruction("addc", "subc")
def add_with_carry(w: Writer, i: Instruction) -> str:
    u = unsigned(i.opcode[-1])
    sign = "+" if i.opcode[0] == "addc" else "-"
    a, b = w.sources(i, u)
    code = f"const __int128 v = (__int128){a} {sign} (__int128){b} {sign} (carry ? 1 : 0); "
    if "cc" in i.opcode:
        code += f"carry = v < 0 || v >> {8 * SIZES[u]} != 0; "
    return code + w.result(i, f"({C[u]})v", u)


@instruction("mul", "mul24")
def multiply(w: Writer, i: Instruction) -> str:
    kind = i.opcode[-1]
    if kind in HALVES or kind in FLOATS:
        formula = "mul<float>(a, b)" if kind in ("f16", "bf16", *HALVES) else "mul<T>(a, b)"
        return lanewise(w, i, kind, f"saturate<T>({formula})" if "sat" in i.opcode else formula, "ab")
    return product(w, i, kind, "")


@instruction("mad", "fma", "mad24")
def multiply_add(w: Writer, i: Instruction) -> str:
    kind = i.opcode[-1]
    if kind in HALVES or kind in FLOATS:
        formula = "fma_(a, b, c)"
        if "sat" in i.opcode:
            formula = f"saturate<T>({formula})"
        if "relu" in i.opcode:
            formula = f"larger<T>({formula}, (T)0.0f, true)"
        return lanewise(w, i, kind, formula, "abc")
    return product(w, i, kind, i.operands[3])


def product(w: Writer, i: Instruction, kind: str, addend: str) -> str:
    """mul and mad of integers: the low half, the high half, or all of the product."""
    bits = 8 * SIZES[kind]
    a, b = w.read(i.operands[1], kind), w.read(i.operands[2], kind)
    if i.opcode[0].endswith("24"):
        shift = "<< 8 >> 8" if kind[0] == "s" else "& 0xFFFFFF"
        a, b = f"({a} {shift})", f"({b} {shift})"
    if "wide" in i.opcode:
        d = unsigned(signed_twin(kind, 2 * bits))
        value = f"({C[d]})(({C[signed_twin(kind, 2 * bits)]}){a} * ({C[signed_twin(kind, 2 * bits)]}){b})"
    elif "hi" in i.opcode:
        d = kind
        value = f"({C[kind]})(({'' if kind[0] == 's' else 'unsigned '}__int128){a} * {b} >> {bits})"
        if addend:
            d = unsigned(kind)
    else:
        d = unsigned(kind)
        wide = "uint64_t" if bits == 64 else "uint32_t"
        value = f"({wide}){a} * ({wide}){b}"
    if addend:
        value = f"({C[d]})({value}) + {w.read(addend, d)}"
    if "cc" in i.opcode or i.opcode[0] == "madc":
        raise KeyError(i.opcode)
    return w.result(i, value, d)


@instruction("div", "rem")
def divide(w: Writer, i: Instruction) -> str:
    kind = i.opcode[-1]
    a, b = w.sources(i, kind)
    return w.result(i, f"{'divide' if i.opcode[0] == 'div' else 'modulo'}<{C[kind]}>({a}, {b})", kind)


@instruction("min", "max")
def extreme(w: Writer, i: Instruction) -> str:
    kind = i.opcode[-1]
    name = "smaller" if i.opcode[0] == "min" else "larger"
    nan = ", true" if "NaN" in i.opcode else ""
    if len(i.operands) > 3 or "xorsign" in i.opcode:
        raise KeyError(i.opcode)
    formula = f"{name}<T>(a, b{nan})"
    if "relu" in i.opcode:
        formula = f"larger<T>({formula}, 0)"
    return lanewise(w, i, kind, formula, "ab")


@instruction("neg", "abs")
def sign(w: Writer, i: Instruction) -> str:
    kind = i.opcode[-1]
    negative = i.opcode[0] == "neg"
    if kind in HALVES or kind in FLOATS:
        bits = "u32" if kind in HALVES else f"u{8 * SIZES[kind]}"
        mask = {"f16": 0x8000, "bf16": 0x8000, "f32": 1 << 31, "f64": 1 << 63}.get(kind, 0x80008000)
        x = w.read(i.operands[1], bits)
        return w.result(i, f"{x} ^ {mask}ull" if negative else f"{x} & ~{mask}ull", bits)
    x = w.read(i.operands[1], kind)
    minus = f"0 - ({C[unsigned(kind)]}){x}"
    return w.result(i, minus if negative else f"{x} < 0 ? {minus} : {x}", kind)


@instruction("sad")
def sum_of_differences(w: Writer, i: Instruction) -> str:
    kind = i.opcode[-1]
    a, b, c = w.sources(i, kind)
    return w.result(i, f"{c} + ({a} < {b} ? {b} - {a} : {a} - {b})", kind)


@instruction("copysign")
def copy_sign(w: Writer, i: Instruction) -> str:
    bits = "u" + i.opcode[-1][1:]
    top = f"{1 << (8 * SIZES[bits] - 1)}ull"
    a, b = w.sources(i, bits)
    return w.result(i, f"({a} & {top}) | ({b} & ~{top})", bits)


UNARY = {
    "sqrt": "sqrt(a)",
    "rsqrt": "1 / sqrt(a)",
    "rcp": "1 / a",
    "ex2": "exp2(a)",
    "lg2": "log2(a)",
    "sin": "sin(a)",
    "cos": "cos(a)",
    "tanh": "tanh(a)",
}


@instruction(*UNARY)
def function(w: Writer, i: Instruction) -> str:
    kind = i.opcode[-1]
    wide = "double" if kind == "f64" else "float"
    formula = UNARY[i.opcode[0]].replace("a)", f"({wide})a)").replace("/ a", f"/ ({wide})a")
    f = "" if kind == "f64" else "f"
    for name in ("sqrt", "exp2", "log2", "sin", "cos", "tanh"):
        formula = formula.replace(f"{name}(", f"{name}{f}(")
    return lanewise(w, i, kind, formula, "a")


# --- comparisons --------------------------------------------------------------------------------------------

COMPARE = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}
COMPARE |= {"lo": "<", "ls": "<=", "hi": ">", "hs": ">="}


def comparison(name: str, kind: str, a: str, b: str) -> str:
    """A comparison; with a NaN the plain ones are false and those ending in u are true."""
    if name in ("num", "nan"):
        return f"({'!' if name == 'num' else ''}({a} != {a} || {b} != {b}))"
    if kind in FLOATS:
        if name == "ne":
            return f"({a} == {a} && {b} == {b} && {a} != {b})"
        if name.endswith("u") and name[:-1] in COMPARE:
            return f"({a} != {a} || {b} != {b} || {a} {COMPARE[name[:-1]]} {b})"
    return f"({a} {COMPARE[name]} {b})"


@instruction("setp")
def set_predicate(w: Writer, i: Instruction) -> str:
    words = [o for o in i.opcode[1:] if o != "ftz"]
    kind = words[-1]
    a, b = w.read(i.operands[1], kind), w.read(i.operands[2], kind)
    if kind in HALVES:
        raise KeyError(kind)
    value = comparison(words[0], kind, "a", "b")
    other = f"!{value}"
    if len(words) == 3:  # combined with a third predicate
        combine = {"and": "&&", "or": "||", "xor": "!="}[words[1]]
        c = w.read(i.operands[3], "pred")
        value, other = f"{value} {combine} {c}", f"(!{value}) {combine} {c}"
    code = f"const {C[kind]} a = {a}, b = {b}; "
    target, _, second = i.operands[0].partition("|")
    # both are computed before either is written: the third predicate may be one of them
    code += f"const bool x = {value}, y = {other}; (void)y; " + w.write(target, "x", "pred")
    return code + (w.write(second, "y", "pred") if second else "")


@instruction("set")
def set_value(w: Writer, i: Instruction) -> str:
    d, kind = i.opcode[-2:]
    if kind in HALVES or len([o for o in i.opcode if o != "ftz"]) != 4:
        raise KeyError(i.opcode)
    a, b = w.sources(i, kind)
    test = comparison(i.opcode[1], kind, "a", "b")
    yes = "1.0f" if d == "f32" else "~0u"
    return f"const {C[kind]} a = {a}, b = {b}; " + w.result(i, f"{test} ? {yes} : 0", d)


@instruction("testp")
def has_property(w: Writer, i: Instruction) -> str:
    kind = i.opcode[-1]
    tests = {
        "finite": "isfinite(a)",
        "infinite": "isinf(a)",
        "number": "!isnan(a)",
        "notanumber": "isnan(a)",
        "normal": "isnormal(a)",
        "subnormal": "fpclassify(a) == FP_SUBNORMAL",
    }
    return f"const {C[kind]} a = {w.read(i.operands[1], kind)}; " + w.result(i, tests[i.opcode[1]], "pred")


# --- bits ---------------------------------------------------------------------------------------------------


@instruction("and", "or", "xor")
def logic(w: Writer, i: Instruction) -> str:
    kind = i.opcode[-1]
    a, b = w.sources(i, kind)
    sign = {"and": "&", "or": "|", "xor": "^"}[i.opcode[0]]
    return w.result(i, f"{a} {sign} {b}", kind)


@instruction("not")
def invert(w: Writer, i: Instruction) -> str:
    kind = i.opcode[-1]
    return w.result(i, ("!" if kind == "pred" else "~") + w.read(i.operands[1], kind), kind)


@instruction("cnot")
def logical_not(w: Writer, i: Instruction) -> str:
    return w.result(i, f"{w.read(i.operands[1], i.opcode[-1])} == 0", i.opcode[-1])


@instruction("lop3")
def three_input_logic(w: Writer, i: Instruction) -> str:
    if i.opcode[1] != "b32":
        raise KeyError(i.opcode)
    return w.result(i, f"lop3({', '.join(w.sources(i, 'b32'))})", "b32")


@instruction("shl", "shr")
def shift(w: Writer, i: Instruction) -> str:
    kind = i.opcode[-1]
    name = "shift_left" if i.opcode[0] == "shl" else "shift_right"
    a, n = w.read(i.operands[1], kind), w.read(i.operands[2], "u32")
    return w.result(i, f"{name}<{C[kind]}>({a}, {n})", kind)


@instruction("shf")
def funnel_shift(w: Writer, i: Instruction) -> str:
    side = {"l": "left", "r": "right"}[i.opcode[1]]
    low, high, n = w.sources(i, "u32")
    amount = f"{n} & 31" if i.opcode[2] == "wrap" else f"({n} > 32 ? 32 : {n})"
    return w.result(i, f"funnel_{side}({low}, {high}, {amount})", "u32")


@instruction("prmt")
def permute_bytes(w: Writer, i: Instruction) -> str:
    if i.opcode != ("prmt", "b32"):
        raise KeyError(i.opcode)
    return w.result(i, f"permute({', '.join(w.sources(i, 'b32'))})", "b32")


@instruction("bfe")
def extract_field(w: Writer, i: Instruction) -> str:
    kind = i.opcode[-1]
    _, a, at, length = i.operands
    fields = f"{w.read(a, kind)}, {w.read(at, 'u32')}, {w.read(length, 'u32')}"
    return w.result(i, f"extract<{C[kind]}>({fields})", kind)


@instruction("bfi")
def insert_field(w: Writer, i: Instruction) -> str:
    kind = i.opcode[-1]
    _, a, b, at, length = i.operands
    fields = f"{w.read(a, kind)}, {w.read(b, kind)}, {w.read(at, 'u32')}, {w.read(length, 'u32')}"
    return w.result(i, f"insert<{C[kind]}>({fields})", kind)


@instruction("bfind")
def find_highest_bit(w: Writer, i: Instruction) -> str:
    kind = i.opcode[-1]
    amount = "true" if "shiftamt" in i.opcode else "false"
    return w.result(i, f"highest<{C[kind]}>({w.read(i.operands[1], kind)}, {amount})", "u32")


@instruction("clz", "popc")
def count_bits(w: Writer, i: Instruction) -> str:
    kind = i.opcode[-1]
    x = w.read(i.operands[1], kind)
    suffix = "ll" if kind == "b64" else ""
    if i.opcode[0] == "popc":
        return w.result(i, f"__builtin_popcount{suffix}({x})", "u32")
    return w.result(i, f"{x} == 0 ? {8 * SIZES[kind]} : __builtin_clz{suffix}({x})", "u32")


@instruction("brev")
def reverse_bits(w: Writer, i: Instruction) -> str:
    kind = i.opcode[-1]
    return w.result(i, f"reverse<{C[kind]}>({w.read(i.operands[1], kind)})", kind)


# --- conversions --------------------------------------------------------------------------------------------

ROUND = {"rni": "rint", "rmi": "floor", "rpi": "ceil", "rzi": "trunc"}


@instruction("cvt")
def convert(w: Writer, i: Instruction) -> str:
    words = i.opcode[1:]
    kinds = [o for o in words if o in C or o == "tf32"]
    if len(kinds) != 2 or any(o in ("rs", "satfinite", "scaled") for o in words):
        raise KeyError(words)
    d, s = kinds
    if d in HALVES:
        return convert_pair(w, i, d, s)
    if d == "tf32":
        if s != "f32":
            raise KeyError(words)
        even = "true" if "rn" in words else "false"
        return w.result(i, f"tf32_from_f32({w.read(i.operands[1], 'f32')}, {even})", "b32")
    x = w.read(i.operands[1], s)
    if s not in FLOATS and d not in FLOATS:
        return w.result(i, f"clamp_int<{C[d]}>({x})" if "sat" in words else x, d)
    if s not in FLOATS:  # int to float
        wide = "double" if d == "f64" else "float"
        if "rz" in words or "rm" in words or "rp" in words:
            raise KeyError(words)
        return w.result(i, f"({wide}){x}", d)
    wide = "double" if s == "f64" else "float"
    value = f"({wide}){x}"
    rounding = next((ROUND[o] for o in words if o in ROUND), "")
    if rounding:
        value = f"{rounding}{'' if s == 'f64' else 'f'}({value})"
    if d not in FLOATS:
        return w.result(i, f"to_int<{C[d]}, {wide}>({value if rounding else f'trunc({value})'})", d)
    return w.result(i, between_floats(words, d, wide, value), d)


def between_floats(words: tuple[str, ...], d: str, wide: str, value: str) -> str:
    """One floating format to another: to nearest even, or toward zero."""
    if "rm" in words or "rp" in words:
        raise KeyError(words)
    truncate = "rz" in words
    if "relu" in words:
        value = f"larger<{wide}>({value}, 0, true)"
    if "sat" in words:
        value = f"saturate<{wide}>({value})"
    if d in ("f16", "bf16"):
        single = f"(float)({value})"
        return f"as<{d}>({d}_from_f32({single}, {str(truncate).lower()}))"
    if d == "f32" and wide == "double" and truncate:
        return f"f32_toward_zero({value})"
    return value


def convert_pair(w: Writer, i: Instruction, d: str, s: str) -> str:
    """Two floats into the halves of a register; the first source becomes the upper half."""
    if s != "f32" or len(i.operands) != 3:
        raise KeyError(i.opcode)
    half = HALVES[d]
    upper, lower = (between_floats(i.opcode[1:], half, "float", w.read(o, "f32")) for o in i.operands[1:])
    return w.result(i, f"pack<{half}>({lower}, {upper})", "b32")
