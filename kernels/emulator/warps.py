"""Control flow, barriers, shuffles, votes and the matrix instructions."""

from __future__ import annotations

from minidl.kernels.emulator.memory import address
from minidl.kernels.emulator.ptx import Instruction
from minidl.kernels.emulator.translate import C, Writer, instruction


@instruction("bra")
def branch(w: Writer, i: Instruction) -> str:
    return f"goto {w.label(i.operands[0])};"


@instruction("brx")
def branch_by_table(w: Writer, i: Instruction) -> str:
    targets = w.kernel.tables[i.operands[1]]
    cases = " ".join(f"case {n}: goto {w.label(t)};" for n, t in enumerate(targets))
    return f"switch ({w.read(i.operands[0], 'u32')}) {{ {cases} }}"


@instruction("ret", "exit")
def leave(w: Writer, i: Instruction) -> str:
    return "return;"


@instruction("trap")
def trap(w: Writer, i: Instruction) -> str:
    return f'emu_fail({w.site(i)}, "the kernel stopped itself (trap)");'


@instruction("nanosleep", "brkpt", "griddepcontrol", "setmaxnreg")
def nothing(w: Writer, i: Instruction) -> str:
    return ";"


@instruction("bar", "barrier")
def barrier(w: Writer, i: Instruction) -> str:
    words = [o for o in i.opcode[1:] if o not in ("cta", "aligned")]
    if words == ["warp", "sync"]:
        return f"emu_sync_warp({w.site(i)}, {w.read(i.operands[0], 'u32')});"
    if words == ["sync"] and i.operands == ("0",):
        return f"emu_sync_block({w.site(i)});"
    if words[0] == "red" and i.operands[1] == "0" and len(i.operands) == 3:
        what, kind = (
            (("popc", 0), "u32")
            if words[1] == "popc"
            else ((words[1], {"and": 1, "or": 2}[words[1]]), "pred")
        )
        value = f"emu_reduce_block({w.site(i)}, {what[1]}, {w.read(i.operands[2], 'pred')})"
        return w.result(i, value, kind)
    raise KeyError(i.opcode)  # barriers of a part of the block


@instruction("shfl")
def shuffle(w: Writer, i: Instruction) -> str:
    if i.opcode[1] != "sync":
        raise KeyError(i.opcode)
    mode = i.opcode[2][0]  # up, down, bfly, idx
    target, _, valid = i.operands[0].partition("|")
    value, b, c, mask = (w.read(o, "u32") for o in i.operands[1:])
    code = (
        f"bool valid; const uint32_t v = shuffle({w.site(i)}, '{mode}', {value}, {b}, {c}, {mask}, &valid); "
    )
    return code + w.write(target, "v", "b32") + (w.write(valid, "valid", "pred") if valid else "")


@instruction("vote")
def vote(w: Writer, i: Instruction) -> str:
    mode = i.opcode[2]
    mask = w.read(i.operands[2], "u32")
    code = f"const uint32_t v = emu_ballot({w.site(i)}, {mask}, {w.read(i.operands[1], 'pred')}); "
    full = f"(v == (emu_ballot({len(w.sites) - 1}, {mask}, 1)))"
    values = {"ballot": ("v", "b32"), "any": ("v != 0", "pred"), "all": (full, "pred")}
    values["uni"] = (f"v == 0 || {full}", "pred")
    return code + w.result(i, *values[mode])


@instruction("match")
def match(w: Writer, i: Instruction) -> str:
    kind = i.opcode[-1]
    mask = w.read(i.operands[2], "u32")
    code = f"const uint32_t v = emu_match({w.site(i)}, {mask}, {w.read(i.operands[1], kind)}); "
    if i.opcode[1] == "any":
        return code + w.result(i, "v", "b32")
    target, _, valid = i.operands[0].partition("|")
    code += f"const bool same = v == {mask}; " + w.write(target, "same ? v : 0", "b32")
    return code + (w.write(valid, "same", "pred") if valid else "")


@instruction("activemask")
def active_mask(w: Writer, i: Instruction) -> str:
    return w.result(i, "emu_active()", "b32")


