"""From a ``.cu`` file of this package to PTX and machine code, kept on disk between runs.

An entry of the cache is named by a hash of everything that went in: the source and every header, the options, NVRTC's
version. So an edit is a new entry, and nothing is ever stale.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources

from minidl.kernels import folders
from minidl.kernels.cuda import nvrtc
from minidl.kernels.cuda.device import CUDAError, Parameter


@dataclass(frozen=True)
class Usage:
    """What a kernel takes of a multiprocessor, from ptxas: registers of a thread, bytes of static shared memory, of the
    stack, and of registers spilled to memory (stores and loads together)."""

    registers: int
    shared: int
    stack: int
    spills: int


@dataclass(frozen=True)
class Compiled:
    """One source file under one set of options.

    ``symbols`` maps a kernel's name in the source to its name in PTX; ``parameters`` and ``usage`` are by the former.
    ``remarks`` are ptxas's numbered ones: a wait that it had to insert, asynchronous products that it made wait for
    each other. ``cubin``, ``usage`` and ``remarks`` are empty for a virtual architecture (``compute_80``).
    """

    ptx: str
    cubin: bytes
    symbols: dict[str, str]
    parameters: dict[str, tuple[Parameter, ...]]
    usage: dict[str, Usage]
    remarks: tuple[str, ...]


@functools.cache
def sources() -> dict[str, str]:
    """The text of every ``.cu`` and ``.cuh`` file of the package, by file name."""
    folder = resources.files("minidl.kernels.cuda") / "source"
    return {
        entry.name: entry.read_text(encoding="utf8")
        for entry in sorted(folder.iterdir(), key=lambda e: e.name)
        if entry.name.endswith((".cu", ".cuh"))
    }


def compile(
    source: str,
    architecture: str,
    defines: Mapping[str, int | str] | None = None,
    instances: Sequence[str] = (),
    *,
    code: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> Compiled:
    """Compile a file of ``kernels/cuda/source`` for ``"sm_90a"`` (machine code) or ``"compute_80"`` (PTX only).

    Args:
        source: the file's name.
        architecture: as NVRTC names it.
        defines: macros.
        instances: template instances to make.
        code: compile this text under that name instead of the file's.
        headers: texts that replace headers of the package, or come beside them.

    Raises:
        CUDAError: it does not compile, or there is no such file.
        ImportError: NVRTC is not installed.
    """
    files = {name: text for name, text in sources().items() if name.endswith(".cuh")} | dict(headers or {})
    if code is None:
        if source not in sources():
            raise CUDAError(f"there is no CUDA source {source!r}; there are {', '.join(sources())}")
        code = sources()[source]
    used = _included(code, files)
    options = [
        f"--gpu-architecture={architecture}",
        "--std=c++17",
        "--generate-line-info",
        "--ptxas-options=-v",
        *(f"-D{name}={value}" for name, value in (defines or {}).items()),
    ]
    if not architecture.startswith("sm_"):
        options.remove("--ptxas-options=-v")
    key = json.dumps([nvrtc.version(), source, code, used, options, list(instances)])
    name = f"{source}-{architecture}-{hashlib.sha256(key.encode()).hexdigest()[:24]}"
    output = _load(name)
    if output is None:
        try:
            output = nvrtc.run(code, source, used, options, instances)
        except CUDAError as error:
            raise CUDAError(_explain(source, str(error), {source: code, **used})) from None
        _save(name, output)
    return _describe(output)


def _included(code: str, files: Mapping[str, str]) -> dict[str, str]:
    """Those of ``files`` that ``code`` includes, and that these include in turn."""
    found: dict[str, str] = {}
    waiting = [code]
    while waiting:
        for name in re.findall(r'^\s*#\s*include\s*"([^"]+)"', waiting.pop(), re.M):
            if name in files and name not in found:
                found[name] = files[name]
                waiting.append(files[name])
    return dict(sorted(found.items()))


def _explain(source: str, log: str, texts: Mapping[str, str]) -> str:
    """NVRTC's log with the source line under each error that does not quote it itself."""
    lines = [f"{source} does not compile:"]
    for line in log.splitlines():
        lines.append(line)
        m = re.match(r"(?:ptxas\s+)?([\w.]+), line (\d+); error", line)
        if m and m[1] in texts:
            lines.append("    " + texts[m[1]].splitlines()[int(m[2]) - 1].strip())
    return "\n".join(lines)


