"""Loads, stores, atomics, asynchronous copies and address arithmetic."""

from __future__ import annotations

import re

from minidl.kernels.emulator.ptx import SIZES, Instruction
from minidl.kernels.emulator.translate import C, Writer, instruction

SPACES = ("param", "shared", "global", "const", "local")
FUNCTIONS = {"shared": "emu_shared", "global": "emu_global", "const": "emu_global", "generic": "emu_generic"}


def space_of(i: Instruction) -> str:
    """The state space of an access: "generic" when the opcode names none."""
    return next((s.split("::")[0] for s in i.opcode if s.split("::")[0] in SPACES), "generic")


def type_of(i: Instruction) -> str:
    """The last word of the opcode that is a type."""
    return next(t for t in reversed(i.opcode) if t in C)


def address(w: Writer, operand: str, space: str) -> str:
    """``[base + offset]`` as an expression: a pointer, an offset in shared memory."""
    m = re.fullmatch(r"\[\s*([%\w$]+)\s*(?:\+\s*(-?\w+))?\s*\]", operand)
    if m is None:
        raise KeyError(operand)
    offset = int(m[2] or "0", 0)
    base = w.read(m[1], "u32" if space == "shared" and w.kernel.registers.get(m[1]) != "b64" else "u64")
    if space == "shared":
        return f"((uint32_t)({base}) + {offset % 2**32}u)"
    return f"({base} + {offset % 2**64}ull)"


def access(w: Writer, i: Instruction, operand: str, size: int, kind: str) -> str:
    """A checked pointer to ``size`` bytes at an address operand."""
    space = space_of(i)
    where = address(w, operand, space)
    if space in ("param", "local"):
        return f"((char*){where})"
    return f"{FUNCTIONS[space]}({w.site(i)}, {where}, {size}, {kind})"


@instruction("ld", "ldu")
def load(w: Writer, i: Instruction) -> str:
    kind = type_of(i)
    targets = w.vector(i.operands[0])
    size = SIZES[kind]
    reads = " ".join(w.write(t, f"load<{C[kind]}>(p + {n * size})", kind) for n, t in enumerate(targets))
    return f"const char* p = {access(w, i, i.operands[1], size * len(targets), 'READ')}; {reads}"


@instruction("st")
def store(w: Writer, i: Instruction) -> str:
    kind = type_of(i)
    values = w.vector(i.operands[1])
    size = SIZES[kind]
    writes = " ".join(f"store<{C[kind]}>(p + {n * size}, {w.read(v, kind)});" for n, v in enumerate(values))
    return f"char* p = {access(w, i, i.operands[0], size * len(values), 'WRITE')}; {writes}"


ATOMIC = {
    "add": "add<T>(old, v)",
    "min": "smaller<T>(old, v)",
    "max": "larger<T>(old, v)",
    "and": "(T)(old & v)",
    "or": "(T)(old | v)",
    "xor": "(T)(old ^ v)",
    "exch": "v",
    "inc": "(T)(old >= v ? 0 : old + 1)",
    "dec": "(T)(old == 0 || old > v ? v : old - 1)",
    "cas": "old == v ? other : old",
}


@instruction("atom", "red")
def atomic(w: Writer, i: Instruction) -> str:
    name = next(o for o in i.opcode if o in ATOMIC)
    kind = type_of(i)
    returns = i.opcode[0] == "atom"
    where, value, *other = i.operands[1:] if returns else i.operands
    size = 4 if kind.endswith("x2") else SIZES[kind]
    if kind.endswith("x2") and name == "add":
        formula = f"both<{kind[:-2]}>([](auto a, auto b) {{ return add<float>(a, b); }}, old, v)"
    elif name in ("and", "or", "xor", "cas") and kind[0] == "f":
        raise KeyError(name)
    else:
        formula = ATOMIC[name]
    last = f"const T other = {w.read(other[0], kind)}; (void)other; " if other else ""
    code = (
        f"using T = {C[kind]}; char* p = {access(w, i, where, size, 'WRITE | ATOMIC')}; "
        f"const T v = {w.read(value, kind)}; {last}"
        f"const T was = atomic<T>(p, [&](T old) -> T {{ return {formula}; }}); (void)was;"
    )
    return f"{code} {w.result(i, 'was', kind)}" if returns else code


@instruction("cvta")
def convert_address(w: Writer, i: Instruction) -> str:
    value = w.read(i.operands[1], type_of(i))
    if "shared" not in [o.split("::")[0] for o in i.opcode]:
        return w.result(i, value, "u64")
    return w.result(i, f"{value} {'-' if 'to' in i.opcode else '+'} (uint64_t)emu_self.shared", "u64")


@instruction("isspacep")
def is_space(w: Writer, i: Instruction) -> str:
    if space_of(i) not in ("shared", "global"):
        raise KeyError(i.opcode)
    inside = (
        f"({w.read(i.operands[1], 'u64')} - (uint64_t)emu_self.shared < "
        "emu_self.static_shared + emu_self.dynamic_shared)"
    )
    return w.result(i, inside if space_of(i) == "shared" else f"!{inside}", "pred")


@instruction("cp")
def copy_async(w: Writer, i: Instruction) -> str:
    if "bulk" in i.opcode or "mbarrier" in i.opcode or i.opcode[1] != "async":
        raise KeyError(i.opcode)
    if "commit_group" in i.opcode:
        return "emu_copy_commit();"
    if "wait_group" in i.opcode:
        return f"emu_copy_wait({w.read(i.operands[0], 'u32')});"
    if "wait_all" in i.opcode:
        return "emu_copy_commit(); emu_copy_wait(0);"
    to, source, size = i.operands[:3]
    count = w.read(size, "u32")
    if len(i.operands) > 3:
        last = i.operands[3]
        if w.kernel.registers.get(last) == "pred":  # ignore-src: zeros when it holds
            count = f"({w.read(last, 'pred')} ? 0 : {count})"
        elif w.kernel.registers.get(last) != "b64":  # a cache policy has 64 bits
            count = w.read(last, "u32")
    return (
        f"emu_copy_async({w.site(i)}, {address(w, to, 'shared')}, {address(w, source, 'global')}, "
        f"{w.read(size, 'u32')}, {count});"
    )


@instruction("createpolicy")
def policy(w: Writer, i: Instruction) -> str:
    return w.result(i, "0", "b64")


@instruction("prefetch", "prefetchu", "discard", "applypriority")
def hint(w: Writer, i: Instruction) -> str:
    return ";"


@instruction("membar", "fence")
def fence(w: Writer, i: Instruction) -> str:
    if i.opcode[1:3] == ("proxy", "async") and i.opcode[3:] in ((), ("shared::cta",)):
        return "emu_proxy_fence();"
    return ";"  # threads run one at a time; the checker does not take a fence for a barrier
