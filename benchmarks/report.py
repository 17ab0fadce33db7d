"""Results as text: one Markdown table for each part, and the README's table.

    python -m benchmarks.report benchmarks/results/MACHINE/results.json --readme README.md

writes the README's table of figures between its markers anew.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.pages import write_table
from benchmarks.timing import Timing

Row = dict[str, Any]

BEGIN = "<!-- benchmark figures -->"
RUNTIMES = ("ONNX Runtime", "OpenVINO")
EAGER = "minidl eager"  # inference that is fused, but not captured
HALVES = ("minidl bf16", "OpenVINO bf16")
DIRECTIONS = ("forward", "input gradient", "weight gradient")


def torch_modes(row: Row) -> list[str]:
    """The PyTorch contestants of a row."""
    return [name for name in row["seconds"] if name.startswith("torch")]


def against(row: Row, names: Sequence[str]) -> tuple[str, float, float, float] | None:
    """The fastest of the named contestants in a row, and how many times as fast minidl is: median and quartiles."""
    present = [name for name in names if name in row["seconds"]]
    if not present:
        return None
    timing = Timing(row["seconds"])
    best = timing.fastest(present)
    return (best, *timing.ratio("minidl", best))


def median(row: Row, name: str = "minidl") -> float:
    """Median seconds of a contestant in a row."""
    return statistics.median(row["seconds"][name])


def geometric_mean(values: Sequence[float]) -> float:
    """exp(mean(log(values)))."""
    return math.exp(statistics.fmean(map(math.log, values)))


def roofline(row: Row, bandwidth: float) -> tuple[float, float]:
    """How near a kernel is to its limits, as shares: of the multiply-adds, and of whichever limit binds."""
    seconds = median(row)
    compute, memory = row["gflop"] / row["limit"], row["gbytes"] / bandwidth
    return compute / seconds, max(compute, memory) / seconds


def _cells(*texts: object) -> str:
    return f"| {' | '.join(map(str, texts))} |"


def _against(row: Row, names: Sequence[str], scale: float = 1e3) -> tuple[str, str, str]:
    found = against(row, names)
    if found is None:
        return "-", "", ""
    best, middle, low, high = found
    return best, f"{median(row, best) * scale:.2f}", f"{middle:.2f} ({low:.2f}-{high:.2f})"


def convolution_line(row: Row, data: Row) -> str:
    """A table row of a convolution kernel."""
    compute, bound = roofline(row, data["bandwidth"])
    figures = (
        f"{median(row) * 1e3:.2f}",
        f"{row['gflop'] / median(row):.0f}",
        f"{compute:.0%}",
        f"{bound:.0%}",
    )
    return _cells(row["convolution"], row["direction"], *figures, *_against(row, torch_modes(row)))


def network_line(row: Row, data: Row) -> str:
    """A table row of a network."""
    cells = [row["network"], f"{median(row) * 1e3:.1f}", f"{row['batch'] / median(row):.0f}"]
    cells.append(f"{median(row, EAGER) * 1e3:.1f}" if EAGER in row["seconds"] else "")
    cells += _against(row, torch_modes(row))
    for runtime in RUNTIMES:
        cells += _against(row, [runtime])[1:]
    cells += [f"{median(row, n) * 1e3:.1f}" if n in row["seconds"] else "" for n in HALVES]
    cells.append(_times_as_fast(row, *HALVES))
    return _cells(*cells)


def _times_as_fast(row: Row, name: str, other: str) -> str:
    if name not in row["seconds"] or other not in row["seconds"]:
        return ""
    return f"{Timing(row['seconds']).ratio(name, other)[0]:.2f}"


def memory_line(row: Row, data: Row) -> str:
    """A table row of a training step's peak."""
    names = ("minidl", "torch NCHW", "torch NHWC")
    shown = (
        f"{row['peak'][n] / 2**20:.0f} ({row['before'][n] / 2**20:.0f})" if n in row["peak"] else "-"
        for n in names
    )
    least = min((row["peak"][n] for n in names[1:] if n in row["peak"]), default=None)
    return _cells(row["network"], *shown, f"{row['peak']['minidl'] / least:.2f}" if least else "-")


def startup_line(row: Row, data: Row) -> str:
    """A table row of a command's time."""
    return _cells(row["what"], f"{statistics.median(row['seconds']):.2f}")


