"""``python -m benchmarks.ladder``: the steps from seven loops to the production kernel, beside each other.

    python -m benchmarks.ladder                       print the table
    python -m benchmarks.ladder --docs                write it and its plot into docs/convolution.md

Every step is compared with a float64 convolution before it is timed. All steps but the last run on one thread and are
shown as a share of one thread's multiply-add limit, the last on all threads and as a share of theirs; both limits are
measured in the same run. Beside them: im2col with NumPy's product (OpenBLAS), and PyTorch (oneDNN) if installed.
"""

from __future__ import annotations

import argparse
import json
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import machine
from benchmarks.pages import write_table
from benchmarks.timing import Timing, interleave
from minidl import kernels
from minidl.kernels.ladder import STEPS, Step
from minidl.kernels.ladder.cpu.common import output_size, padded
from minidl.kernels.ladder.cpu.step3_im2col import im2col
from minidl.training import plots

DOCS = Path(__file__).parents[1] / "docs"
BEGIN = "<!-- ladder -->"
SHAPES = {  # title: images, size, channels in and out; 3x3 windows, padding 1
    "56x56, 64 channels": (4, 56, 64),
    "28x28, 128 channels": (4, 28, 128),
    "14x14, 256 channels": (16, 14, 256),
}
ALL_BLAS = "im2col and NumPy's product (OpenBLAS), all threads"
GROUPS = ("one", "all", "blas")  # one after the other: threads that wait for one disturb another
ONE_TORCH, ALL_TORCH = "PyTorch (oneDNN), one thread", "PyTorch (oneDNN), all threads"


def blas_conv2d(x: np.ndarray, w: np.ndarray, stride: int, pad: int) -> np.ndarray:
    """im2col as in step 3, and the matrix product of the BLAS library that NumPy comes with."""
    rows, cols = output_size(x, w, stride, pad)
    columns = np.empty((rows * cols, w[0].size), np.float32)
    weights = w.reshape(len(w), -1).T
    y = np.empty((len(x), rows * cols, len(w)), np.float32)
    for image, out in zip(padded(x, pad), y, strict=True):
        im2col(image, *w.shape[1:3], stride, rows, cols, columns)
        np.matmul(columns, weights, out=out)
    return y.reshape(len(x), rows, cols, len(w))


def contestants(x: np.ndarray, w: np.ndarray, threads: int, group: str) -> dict[str, Callable[[], Any]]:
    """What to time, by name: on one thread, on all ``threads``, or the BLAS library, which has threads of its own.

    Numbers of threads are set once and not at every call: a library that is told another number loses the threads
    that wait for it. OpenBLAS's threads spin for long after a product, in the way of others.
    """
    if group == "blas":
        return {ALL_BLAS: lambda: blas_conv2d(x, w, 1, 1)}
    together = group == "all"
    kernels.set_num_threads(threads if together else 1)
    out: dict[str, Callable[[], Any]] = {}
    for step in STEPS:
        if step.threads is together:
            conv2d = step.load()
            out[name_of(step)] = lambda conv2d=conv2d: conv2d(x, w, 1, 1)
    try:
        import torch
    except ImportError:
        return out
    torch.set_num_threads(threads if together else 1)
    images, weights = (torch.from_numpy(a).permute(0, 3, 1, 2) for a in (x, w))
    out[ALL_TORCH if together else ONE_TORCH] = lambda: (
        torch.conv2d(images, weights, None, 1, 1).permute(0, 2, 3, 1).numpy()
    )
    return out


def name_of(step: Step) -> str:
    """The title of a row."""
    return f"{step.number} {step.title}"


def measure(threads: int, turns: int) -> dict[str, Any]:
    """Time all shapes: GFLOP/s by shape and contestant, and the limits of one and of all threads."""
    limits = {"one": machine.multiply_add_limit(1), "all": machine.multiply_add_limit(threads)}
    found: dict[str, dict[str, float]] = {title: {} for title in SHAPES}
    ratios: dict[str, float] = {}
    for group in GROUPS:
        for title, (images, size, channels) in SHAPES.items():
            rng = np.random.default_rng(0)
            x = rng.standard_normal((images, size, size, channels), np.float32)
            w = rng.standard_normal((channels, 3, 3, channels), np.float32)
            place: tuple[Any, ...] = ((1, 1), ((1, 1), (1, 1)), (1, 1), 1)
            with kernels.use("reference"):
                expected = kernels.backend(x).conv2d(x.astype(np.float64), w.astype(np.float64), None, *place)
            runs = contestants(x, w, threads, group)
            for name, run in runs.items():
                error = np.abs(run() - expected).max() / np.abs(expected).max()
                if error > 1e-5:
                    raise SystemExit(f"{name}, {title}: differs from float64 by {error:.1e}; not timed")
            timing: Timing = interleave(runs, turns, warmup=1, min_seconds=0.03)
            flops = 2 * x.size * 9 * channels
            found[title] |= {name: flops / timing.median(name) / 1e9 for name in runs}
            if ALL_TORCH in runs:
                ratios[title] = timing.ratio(name_of(STEPS[-1]), ALL_TORCH)[0]
    order = [*map(name_of, STEPS), ALL_BLAS, ONE_TORCH, ALL_TORCH]
    return {
        "machine": machine.line(machine.describe(threads)),
        "limits": limits,
        "speeds": {title: {n: speeds[n] for n in order if n in speeds} for title, speeds in found.items()},
        "ratios": ratios,
    }