def _load(name: str) -> nvrtc.Output | None:
    folder = folders.writable("cuda")
    if folder is None:
        return None
    try:
        with (folder / f"{name}.json").open(encoding="utf8") as file:
            entry = json.load(file)
        cubin = (folder / f"{name}.cubin").read_bytes() if entry["cubin"] else b""
        if hashlib.sha256(cubin).hexdigest() != entry["cubin"] and entry["cubin"]:
            return None
        return nvrtc.Output(entry["ptx"], cubin, entry["log"], entry["symbols"])
    except (OSError, ValueError, KeyError, TypeError):
        return None  # not there, or damaged: compile


def _save(name: str, output: nvrtc.Output) -> None:
    folder = folders.writable("cuda")
    if folder is None:
        return
    entry = {
        "ptx": output.ptx,
        "log": output.log,
        "symbols": output.symbols,
        "cubin": hashlib.sha256(output.cubin).hexdigest() if output.cubin else "",
    }
    try:
        if output.cubin:
            folders.write_atomically(folder / f"{name}.cubin", output.cubin)
        folders.write_atomically(folder / f"{name}.json", json.dumps(entry).encode())
    except OSError:
        return  # a full disk is no reason to fail


def _describe(output: nvrtc.Output) -> Compiled:
    parameters = entry_parameters(output.ptx)
    symbols = dict(output.symbols)
    instantiated = set(symbols.values())
    symbols |= {symbol: symbol for symbol in parameters if symbol not in instantiated}
    usage = entry_usage(output.log)
    return Compiled(
        output.ptx,
        output.cubin,
        symbols,
        {name: parameters[symbol] for name, symbol in symbols.items()},
        {name: usage[symbol] for name, symbol in symbols.items() if symbol in usage},
        tuple(line.strip() for line in output.log.splitlines() if re.search(r"\(C\d{4}\)", line)),
    )


def entry_parameters(ptx: str) -> dict[str, tuple[Parameter, ...]]:
    """The parameters of each kernel of a PTX text, by symbol."""
    kinds = {"f": "float", "u": "int", "s": "int", "b": "int"}
    found = {}
    for symbol, declarations in re.findall(r"\.entry\s+([\w$]+)\s*\(([^)]*)\)", ptx):
        parameters = []
        for declaration in filter(None, (d.strip() for d in declarations.split(","))):
            m = re.match(
                r"\.param\s+(?:\.align\s+\d+\s+)?\.([a-z])(\d+)\s.*?(?:\[(\d+)\])?$", declaration, re.S
            )
            if m is None:
                raise CUDAError(f"{symbol}: a parameter that is not understood: {declaration}")
            parameters.append(
                Parameter("bytes", int(m[3])) if m[3] else Parameter(kinds[m[1]], int(m[2]) // 8)
            )
        found[symbol] = tuple(parameters)
    return found


def entry_usage(log: str) -> dict[str, Usage]:
    """What ``ptxas -v`` says of each kernel, by symbol."""

    def number(pattern: str, text: str) -> int:
        return sum(int(n) for n in re.findall(pattern, text))

    parts = re.split(r"Compiling entry function '([\w$]+)' for '\w+'", log)
    return {
        symbol: Usage(
            number(r"Used (\d+) registers", text),
            number(r"(\d+) bytes smem", text),
            number(r"(\d+) bytes stack frame", text),
            number(r"(\d+) bytes spill (?:stores|loads)", text),
        )
        for symbol, text in zip(parts[1::2], parts[2::2], strict=True)
    }
