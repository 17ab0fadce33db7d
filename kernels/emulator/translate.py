"""PTX to C++: one function for each kernel, one statement for each instruction, registers as local variables.

How an instruction is translated stands in tables by subject: :mod:`.arithmetic`, :mod:`.memory`, :mod:`.warps`. This
file has what they share: operands, registers, places. Every statement that touches memory or waits gets a number, its
*site*; the runtime reports sites, and :class:`Translation` knows the line of each.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from minidl.kernels.cuda.device import CUDAError
from minidl.kernels.emulator.ptx import (
    Instruction,
    Kernel,
    Label,
    Place,
    Program,
    instructions,
    parse,
    vector,
)
from minidl.kernels.emulator.warpgroups import states, watched, wgmma

C = {
    "b8": "uint8_t",
    "b16": "uint16_t",
    "b32": "uint32_t",
    "b64": "uint64_t",
    "f32": "float",
    "f64": "double",
}
C |= {f"u{n}": f"uint{n}_t" for n in (8, 16, 32, 64)} | {f"s{n}": f"int{n}_t" for n in (8, 16, 32, 64)}
C |= {"f16": "f16", "bf16": "bf16", "pred": "bool", "f16x2": "uint32_t", "bf16x2": "uint32_t"}

SPECIAL = {"%tid": "tid", "%ntid": "ntid", "%ctaid": "ctaid", "%nctaid": "nctaid"}
NUMBERS = {
    "%laneid": "emu_self.lane",
    "%warpid": "emu_self.warp",
    "%nwarpid": "emu_self.warps",
    "%smid": "0",
    "%nsmid": "1",
    "%clock": "0",
    "%clock64": "0",
    "%globaltimer": "0",
    "%lanemask_eq": "(1u << emu_self.lane)",
    "%lanemask_lt": "((1u << emu_self.lane) - 1)",
    "%lanemask_le": "((2u << emu_self.lane) - 1)",
    "%lanemask_gt": "(~((2u << emu_self.lane) - 1))",
    "%lanemask_ge": "(~((1u << emu_self.lane) - 1))",
    "%dynamic_smem_size": "emu_self.dynamic_shared",
    "%total_smem_size": "(emu_self.static_shared + emu_self.dynamic_shared)",
}

Emit = Callable[["Writer", Instruction], str]
INSTRUCTIONS: dict[str, Emit] = {"wgmma": wgmma}
"""The translator of each first word of an opcode."""


def instruction(*names: str) -> Callable[[Emit], Emit]:
    """Register a function as the translator of these instructions."""

    def register(function: Emit) -> Emit:
        INSTRUCTIONS.update(dict.fromkeys(names, function))
        return function

    return register


@dataclass(frozen=True)
class Translation:
    """C++ code, and what belongs to it: the number of each kernel's function by symbol, the place and PTX text of each
    site, the size of static shared memory and the red zones in it, the sizes of constants, whether wgmma is used."""

    code: str
    kernels: dict[str, int]
    sites: list[tuple[Place, str]]
    static_shared: int
    holes: list[tuple[int, int]]
    constants: dict[str, int]
    wgmma: bool


class Writer:
    """Translates one kernel."""

    def __init__(self, program: Program, kernel: Kernel, sites: list[tuple[Place, str]]) -> None:
        self.program = program
        self.kernel = kernel
        self.sites = sites
        self.position = {name: i for i, name in enumerate(kernel.parameters)}
        self.watched = watched(kernel)

    # --- what instructions need -----------------------------------------------------------------------------

    def unknown(self, i: Instruction) -> CUDAError:
        """The error for an instruction, or a form of one, that is not translated."""
        return CUDAError(
            f"{i.place.file}:{i.place.line}: the emulated device does not know the PTX instruction: {i.text}"
        )

    def site(self, i: Instruction) -> int:
        """A number for this statement in the runtime's reports."""
        self.sites.append((i.place, i.text))
        return len(self.sites) - 1

    @staticmethod
    def register(name: str) -> str:
        """A PTX register's name in C++."""
        return "r_" + re.sub(r"\W", "_", name.lstrip("%"))

    @classmethod
    def state(cls, name: str) -> str:
        """The variable with the state of a register that wgmma may use (see :mod:`.warpgroups`)."""
        return "state_" + cls.register(name)

    def read(self, operand: str, kind: str) -> str:
        """An expression for ``operand`` as a value of PTX type ``kind``."""
        c = C[kind]
        if operand.startswith("-") and operand[1:].startswith("%"):
            return f"(-{self.read(operand[1:], kind)})"
        if operand.startswith("!"):
            return f"(!{self.read(operand[1:], kind)})"
        if operand in self.kernel.registers:
            return f"as<{c}>({self.register(operand)})"
        if operand in NUMBERS:
            return f"({c}){NUMBERS[operand]}"
        m = re.fullmatch(r"(%\w+)\.([xyz])", operand)
        if m and m[1] in SPECIAL:
            return f"({c})emu_self.{SPECIAL[m[1]]}.{m[2]}"
        m = re.fullmatch(r"0[fF]([0-9A-Fa-f]{8})", operand)
        if m:
            return f"as<{c}>(as<float>(0x{m[1]}u))" if kind == "f32" else f"as<{c}>(0x{m[1]}u)"
        m = re.fullmatch(r"0[dD]([0-9A-Fa-f]{16})", operand)
        if m:
            return f"as<{c}>(0x{m[1]}ull)"
        m = re.fullmatch(r"(-?)(0[xX][0-9A-Fa-f]+|\d+)U?", operand)
        if m:
            number = int(m[2], 0) * (-1 if m[1] else 1)
            if kind in ("f16", "bf16"):
                return f"as<{c}>((uint16_t){number % 65536}u)"
            return f"({c}){number % 2**64}ull" if kind != "pred" else str(bool(number)).lower()
        m = re.fullmatch(r"([\w$]+)(?:\+(\d+))?", operand)
        if m:
            return f"({c})({self.symbol(m[1])} + {m[2] or 0})"
        raise CUDAError(f"the emulated device does not understand the PTX operand {operand!r}")

    def symbol(self, name: str) -> str:
        """The address of a variable: an offset for shared memory, a pointer otherwise."""
        if name in self.program.shared:
            return f"{self.program.shared[name].offset}ull"
        if name in self.kernel.local:
            return f"(uint64_t)local_{self.register(name)}"
        if name in self.program.constants:
            return f"(uint64_t)constant_{self.register(name)}"
        if name in self.position:
            return f"(uint64_t)parameters[{self.position[name]}]"
        raise CUDAError(f"the emulated device does not know the PTX variable {name!r}")

    def write(self, operand: str, value: str, kind: str) -> str:
        """A statement that puts a value of PTX type ``kind`` into a register."""
        if operand == "_":
            return f"(void)({value});"
        own = C[self.kernel.registers[operand]]
        return f"{self.register(operand)} = as<{own}>(({C[kind]})({value}));"

    def result(self, i: Instruction, value: str, kind: str) -> str:
        """The same for an instruction's first operand."""
        return self.write(i.operands[0], value, kind)

    def sources(self, i: Instruction, kind: str) -> list[str]:
        """All operands but the first as values of one type."""
        return [self.read(o, kind) for o in i.operands[1:]]

    @staticmethod
    def label(name: str) -> str:
        """A PTX label in C++."""
        return "L_" + re.sub(r"\W", "_", name)

    vector = staticmethod(vector)

    # --- the whole kernel -----------------------------------------------------------------------------------

    def function(self, number: int) -> str:
        """The kernel as a C++ function."""
        lines = []
        by_type: dict[str, list[str]] = {}
        for name, kind in self.kernel.registers.items():
            by_type.setdefault(C[kind], []).append(self.register(name))
        lines += [f"  {kind} {', '.join(names)};" for kind, names in by_type.items()]
        lines += [
            f"  alignas({max(m.align, 16)}) char local_{self.register(name)}[{m.size}];"
            for name, m in self.kernel.local.items()
        ]
        lines += [f"  uint32_t {self.state(name)} = 0;" for name in sorted(self.watched)]
        lines += ["  bool carry = false; (void)carry;"]
        for item in self.kernel.body:
            if isinstance(item, Label):
                lines.append(f" {self.label(item.name)}:;")
            else:
                lines.append(f"  {self.statement(item)}")
        body = "\n".join(lines)
        return f'extern "C" void emu_kernel_{number}(void** parameters) {{\n{body}\n}}\n'

    def statement(self, i: Instruction) -> str:
        """One instruction as one C++ statement."""
        emit = INSTRUCTIONS.get(i.opcode[0])
        if emit is None:
            raise self.unknown(i)
        try:
            text = (states(self, i) if self.watched else "") + emit(self, i)
        except (KeyError, IndexError, TypeError):
            raise self.unknown(i) from None
        guard = ""
        if i.guard:
            guard = f"if ({'!' if i.guard[0] == '!' else ''}{self.register(i.guard.lstrip('!'))}) "
        return f"{guard}{{ {text} }}"


