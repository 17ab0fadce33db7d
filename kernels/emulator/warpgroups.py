"""wgmma, the matrix instructions of a warpgroup (sm_90a), and which registers the checker must watch for them.

On a card a product goes on while the threads do. The registers that it reads and writes may not be touched in the
meantime, so each of them, and each that a plain move connects with one of them, has a variable beside it, its *state*
(``runtime/warpgroup.h``).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from minidl.kernels.cuda.device import CUDAError
from minidl.kernels.emulator.ptx import Instruction, Kernel, vector

if TYPE_CHECKING:
    from minidl.kernels.emulator.translate import Writer

TYPES = {"bf16": ("0", "k16"), "f16": ("1", "k16"), "tf32": ("2", "k8")}
"""The runtime's number of a factor's type, and how much of k one product takes."""
TRANSPOSED_B, NEGATED_B = 2, 2


def is_move(i: Instruction, registers: dict[str, str]) -> bool:
    """Whether an instruction copies one register to another and does nothing else."""
    return i.opcode[0] == "mov" and all(o in registers for o in i.operands)


def watched(kernel: Kernel) -> set[str]:
    """The registers with a state: D, A, and what moves connect with them."""
    found: set[str] = set()
    links: dict[str, list[str]] = {}
    for i in kernel.body:
        if not isinstance(i, Instruction):
            continue
        if i.opcode[:2] == ("wgmma", "mma_async"):
            found.update(vector(i.operands[0]))
            if i.operands[1].startswith("{"):
                found.update(vector(i.operands[1]))
        elif is_move(i, kernel.registers):
            a, b = i.operands
            links.setdefault(a, []).append(b)
            links.setdefault(b, []).append(a)
    waiting = list(found)
    while waiting:
        for other in links.get(waiting.pop(), ()):
            if other not in found:
                found.add(other)
                waiting.append(other)
    return found


def states(w: Writer, i: Instruction) -> str:
    """What an instruction does to the states of its registers."""
    if i.opcode[0] == "wgmma":
        return ""
    if is_move(i, w.kernel.registers):
        a, b = i.operands
        return f"{w.state(a)} = {w.state(b)}; " if a in w.watched else ""
    named = dict.fromkeys(re.findall(r"%?[A-Za-z_$][\w$]*", " ".join(i.operands)))
    touched = [r for r in named if r in w.watched]
    return "".join(f"emu_register({w.site(i)}, &{w.state(r)}); " for r in touched)


def wgmma(w: Writer, i: Instruction) -> str:
    """wgmma.fence, commit_group, wait_group and mma_async.

    Raises:
        CUDAError: the PTX is for another architecture than the one that has them.
    """
    if w.program.target != "sm_90a":
        raise CUDAError(
            f"{i.place.file}:{i.place.line}: wgmma needs sm_90a, this is PTX for {w.program.target}"
        )
    if "fence" in i.opcode:
        return f"emu_wgmma_fence({w.site(i)});"
    if "commit_group" in i.opcode:
        return f"emu_wgmma_commit({w.site(i)});"
    if "wait_group" in i.opcode:
        return f"emu_wgmma_wait({w.site(i)}, {w.read(i.operands[0], 'u32')});"
    if i.opcode[:4] != ("wgmma", "mma_async", "sync", "aligned"):
        raise KeyError(i.opcode)
    return product(w, i)


def product(w: Writer, i: Instruction) -> str:
    """wgmma.mma_async with float sums."""
    shape, d_type, a_type, b_type = i.opcode[4:]
    number, depth = TYPES[a_type]
    m = re.fullmatch(r"m64n(\d+)" + depth, shape)
    if m is None or a_type != b_type or d_type != "f32":
        raise KeyError(i.opcode)
    n = int(m[1])
    d, in_registers = vector(i.operands[0]), i.operands[1].startswith("{")
    if n % 8 or not 8 <= n <= 256 or len(d) != n // 2:
        raise KeyError(i.opcode)
    a = vector(i.operands[1]) if in_registers else []
    scale_d, scale_a, scale_b, *turned = i.operands[3:]
    if scale_a not in ("1", "-1") or scale_b not in ("1", "-1") or (in_registers and len(a) != 4):
        raise KeyError(i.operands)
    if len(turned) != (0 if a_type == "tf32" else 1 if in_registers else 2):
        raise KeyError(i.operands)
    transposed = turned[-1:] == ["1"]  # B's is the last
    bits = TRANSPOSED_B * transposed + (len(turned) == 2 and turned[0] == "1")
    negate = NEGATED_B * (scale_b == "-1") + (scale_a == "-1")
    ends = "".join(w.write(r, f"d[{j}]", "f32") + f" {w.state(r)} = s[{j}]; " for j, r in enumerate(d))
    fragment = ", ".join(w.read(r, "b32") for r in a) or "0"
    a_states = ", ".join(w.state(r) for r in a) or "0"
    keep = "".join(f"{w.state(r)} = t[{j}]; " for j, r in enumerate(a))
    return (
        f"float d[] = {{{', '.join(w.read(r, 'f32') for r in d)}}}; "
        f"uint32_t s[] = {{{', '.join(w.state(r) for r in d)}}}, t[] = {{{a_states}}}; "
        f"const uint32_t a[] = {{{fragment}}}; "
        f"Product p = {{{number}, {n}, {w.read(scale_d, 'pred')}, {negate}, {bits}, "
        f"{'0' if in_registers else w.read(i.operands[1], 'u64')}, {w.read(i.operands[2], 'u64')}, "
        f"{'a' if in_registers else 'nullptr'}, d, s, t}}; emu_wgmma({w.site(i)}, &p); {ends}{keep}"
    )
