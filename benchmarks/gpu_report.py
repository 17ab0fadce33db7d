"""Results of a graphics card as text."""

from __future__ import annotations

import re
from typing import Any

from benchmarks.gpu_limits import PRECISIONS
from benchmarks.report import DIRECTIONS, Row, geometric_mean, median
from benchmarks.timing import Timing

CONTESTANTS = ("minidl", "minidl graph", "torch", "torch graph", "torch.compile")
COLUMNS = {
    "convolution": "convolution | times | direction | precision | minidl us | TFLOP/s | of the matrix rate "
    "| of the roofline | cuDNN us | times as fast (quartiles)",
    "networks": "network | precision | minidl images/s | graph | torch images/s | graph | torch.compile "
    "| eager: times as fast | best: times as fast",
}
TITLES = {
    "convolution": (
        "Convolution kernels",
        "Both sides as CUDA graphs of several calls. *times*: how often ResNet-50 has it. *Of the matrix rate*: beside "
        "the measured rate of its precision; *of the roofline*: the slower of that and one pass over all arrays at the "
        "measured bandwidth.",
    ),
    "networks": ("Networks", "Images a second; the call waits for the loss or the logits each time."),
}


def slug(name: str) -> str:
    """A card's name as a folder's: ``nvidia-h200``."""
    return re.sub(r"\W+", "-", name.lower()).strip("-")


def cells(*texts: object) -> str:
    """A table row."""
    return f"| {' | '.join(map(str, texts))} |"


def title(data: Row) -> str:
    """The card, the versions and its limits."""
    m, limits = data["machine"], data["limits"]
    versions = ", ".join(f"{name} {version}" for name, version in m["versions"].items())
    rates = ", ".join(f"{limits[p] / 1e3:.1f} in {p}" for p in PRECISIONS)
    return (
        f"{m['card']} (sm_{m['compute_capability']}, {m['multiprocessors']} multiprocessors), {m['processor']}, "
        f"{versions}. {data['time']}, {data['turns']} turns.\n\n"
        f"Limits measured in this run: {limits['bandwidth']:.0f} GB/s of memory bandwidth; TFLOP/s: {rates}."
    )


def head(part: str) -> list[str]:
    """Title, explanation and table head of a part."""
    name, note = TITLES[part]
    columns = COLUMNS[part]
    return [f"## {name}", "", note, "", f"| {columns} |", "| --- " * len(columns.split(" | ")) + "|"]


def line(part: str, row: Row, data: Row) -> str:
    """One row of a part's table."""
    return convolution_line(row, data) if part == "convolution" else network_line(row)


def convolution_line(row: Row, data: Row) -> str:
    """A table row of a kernel."""
    seconds = median(row)
    compute, memory = row["gflop"] / row["limit"], row["gbytes"] / data["limits"]["bandwidth"]
    rival, ratio = "-", ""
    if "cuDNN" in row["seconds"]:
        middle, low, high = Timing(row["seconds"]).ratio("minidl", "cuDNN")
        rival, ratio = f"{median(row, 'cuDNN') * 1e6:.0f}", f"{middle:.2f} ({low:.2f}-{high:.2f})"
    return cells(
        row["convolution"],
        row["count"],
        row["direction"],
        row["precision"],
        f"{seconds * 1e6:.0f}",
        f"{row['gflop'] / seconds / 1e3:.1f}",
        f"{compute / seconds:.0%}",
        f"{max(compute, memory) / seconds:.0%}",
        rival,
        ratio,
    )


def network_line(row: Row) -> str:
    """A table row of a network."""
    seconds = row["seconds"]
    speeds = [f"{row['batch'] / median(row, n):.0f}" if n in seconds else "-" for n in CONTESTANTS]
    timing = Timing(seconds)
    eager = f"{timing.ratio('minidl', 'torch')[0]:.2f}" if "torch" in seconds else "-"
    rivals = [n for n in seconds if n.startswith("torch")]
    best = "-"
    if rivals:
        mine = timing.fastest([n for n in seconds if n.startswith("minidl")])
        best = f"{timing.ratio(mine, timing.fastest(rivals))[0]:.2f}"
    return cells(row["network"], row["precision"], *speeds, eager, best)


def summary(part: str, data: Row) -> list[str]:
    """Sentences below a table."""
    rows = data.get(part, [])
    if part == "networks":
        missing = {name: why for row in rows for name, why in row["missing"].items()}
        return [f"- {name} did not take part: {why}" for name, why in sorted(missing.items())]
    out = []
    for precision in PRECISIONS:
        for direction in DIRECTIONS:
            some = [r for r in rows if (r["precision"], r["direction"]) == (precision, direction)]
            if not some:
                continue
            total = sum(r["count"] * median(r) for r in some)
            text = f"- {precision}, {direction}: all of ResNet-50's {total * 1e3:.2f} ms"
            ratios = [
                Timing(r["seconds"]).ratio("minidl", "cuDNN")[0] for r in some if "cuDNN" in r["seconds"]
            ]
            if ratios:
                rival = sum(r["count"] * median(r, "cuDNN") for r in some)
                text += (
                    f", cuDNN {rival * 1e3:.2f} ms; times as fast: geometric mean {geometric_mean(ratios):.2f}, "
                    f"lowest {min(ratios):.2f}, highest {max(ratios):.2f}"
                )
            out.append(text)
    return out


def markdown(data: dict[str, Any]) -> str:
    """All results as a document."""
    out = ["# Benchmark on a graphics card", "", title(data), ""]
    for part in TITLES:
        if rows := data.get(part):
            out += [*head(part), *(line(part, row, data) for row in rows), "", *summary(part, data), ""]
    return "\n".join(out).rstrip() + "\n"