def overhead_line(row: Row, data: Row) -> str:
    """A table row of an operator's own cost."""
    columns = ("minidl forward", "minidl backward", "torch forward", "torch backward", "ratio")
    return _cells(row["chain"], *(f"{row[c]:.2f}" if c in row else "-" for c in columns))


NETWORK_COLUMNS = (
    "network | minidl ms | images/s | minidl eager ms | fastest PyTorch | ms | times as fast (quartiles) "
    "| ONNX Runtime ms | times as fast | OpenVINO ms | times as fast "
    "| bfloat16: minidl ms | OpenVINO ms | times as fast"
)
# title, what it means, columns, a function from row and data to a line
PARTS: dict[str, tuple[str, str, str, Callable[[Row, Row], str]]] = {
    "convolution": (
        "Convolution kernels",
        "GFLOP/s count the direct algorithm's multiplications and additions; an algorithm that needs fewer "
        "(Winograd) may pass 100 %. *Of multiply-adds*: beside multiply-adds on registers alone, measured in turn with "
        "the kernel. *Of the roofline*: the slower of those and one pass over all arrays at the memory's "
        "bandwidth; arrays that stay in a cache may pass 100 %.",
        "convolution | direction | minidl ms | GFLOP/s | of multiply-adds | of the roofline | fastest PyTorch | ms "
        "| times as fast (quartiles)",
        convolution_line,
    ),
    "networks": (
        "Networks",
        "Float32 on every side but in the last three columns. minidl's inference is `compile_step(fuse(model))`, "
        "since the other sides compile theirs; *eager* is `fuse(model)`, called layer by layer.",
        NETWORK_COLUMNS,
        network_line,
    ),
    "avx2": (
        "Networks, both sides limited to AVX2",
        "NUMBA_CPU_NAME=haswell, NUMBA_CPU_FEATURES=+avx2,+fma, ONEDNN_MAX_CPU_ISA=AVX2, ATEN_CPU_CAPABILITY=avx2.",
        NETWORK_COLUMNS,
        network_line,
    ),
    "memory": (
        "Peak resident memory of a training step",
        "MiB of the whole process; in brackets what it held before the network was made.",
        "network | minidl | torch NCHW | torch NHWC | minidl / least of PyTorch",
        memory_line,
    ),
    "startup": ("First minute", "Each in a process of its own.", "command | s", startup_line),
    "overhead": (
        "The engine's own cost",
        "Microseconds for an operator on four numbers, one thread, quickest of the turns.",
        "operator | minidl forward | backward | PyTorch forward | backward | minidl / PyTorch",
        overhead_line,
    ),
}


def head(part: str) -> list[str]:
    """Title, explanation and table head of a part."""
    title, note, columns, _ = PARTS[part]
    return [f"## {title}", "", note, "", f"| {columns} |", "| --- " * len(columns.split(" | ")) + "|"]


def line(part: str, row: Row, data: Row) -> str:
    """One row of a part's table."""
    return PARTS[part][3](row, data)


def speed_ups(data: Row, direction: str) -> list[float]:
    """How many times as fast minidl's convolutions of one direction are as PyTorch's better layout, ascending."""
    found = (against(r, torch_modes(r)) for r in data.get("convolution", []) if r["direction"] == direction)
    return sorted(f[1] for f in found if f)


def summary(data: Row) -> list[str]:
    """Sentences below the convolution table."""
    lines = []
    for direction in DIRECTIONS:
        ratios = speed_ups(data, direction)
        if ratios:
            mean, middle = geometric_mean(ratios), statistics.median(ratios)
            lines.append(
                f"{direction.capitalize()}, {len(ratios)} shapes, times as fast as the fastest PyTorch: geometric mean "
                f"{mean:.2f}, median {middle:.2f}, lowest {ratios[0]:.2f}, highest {ratios[-1]:.2f}."
            )
    return lines


def limits(data: Row) -> str:
    """One line: the machine's two limits."""
    return (
        f"Limits measured in this run: {data['multiply_adds']:.0f} GFLOP/s of float32 multiply-adds, "
        f"{data['bandwidth']:.1f} GB/s of memory bandwidth."
    )


def busy(data: Row) -> str:
    """A warning where other programs were running, else nothing."""
    load = data.get("load")
    if load is None or load < 1:
        return ""
    return f" The machine was busy (load {load:g} when the run began): such figures scatter, and mean little."


