"""``python -m benchmarks.cuda_roofline``: what the CUDA kernels can reach at most, and what they take.

    python -m benchmarks.cuda_roofline                    each convolution of ResNet-50 on three cards
    python -m benchmarks.cuda_roofline --machine-code     registers, spills and occupancy of every kernel (minutes)
    python -m benchmarks.cuda_roofline --machine-code --quick --architectures sm_80 sm_90a

Needs no graphics card, and times nothing. The first table is an *estimate* from the cards' data sheets: a kernel takes
at least the time of its multiplications at the card's rate, at least the time to move its operands and its result
once, and, on tensor cores, at least the time that its tiles take through shared memory. ``efficiency`` is what the
chosen tiling leaves of that: results in a block beyond the edge of the output, and multiprocessors idle in the last
round of blocks.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any

from minidl.kernels.cuda import compiler, tiling
from minidl.kernels.cuda.inventory import ARCHITECTURES, REGISTER_FILE, Kernel, capability, kernels


@dataclass(frozen=True)
class Card:
    """A graphics card's data sheet: rates in multiply-adds counted as two, dense; bandwidth in bytes a second; the
    clock at which those rates hold.

    On Hopper only wgmma has the rates of the tensor cores; the warps' own instructions reach MMA_SYNC_RATE of them.
    """

    name: str
    architecture: str
    multiprocessors: int
    shared_limit: int
    bandwidth: float
    clock: float
    rates: dict[str, float]

    @property
    def compute_capability(self) -> int:
        """80 for sm_80."""
        return capability(self.architecture)


HOPPER = {"strict": 67e12, "tf32": 495e12, "bf16": 989e12}
CARDS = (
    Card(
        "A100",
        "sm_80",
        108,
        163 * 1024,
        1.555e12,
        1.41e9,
        {"strict": 19.5e12, "tf32": 156e12, "bf16": 312e12},
    ),
    Card("H100", "sm_90", 132, 227 * 1024, 3.35e12, 1.83e9, HOPPER),
    Card("H100 with wgmma", "sm_90a", 132, 227 * 1024, 3.35e12, 1.83e9, HOPPER),
    Card(
        "RTX 4090",
        "sm_89",
        128,
        99 * 1024,
        1.008e12,
        2.52e9,
        {"strict": 82.6e12, "tf32": 82.6e12, "bf16": 165e12},
    ),
)
PRECISIONS = {"strict": ("FMA", 4), "tf32": ("TENSOR", 4), "bf16": ("TENSOR", 2)}


@dataclass(frozen=True)
class Layer:
    """A convolution: input size, channels in and out, window, stride, and how often the network has it."""

    size: int
    channels: int
    outputs: int
    window: int
    stride: int
    count: int


def resnet50() -> list[Layer]:
    """The distinct convolutions of ResNet-50 at 224 x 224 (stride in the 3x3, as torchvision has it)."""
    found: dict[tuple[int, ...], int] = {(224, 3, 64, 7, 2): 1}
    channels = 64
    for blocks, middle, size in ((3, 64, 56), (4, 128, 28), (6, 256, 14), (3, 512, 7)):
        for block in range(blocks):
            stride = 2 if block == 0 and middle > 64 else 1
            shapes = [
                (size * stride, channels, middle, 1, 1),
                (size * stride, middle, middle, 3, stride),
                (size, middle, 4 * middle, 1, 1),
            ]
            if block == 0:
                shapes.append((size * stride, channels, 4 * middle, 1, stride))
            for shape in shapes:
                found[shape] = found.get(shape, 0) + 1
            channels = 4 * middle
    return [Layer(*shape, count) for shape, count in found.items()]


SHARED_RATE = 128
"""Bytes that a multiprocessor's shared memory moves in a cycle."""


def shared_traffic(tile: tiling.Tiling, size: int) -> int:
    """Bytes through shared memory for one slice of a tile: the copies into it, what the warps or warpgroups read of it
    (each its own rows and columns), and with wgmma the rounding of the image's float32 in place."""
    fill = (tile.bm + tile.bn) * tile.slice_bytes
    if tile.wgmma:
        rounding = 2 * tile.bm * tile.slice_bytes if size == 4 else 0
        return fill + rounding + tile.bm // 64 * (64 + tile.bn) * tile.slice_bytes
    return fill + tile.threads // 32 * (tile.wm + tile.wn) * tile.slice_bytes


