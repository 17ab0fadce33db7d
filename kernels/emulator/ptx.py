"""PTX text, taken apart: kernels, their registers and memory, and their instructions with file and line.

PTX is the assembly language that NVRTC writes and ptxas turns into machine code (NVIDIA, "Parallel Thread Execution
ISA"). What is understood here is what NVRTC writes for kernels without calls.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from minidl.kernels.cuda.device import CUDAError

SIZES = {"b8": 1, "u8": 1, "s8": 1, "b16": 2, "u16": 2, "s16": 2, "f16": 2, "bf16": 2}
SIZES |= {"b32": 4, "u32": 4, "s32": 4, "f32": 4, "b64": 8, "u64": 8, "s64": 8, "f64": 8}
RED_ZONE = 32
"""Bytes between two arrays in shared memory that nobody may touch."""


@dataclass(frozen=True)
class Place:
    """A line of a source file."""

    file: str
    line: int


@dataclass(frozen=True)
class Instruction:
    """``@!p add.f32 d, a, b``: guard "!p" (or ""), opcode ("add", "f32"), operands ("d", "a", "b")."""

    guard: str
    opcode: tuple[str, ...]
    operands: tuple[str, ...]
    text: str
    place: Place


@dataclass(frozen=True)
class Label:
    """A place to jump to."""

    name: str


@dataclass(frozen=True)
class Memory:
    """A variable in memory: its offset (shared memory only), alignment, size, first contents (constants only)."""

    offset: int
    align: int
    size: int
    values: tuple[int, ...] = ()


@dataclass
class Kernel:
    """One ``.entry``: parameters by name in order, registers and their types, local memory, the instructions."""

    symbol: str
    parameters: list[str]
    registers: dict[str, str] = field(default_factory=dict)
    local: dict[str, Memory] = field(default_factory=dict)
    body: list[Instruction | Label] = field(default_factory=list)
    tables: dict[str, list[str]] = field(default_factory=dict)


@dataclass
class Program:
    """A PTX file. ``static_shared`` is the size of all shared arrays whose size is known, red zones included;
    ``target`` is the architecture it is for, "sm_80"."""

    kernels: list[Kernel]
    shared: dict[str, Memory]
    constants: dict[str, Memory]
    static_shared: int
    target: str


def split(text: str) -> tuple[str, ...]:
    """Operands: ``text`` cut at the commas outside brackets and braces."""
    out, depth, start = [], 0, 0
    for i, c in enumerate(text):
        depth += (c in "{[(") - (c in "}])")
        if c == "," and not depth:
            out.append(text[start:i].strip())
            start = i + 1
    out.append(text[start:].strip())
    return tuple(o for o in out if o)


def vector(operand: str) -> list[str]:
    """``{a, b}`` as a list; a single operand as a list of one."""
    return [o.strip() for o in operand.strip("{}").split(",")]


def parse(ptx: str) -> Program:
    """Take a PTX file apart.

    Raises:
        CUDAError: it holds something that is not understood, named in the message.
    """
    text = re.sub(r"/\*.*?\*/", " ", re.sub(r"//[^\n]*", "", ptx), flags=re.S)
    files = {
        int(i): name.rsplit("/", 1)[-1]
        for i, name in re.findall(r'^\s*\.file\s+(\d+)\s+"([^"]*)"', text, re.M)
    }
    shared, static_shared = _shared(text)
    constants = _constants(text)
    kernels = []
    for m in re.finditer(r"\.entry\s+([\w$]+)\s*\(([^)]*)\)", text):
        start = text.index("{", m.end())
        names = re.findall(r"([\w$]+)(?:\[\d+\])?\s*(?:,|$)", m[2].strip())
        kernel = Kernel(m[1], names)
        _Body(kernel, files).read(text, start)
        kernels.append(kernel)
    target = re.search(r"^\s*\.target\s+(\w+)", text, re.M)
    return Program(kernels, shared, constants, static_shared, target[1] if target else "")


def _aligned(n: int, align: int) -> int:
    return -(-n // align) * align


def _shared(text: str) -> tuple[dict[str, Memory], int]:
    """Shared arrays one after the other with a red zone between; those without a size begin where these end."""
    found: dict[str, Memory] = {}
    end = 0
    pattern = r"\.shared\s+(?:\.align\s+(\d+)\s+)?\.(\w+)\s+([\w$]+)(\[(\d*)\])?"
    declared = list(re.finditer(pattern, text))
    for m in declared:
        if m[4] == "[]":
            continue
        align = max(int(m[1] or SIZES[m[2]]), 16)
        size = SIZES[m[2]] * int(m[5] or 1)
        end = _aligned(end, align)
        found[m[3]] = Memory(end, align, size)
        end = _aligned(end + size, 16) + RED_ZONE
    unsized = [m for m in declared if m[4] == "[]"]
    align = max([128, *(int(m[1] or 1) for m in unsized)])
    end = _aligned(max(end - RED_ZONE, 0), align) if found else 0
    for m in unsized:
        found[m[3]] = Memory(end, align, 0)
    return found, end


def _constants(text: str) -> dict[str, Memory]:
    """Variables in global or constant memory that belong to the module."""
    found = {}
    pattern = (
        r"^\s*(?:\.(?:visible|weak|extern)\s+)?\.(?:global|const)\s+(?:\.attribute\([^)]*\)\s+)?"
        r"(?:\.align\s+(\d+)\s+)?\.(\w+)\s+([\w$]+)(?:\[(\d+)\])?(?:\s*=\s*(\{[^}]*\}|[^;]+))?;"
    )
    for m in re.finditer(pattern, text, re.M):
        values = re.findall(r"-?\w+", m[5]) if m[5] else []
        if m[2] not in SIZES or any(not re.fullmatch(r"-?\d+", v) for v in values):
            raise CUDAError(f"PTX: the variable {m[3]} is initialised in a way that is not understood")
        item = SIZES[m[2]]
        content = b"".join((int(v) % 256**item).to_bytes(item, "little") for v in values)
        size = item * int(m[4] or 1)
        found[m[3]] = Memory(0, int(m[1] or item), size, tuple(content.ljust(size, b"\0")))
    return found


class _Body:
    """Reads one kernel's body. Registers and labels in inner braces (inline assembly) get names of their own."""

    def __init__(self, kernel: Kernel, files: dict[int, str]) -> None:
        self.kernel = kernel
        self.files = files
        self.place = Place("?", 0)
        self.scopes: list[dict[str, str]] = [{}]
        self.count = 0

    def read(self, text: str, start: int) -> None:
        """Read from the brace at ``start`` to the one that closes it."""
        depth, i = 0, start
        label = re.compile(r"([\w$]+)\s*:(?!:)")
        location = re.compile(r"\.loc\s+(\d+)\s+(\d+)[^\n]*")
        while True:
            while text[i].isspace():
                i += 1
            if text[i] == "{":
                depth += 1
                i += 1
                if depth > 1:
                    self.scopes.append({})
                    self.count += 1
                    self._predeclare_labels(text, i)
            elif text[i] == "}":
                depth -= 1
                i += 1
                if depth == 0:
                    return
                self.scopes.pop()
            elif text[i] == ";":
                i += 1
            elif m := location.match(text, i):
                if int(m[2]):
                    self.place = Place(self.files.get(int(m[1]), "?"), int(m[2]))
                i = m.end()
            elif m := label.match(text, i):
                i = m.end()
                table = re.compile(r"\s*\.branchtargets\s+([^;]*);").match(text, i)
                if table:
                    self.kernel.tables[m[1]] = list(split(table[1]))
                    i = table.end()
                else:
                    self.kernel.body.append(Label(self._name(m[1])))
            else:
                end = text.index(";", i)
                self._statement(" ".join(text[i:end].split()))
                i = end + 1

    def _predeclare_labels(self, text: str, i: int) -> None:
        depth, j = 1, i
        while depth:
            depth += (text[j] == "{") - (text[j] == "}")
            j += 1
        for name in re.findall(r"(?:^|[;\n{])\s*([\w$]+)\s*:(?!:)", text[i:j]):
            self.scopes[-1][name] = f"{name}_{self.count}"

    def _name(self, name: str) -> str:
        for scope in reversed(self.scopes):
            if name in scope:
                return scope[name]
        return name

    def _statement(self, st: str) -> None:
        if st.startswith(".reg"):
            m = re.match(r"\.reg\s+\.(\w+)\s+(.*)", st)
            assert m is not None
            for name in split(m[2]):
                self._declare(name, m[1])
        elif st.startswith(".local"):
            m = re.match(r"\.local\s+(?:\.align\s+(\d+)\s+)?\.(\w+)\s+([\w$]+)(?:\[(\d+)\])?", st)
            assert m is not None
            self.kernel.local[m[3]] = Memory(0, int(m[1] or 8), SIZES[m[2]] * int(m[4] or 1))
        elif st.startswith((".pragma", ".shared", ".minnctapersm", ".maxntid", ".param")):
            return  # of no effect here, or read by _shared
        else:
            m = re.match(r"(?:@(!?)(%?[\w$]+)\s+)?([\w.:]+)\s*(.*)", st)
            if m is None or st.startswith("."):
                raise CUDAError(f"{self._where()}: PTX that is not understood: {st}")
            guard = m[1] + self._name(m[2]) if m[2] else ""
            operands = tuple(self._rename(o) for o in split(m[4]))
            self.kernel.body.append(Instruction(guard, tuple(m[3].split(".")), operands, st, self.place))

    def _declare(self, name: str, kind: str) -> None:
        m = re.match(r"(%?[\w$]+)<(\d+)>", name)
        for n in [f"{m[1]}{i}" for i in range(int(m[2]))] if m else [name]:
            unique = n if len(self.scopes) == 1 else f"{n}_s{self.count}"
            self.scopes[-1][n] = unique
            self.kernel.registers[unique] = kind

    def _rename(self, operand: str) -> str:
        if len(self.scopes) == 1:
            return operand
        return re.sub(r"%?[A-Za-z_$][\w$]*", lambda m: self._name(m[0]), operand)

    def _where(self) -> str:
        return f"{self.place.file}:{self.place.line}"


def instructions(program: Program) -> Iterator[Instruction]:
    """Every instruction of every kernel."""
    for kernel in program.kernels:
        for item in kernel.body:
            if isinstance(item, Instruction):
                yield item
