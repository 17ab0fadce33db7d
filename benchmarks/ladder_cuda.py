"""``python -m benchmarks.ladder_cuda``: what each step of the CUDA ladder asks of memory.

    python -m benchmarks.ladder_cuda                  counted on the emulated device: needs no graphics card
    python -m benchmarks.ladder_cuda --device cuda    also timed, on a graphics card
    python -m benchmarks.ladder_cuda --docs           write the table into docs/convolution-cuda.md

A *sector* is 32 bytes of global memory, the least that a load fetches. A *wavefront* is one turn of shared memory's 32
banks. Counts do not depend on the machine: they are a property of the kernel.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.pages import write_table
from minidl.kernels.emulator import EmulatedDevice
from minidl.kernels.ladder.cuda import STEPS, Step

PAGE = Path(__file__).parents[1] / "docs" / "convolution-cuda.md"
COUNTED = (1, 14, 14, 64)  # x; 64 outputs, 3x3 windows, padding 1
TIMED = (64, 56, 56, 64)


def operands(shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Images of this shape, and 3x3 weights that keep the channels."""
    rng = np.random.default_rng(0)
    return rng.standard_normal(shape, np.float32), rng.standard_normal((shape[3], 3, 3, shape[3]), np.float32)


def count(device: EmulatedDevice, step: Step) -> dict[str, float]:
    """Sectors and wavefronts for each 1,000 multiply-adds, and how many times the least they are."""
    x, w = operands(COUNTED)
    with device.count_traffic() as lines:
        step.conv2d(device, x, w, 1, 1)
    thousands = x.size * 9 * x.shape[3] / 1000
    out: dict[str, float] = {}
    for memory in ("global", "shared"):
        real = sum(line.real for line in lines if line.memory == memory)
        ideal = sum(line.ideal for line in lines if line.memory == memory)
        out[memory] = real / thousands
        out[f"{memory} waste"] = real / ideal if ideal else 1.0
    return out


def seconds(device: Any, step: Step, turns: int = 20) -> float:
    """Median time of a launch on a graphics card, its operands prepared before."""
    x, w = (device.xp.asarray(a) for a in operands(TIMED))
    launch = step.prepare(device, x, w, 1, 1)[0]
    times = []
    for _ in range(turns + 3):
        device.synchronize()
        started = time.perf_counter()
        launch()
        device.synchronize()
        times.append(time.perf_counter() - started)
    return float(np.median(times[3:]))


def table(card: Any = None) -> list[str]:
    """Markdown: a row for each step."""
    timed = f" GFLOP/s on {card.name} |" if card else ""
    lines = [
        f"| step | sectors of global memory | wavefronts of shared memory |{timed}",
        "| --- | ---: | ---: |" + (" ---: |" if card else ""),
    ]
    for step in STEPS:
        found = count(EmulatedDevice(90 if step.warpgroup else 80, check=False), step)
        cells = [
            f"{found[m]:.1f}"
            + (f" ({found[f'{m} waste']:.1f} times the least)" if found[f"{m} waste"] > 1.05 else "")
            for m in ("global", "shared")
        ]
        if card:
            flops = 2 * int(np.prod(TIMED)) * 9 * TIMED[3]
            cells.append(f"{flops / seconds(card, step) / 1e9:.0f}" if step.runs_on(card) else "-")
        lines.append(f"| {step.number} {step.title} | " + " | ".join(cells) + " |")
    size = "x".join(map(str, COUNTED[1:3]))
    return [
        *lines,
        "",
        f"For each 1,000 multiply-adds of a 3x3 convolution of one {size} image, {COUNTED[3]} channels in and "
        "out, counted on the emulated device by `python -m benchmarks.ladder_cuda --docs`.",
    ]


def main() -> None:
    """Count, print, and write what was asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=["emulated", "cuda"], default="emulated", help="cuda: also time")
    parser.add_argument("--docs", action="store_true", help="write the table into docs/")
    args = parser.parse_args()
    card = None
    if args.device == "cuda":
        from minidl.kernels.cuda.cupy_device import CuPyDevice

        card = CuPyDevice(0)
    lines = table(card)
    print("\n".join(lines))
    if args.docs:
        write_table(PAGE, "<!-- ladder -->", lines)


if __name__ == "__main__":
    main()