def estimate(card: Card, layer: Layer, batch: int, precision: str) -> dict[str, Any]:
    """Floating-point operations, bytes, the lower bounds in seconds, and the tiling's efficiency."""
    math, size = PRECISIONS[precision]
    out = -(-layer.size // layer.stride)
    m, n, k = batch * out * out, layer.outputs, layer.channels * layer.window**2
    flops = 2.0 * m * n * k
    read = layer.size**2 if layer.window >= layer.stride else out**2
    moved = size * (batch * read * layer.channels + m * n + n * k)
    width = 16 // size if layer.channels % (16 // size) == 0 else 8 // size
    table = tiling.candidates(card, math, size, width)  # type: ignore[arg-type]
    tile = tiling.choose(card, table, m, n, 1, splits=False)  # type: ignore[arg-type]
    tiles = -(-m // tile.bm) * -(-n // tile.bn)
    at_once = card.multiprocessors * tile.blocks
    rounds = -(-tiles // at_once) * at_once
    staged = tiles * -(-k * size // tile.slice_bytes) * shared_traffic(tile, size) if math != "FMA" else 0
    share = (
        tiling.MMA_SYNC_RATE if card.compute_capability == 90 and math == "TENSOR" and not tile.wgmma else 1.0
    )
    return {
        "flops": flops,
        "bytes": moved,
        "compute": flops / (share * card.rates[precision]),
        "memory": moved / card.bandwidth,
        "shared": staged / (SHARED_RATE * card.clock * card.multiprocessors),
        "tile": f"{tile.bm}x{tile.bn}{'w' if tile.wgmma else ''}",
        "efficiency": (m * n) / (rounds * tile.bm * tile.bn),
    }


def convolutions(batch: int) -> None:
    """Print the table of ResNet-50's forward convolutions."""
    for card in CARDS:
        for precision in PRECISIONS:
            total = 0.0
            print(f"\n{card.name}, {precision}, batch {batch}")
            print(
                "   size   in  out window stride  count  flop/byte  bound     microseconds   tile  efficiency"
            )
            for layer in resnet50():
                e = estimate(card, layer, batch, precision)
                bound = max(("compute", "memory", "shared"), key=lambda name: float(e[name]))
                least = e[bound]
                total += layer.count * least
                print(
                    f"{layer.size:7d} {layer.channels:4d} {layer.outputs:4d} {layer.window:6d} {layer.stride:6d} "
                    f"{layer.count:6d} {e['flops'] / e['bytes']:10.0f}  {bound:8s} {least * 1e6:12.1f} "
                    f"{e['tile']:>8s} {e['efficiency']:10.2f}"
                )
            print(f"all {sum(layer.count for layer in resnet50())}: at least {total * 1e3:.2f} ms forward")


WARPS = {75: 32, 80: 64, 86: 48, 89: 48, 90: 64, 100: 64, 120: 48}
"""Warps that a multiprocessor holds."""
SHARED = {75: 64, 80: 164, 86: 100, 89: 100, 90: 228, 100: 228, 120: 100}
"""Its shared memory in KiB; each block takes one of them beside its own."""


def occupancy(kernel: Kernel, registers: int, shared: int, capability: int) -> float:
    """The share of a multiprocessor's warps that can be there at once, by registers and shared memory."""
    warps = kernel.threads // 32
    by_registers = REGISTER_FILE // (-(-registers // 8) * 8 * kernel.threads)
    by_shared = SHARED[capability] * 1024 // (kernel.shared_bytes + shared + 1024)
    return min(by_registers, by_shared, WARPS[capability] // warps) * warps / WARPS[capability]


def machine_code(architectures: list[str], quick: bool) -> None:
    """Print what ptxas says of every kernel (of one of each kind, with ``quick``)."""
    spilled = 0
    for architecture in architectures:
        print(f"\n{architecture:8s} registers (allowed)  shared  spills  occupancy")
        for kernel in kernels(architecture):
            if quick and not kernel.quick:
                continue
            instances = [kernel.name] if "<" in kernel.name else []
            usage = compiler.compile(kernel.source, architecture, None, instances).usage[kernel.name]
            share = occupancy(kernel, usage.registers, usage.shared, capability(architecture))
            spilled += usage.spills > 0
            print(
                f"        {usage.registers:6d} ({kernel.registers:3d}) {kernel.shared_bytes + usage.shared:12d} "
                f"{usage.spills:7d} {share:10.2f}   {kernel.name}",
                flush=True,
            )
    print(f"\n{spilled} kernels spill")


def main() -> None:
    """Parse the command line and print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.cuda_roofline", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--machine-code", action="store_true")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--architectures", nargs="+", default=list(ARCHITECTURES), choices=ARCHITECTURES)
    options = parser.parse_args()
    if options.machine_code:
        machine_code(options.architectures, options.quick)
    else:
        convolutions(options.batch)


if __name__ == "__main__":
    main()