def table(result: dict[str, Any]) -> list[str]:
    """The figures as Markdown."""
    limits, speeds = result["limits"], result["speeds"]
    titles = list(speeds)
    lines = [
        "| step | " + " | ".join(titles) + " |",
        "| --- |" + " ---: |" * len(titles),
    ]
    last = list(speeds[titles[0]])[len(STEPS) - 1]
    for name in speeds[titles[0]]:
        on_all = name in (last, ALL_BLAS, ALL_TORCH)
        limit = limits["all" if on_all else "one"]
        cells = [f"{speeds[t][name]:.0f} ({speeds[t][name] / limit:.0%})" for t in titles]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines += [
        "",
        "GFLOP/s (and percent of the multiply-add limit, "
        f"{limits['one']:.0f} GFLOP/s on one thread, {limits['all']:.0f} on all). Winograd is counted as the "
        "multiplications that it stands for.",
    ]
    if result["ratios"]:
        text = ", ".join(f"{ratio:.2f}" for ratio in result["ratios"].values())
        lines.append(f"The production kernel is {text} times as fast as PyTorch on all threads.")
    return [*lines, "", f"Measured by `python -m benchmarks.ladder --docs` on: {result['machine']}."]


def plot(result: dict[str, Any], path: Path) -> None:
    """Bars of each step's GFLOP/s per thread on a logarithmic axis, the limit and PyTorch as lines."""
    speeds, limits = result["speeds"], result["limits"]
    threads = max(1, round(limits["all"] / limits["one"]))
    titles = list(speeds)
    names = list(speeds[titles[0]])[: len(STEPS)]
    figure = plots.new_figure(10, 4.6)
    axes = figure.subplots()
    width = 0.8 / len(titles)
    for t, title in enumerate(titles):
        heights = [speeds[title][n] / (threads if n == names[-1] else 1) for n in names]
        places = [k + (t - (len(titles) - 1) / 2) * width for k in range(len(names))]
        axes.bar(places, heights, width, label=title, color=("#1b4f72", "#2e86c1", "#aed6f1")[t % 3])
    axes.axhline(limits["one"], color="#c0392b", linewidth=1.2, label="multiply-add limit of a thread")
    if ONE_TORCH in speeds[titles[0]]:
        middle = float(np.median([speeds[t][ONE_TORCH] for t in titles]))
        axes.axhline(middle, color="#7d8a97", linewidth=1.2, linestyle="--", label="PyTorch (oneDNN), median")
    axes.set_yscale("log")
    axes.set_ylabel("GFLOP/s per thread")
    axes.set_xticks(
        range(len(names)), [textwrap.fill(f"{s.number} {s.title}", 13) for s in STEPS], fontsize=8
    )
    axes.legend(fontsize=8, loc="lower right", framealpha=1)
    axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    plots.save_figure(figure, path)


def write_docs(result: dict[str, Any]) -> None:
    """Replace the table in docs/convolution.md and the plot beside it. SystemExit when matplotlib is not installed."""
    if not plots.have_matplotlib():
        raise SystemExit("The plot needs matplotlib: pip install 'minidl[cli]'")
    write_table(DOCS / "convolution.md", BEGIN, table(result))
    plot(result, DOCS / "pictures" / "ladder.png")


def main() -> None:
    """Measure, print, and write what was asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--turns", type=int, default=7, help="counted turns (default 7)")
    parser.add_argument(
        "--threads", type=int, default=kernels.get_num_threads(), help="of the last step and of PyTorch"
    )
    parser.add_argument("--docs", action="store_true", help="write the table and the plot into docs/")
    parser.add_argument("--out", type=Path, help="file for the figures as JSON")
    args = parser.parse_args()
    result = measure(args.threads, args.turns)
    print("\n".join(table(result)))
    if args.docs:
        write_docs(result)
    if args.out:
        args.out.write_text(json.dumps(result, indent=1), encoding="utf8")


if __name__ == "__main__":
    main()