def translate(ptx: str) -> Translation:
    """A PTX file as C++.

    Raises:
        CUDAError: an instruction is not known; the message names it and its line in the CUDA source.
    """
    from minidl.kernels.emulator import arithmetic, memory, warps  # noqa: F401 (they fill the table)

    program = parse(ptx)
    sites: list[tuple[Place, str]] = []
    parts = ['#include "kernel.h"']
    for name, m in program.constants.items():
        values = ", ".join(map(str, m.values)) or "0"
        parts.append(
            f'extern "C" {{ alignas({max(m.align, 16)}) char constant_{Writer.register(name)}[{m.size}] = '
            f"{{{_signed(values)}}}; }}"
        )
    for number, kernel in enumerate(program.kernels):
        parts.append(Writer(program, kernel, sites).function(number))
    return Translation(
        "\n".join(parts),
        {kernel.symbol: number for number, kernel in enumerate(program.kernels)},
        sites,
        program.static_shared,
        _holes(program),
        {f"constant_{Writer.register(name)}": m.size for name, m in program.constants.items()},
        any(i.opcode[0] == "wgmma" for i in instructions(program)),
    )


def _signed(values: str) -> str:
    return ", ".join(f"(char){v}" for v in values.split(", "))


def _holes(program: Program) -> list[tuple[int, int]]:
    """What lies between the arrays of static shared memory."""
    arrays = sorted((m.offset, m.offset + m.size) for m in program.shared.values() if m.size)
    ends = [*(begin for begin, _ in arrays[1:]), program.static_shared]
    return [(-(-end // 2) * 2, begin) for (_, end), begin in zip(arrays, ends, strict=False) if end < begin]


def place_of(sites: list[tuple[Place, str]], site: int, sources: Mapping[str, str]) -> str:
    """``file:line`` of a site with the line's text, for messages."""
    place, text = sites[site]
    lines = sources.get(place.file, "").splitlines()
    quoted = lines[place.line - 1].strip() if 0 < place.line <= len(lines) else text
    return f"{place.file}:{place.line}: {quoted}"