def markdown(data: Row) -> str:
    """All results as a document."""
    out = [
        "# Benchmark",
        "",
        f"{machine.line(data['machine'])}. {data['time']}, {data['turns']} turns.",
        "",
        limits(data) + busy(data),
        "",
    ]
    for part in PARTS:
        if rows := data.get(part):
            out += [*head(part), *(line(part, row, data) for row in rows), ""]
            if part == "convolution":
                out += [f"- {sentence}" for sentence in summary(data)] + [""]
    missing = {name: why for row in data.get("networks", []) for name, why in row.get("missing", {}).items()}
    out += [f"- {name} did not take part: {why}" for name, why in sorted(missing.items())]
    return "\n".join(out).rstrip() + "\n"


def readme_table(data: Row) -> list[str]:
    """The figures worth a place in the README: networks, kernels, memory, first use."""
    name, threads = data["machine"]["processor"], data["machine"]["threads"]
    versions = data["machine"]["versions"]
    rivals = ", ".join(f"{n} {versions[n]}" for n in ("torch", "onnxruntime", "openvino") if n in versions)
    out = [
        f"{name}, {threads} threads, float32; beside {rivals or 'nobody'} ({data['time'][:10]}). Above 1: minidl "
        f"is faster.{busy(data)}",
        "",
        "| what | minidl | times as fast as PyTorch's fastest mode | as ONNX Runtime | as OpenVINO |",
        "| --- | --- | --- | --- | --- |",
    ]
    for part, suffix in (("networks", ""), ("avx2", ", both sides limited to AVX2")):
        for row in data.get(part, []):
            out += _readme_network(row, suffix)
    for direction in DIRECTIONS:
        ratios = speed_ups(data, direction)
        if ratios:
            rows = [r for r in data["convolution"] if r["direction"] == direction]
            shares = [roofline(row, data["bandwidth"])[0] for row in rows]
            share = f"{min(shares):.0%} to {max(shares):.0%} of multiply-adds"
            spread = f"{geometric_mean(ratios):.2f} (lowest {ratios[0]:.2f}, highest {ratios[-1]:.2f})"
            out.append(_cells(f"convolution, {direction}, {len(ratios)} shapes", share, spread, "-", "-"))
    for row in data.get("memory", []):
        least = min((v for k, v in row["peak"].items() if k != "minidl"), default=None)
        times = f"{row['peak']['minidl'] / least:.2f} times its memory" if least else "-"
        peak = f"{row['peak']['minidl'] / 2**20:.0f} MiB"
        out.append(_cells(f"{row['network']}, peak memory", peak, times, "-", "-"))
    for row in data.get("startup", []):
        command, comma, rest = row["what"].partition(",")
        seconds = f"{statistics.median(row['seconds']):.2f} s"
        out.append(_cells(f"`{command}`{comma}{rest}", seconds, "-", "-", "-"))
    return out


def _readme_network(row: Row, suffix: str) -> list[str]:
    """The README's rows of a network: in float32, and in bfloat16 where that was measured."""
    found = [against(row, names) for names in (torch_modes(row), *([r] for r in RUNTIMES))]
    ratios = [f"{f[1]:.2f}" if f else "-" for f in found]
    lines = [_cells(row["network"] + suffix, f"{median(row) * 1e3:.1f} ms", *ratios)]
    if "minidl bf16" in row["seconds"]:
        own = f"- ({_times_as_fast(row, 'minidl bf16', 'minidl')} times minidl in float32)"
        milliseconds = f"{median(row, 'minidl bf16') * 1e3:.1f} ms"
        ratio = _times_as_fast(row, *HALVES) or "-"
        lines.append(_cells(f"{row['network']}{suffix}, bfloat16", milliseconds, own, "-", ratio))
    return lines


def main() -> None:
    """Write the Markdown beside the JSON, and the README's table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("results", type=Path, help="results.json of a run")
    parser.add_argument("--readme", type=Path, help="also write the table between this file's markers")
    args = parser.parse_args()
    data = json.loads(args.results.read_text(encoding="utf8"))
    args.results.with_suffix(".md").write_text(markdown(data), encoding="utf8")
    if args.readme:
        write_table(args.readme, BEGIN, readme_table(data))


if __name__ == "__main__":
    main()