@instruction("redux")
def reduce_warp(w: Writer, i: Instruction) -> str:
    kind = i.opcode[-1]
    f = {
        "add": "a + b",
        "min": "a < b ? a : b",
        "max": "a < b ? b : a",
        "and": "a & b",
        "or": "a | b",
        "xor": "a ^ b",
    }
    c = C[kind]
    gather = f"emu_gather({w.site(i)}, {w.read(i.operands[2], 'u32')}, {w.read(i.operands[1], 'u32')}, q)"
    return (
        f"uint32_t q[32] = {{}}; const uint32_t m = {gather}; {c} a = 0; bool first = true; "
        f"for (int j = 0; j < 32; j++) if (m >> j & 1) "
        f"{{ const {c} b = ({c})q[j]; a = first ? b : ({c})({f[i.opcode[2]]}); first = false; }} "
        + w.result(i, "a", kind)
    )


@instruction("elect")
def elect(w: Writer, i: Instruction) -> str:
    target, _, valid = i.operands[0].partition("|")
    code = f"const uint32_t m = emu_ballot({w.site(i)}, {w.read(i.operands[1], 'u32')}, 1), low = __builtin_ctz(m); "
    return code + w.write(target, "low", "b32") + w.write(valid, "low == emu_self.lane", "pred")


SHAPES = {
    ("m16n8k16", "bf16"): ("BF16", 16, 4, 2),
    ("m16n8k8", "bf16"): ("BF16", 8, 2, 1),
    ("m16n8k16", "f16"): ("F16", 16, 4, 2),
    ("m16n8k8", "f16"): ("F16", 8, 2, 1),
    ("m16n8k8", "tf32"): ("TF32", 8, 4, 2),
    ("m16n8k4", "tf32"): ("TF32", 4, 2, 1),
}
TYPES = {"BF16": 0, "F16": 1, "TF32": 2}


@instruction("mma")
def matrix_multiply(w: Writer, i: Instruction) -> str:
    words = [o for o in i.opcode[1:] if o not in ("sync", "aligned")]
    shape, row, col, d_type, a_type, b_type, c_type = words
    if (row, col) != ("row", "col") or a_type != b_type or d_type != c_type or d_type not in ("f32", "f16"):
        raise KeyError(words)
    kind, k, a_count, b_count = SHAPES[shape, a_type]
    d, a, b, c = (w.vector(o) for o in i.operands)
    if len(a) != a_count or len(b) != b_count:
        raise KeyError(words)

    def words_of(registers: list[str]) -> str:
        return "{" + ", ".join(w.read(r, "b32") for r in registers) + "}"

    if d_type == "f32":
        start = "{" + ", ".join(w.read(r, "f32") for r in c) + "}"
        end = " ".join(w.write(r, f"d[{n}]", "f32") for n, r in enumerate(d))
    else:  # two halves in a register
        halves = [f"{part}<f16>({w.read(r, 'b32')})" for r in c for part in ("low", "high")]
        start = "{" + ", ".join(f"(float){h}" for h in halves) + "}"
        end = " ".join(w.write(r, f"pack<f16>(d[{2 * n}], d[{2 * n + 1}])", "b32") for n, r in enumerate(d))
    return (
        f"float d[4] = {start}; const uint32_t a[] = {words_of(a)}, b[] = {words_of(b)}; "
        f"emu_mma({w.site(i)}, {TYPES[kind]}, {k}, a, b, d); {end}"
    )


@instruction("ldmatrix")
def load_matrix(w: Writer, i: Instruction) -> str:
    if "m8n8" not in i.opcode or "b16" not in i.opcode:
        raise KeyError(i.opcode)
    targets = w.vector(i.operands[0])
    trans = int("trans" in i.opcode)
    where = address(w, i.operands[1], "shared")
    writes = " ".join(w.write(t, f"q[{n}]", "b32") for n, t in enumerate(targets))
    return f"uint32_t q[{len(targets)}]; emu_ldmatrix({w.site(i)}, {len(targets)}, {trans}, {where}, q); {writes}"


@instruction("stmatrix")
def store_matrix(w: Writer, i: Instruction) -> str:
    if "m8n8" not in i.opcode or "b16" not in i.opcode:
        raise KeyError(i.opcode)
    values = w.vector(i.operands[1])
    where = address(w, i.operands[0], "shared")
    words = ", ".join(w.read(v, "b32") for v in values)
    trans = int("trans" in i.opcode)
    return f"const uint32_t q[] = {{{words}}}; emu_stmatrix({w.site(i)}, {len(values)}, {trans}, {where}, q);"
