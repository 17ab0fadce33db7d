"""Every instance of every kernel that the back end can ask for, with its budget of registers: for the test that
compiles them all and for the table of what they take."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from minidl.kernels.cuda import tiling
from minidl.kernels.cuda.tiling import NARROW, Tiling

ARCHITECTURES = ("sm_75", "sm_80", "sm_86", "sm_89", "sm_90a", "sm_100", "sm_120")
REGISTER_FILE = 65536
"""Registers of a multiprocessor, on every architecture here."""
ELEMENTS = {"float": 4, "bf16": 2, "f16": 2}
"""Element types and their bytes."""


@dataclass(frozen=True)
class Kernel:
    """One instance: its file, its name with template arguments, threads of a block, and how many blocks must fit a
    multiprocessor, which is what bounds its registers. ``quick``: stands for its kind in short tests."""

    source: str
    name: str
    threads: int
    blocks: int
    shared_bytes: int = 0
    quick: bool = False

    @property
    def registers(self) -> int:
        """The most registers that a thread may take, in the steps of 8 that hardware gives."""
        return min(REGISTER_FILE // (self.threads * self.blocks) // 8 * 8, 255)


def capability(architecture: str) -> int:
    """75 for "sm_75", 90 for "sm_90a"."""
    return int("".join(c for c in architecture if c.isdigit()))


def arithmetics(architecture: str) -> Iterator[tuple[str, str]]:
    """The pairs of element type and arithmetic of an architecture."""
    if capability(architecture) < 80:
        yield from (("float", "FMA"), ("bf16", "FMA"), ("f16", "TENSOR"))
    else:
        yield from (
            ("float", "FMA"),
            ("float", "TENSOR"),
            ("float", "TENSOR3"),
            ("bf16", "TENSOR"),
            ("f16", "TENSOR"),
        )


def tilings(architecture: str, element: str, math: str, across: bool) -> Iterator[tuple[Tiling, int]]:
    """Tilings and copy widths that a product may get, with the stages of the architecture."""
    piece = 16 // ELEMENTS[element]
    for width in (piece, piece // 2):
        for tile in tiling.table(math, ELEMENTS[element], width, across, architecture):
            yield tiling.staged(tile, capability(architecture)), width
    width = piece // 4
    while width:
        yield tiling.staged(NARROW, capability(architecture)), width
        width //= 2


def kernels(architecture: str) -> Iterator[Kernel]:
    """All of them, for one architecture."""
    for element, math in arithmetics(architecture):
        for across in (False, True):
            for number, (tile, width) in enumerate(tilings(architecture, element, math, across)):
                ends = f"{tile.arguments()}, {width}>"
                size = (tile.threads, tile.blocks, tile.shared_bytes)
                quick = number == 0 and (element == "f16" or math == "FMA")
                quick |= tile == tiling.TILINGS["WARPGROUP"][0] and element != "f16"
                how = tile.arithmetic(math)
                if not across:
                    yield Kernel("conv.cu", f"conv2d<{element}, {how}, {ends}", *size, quick)
                    yield Kernel("gemm.cu", f"gemm<{element}, {element}, {how}, true, true, {ends}", *size)
                    continue
                yield Kernel("conv_weight.cu", f"conv2d_weight<{element}, {how}, {ends}", *size, quick)
                for order in ("true, false", "false, true", "false, false"):
                    quick_order = quick and order == "true, false"
                    name = f"gemm<{element}, {element}, {how}, {order}, {ends}"
                    yield Kernel("gemm.cu", name, *size, quick_order)
    for element in ELEMENTS:
        yield from _memory_bound(element)
    for name in ("bn_merge<float>", "bn_add<float>"):
        yield Kernel("norm.cu", name, 128, 8)
    for name in ("sgd", "adam", "rmsprop"):
        yield Kernel("optim.cu", name, 256, 4, quick=True)
    yield Kernel("scatter.cu", "add_by_place", 256, 4, quick=True)


def _memory_bound(element: str) -> Iterator[Kernel]:
    """Kernels that the memory decides: four blocks of 256 threads are half of what a multiprocessor holds, three where
    more is held in registers."""
    quick = element == "bf16"
    names = {
        "conv_weight.cu": [f"add_weight_splits<{element}>"],
        "gemm.cu": [f"add_splits<{element}>"],
        "pack.cu": [f"permute<{element}>"] + ["permute<float, true>"] * (element == "float"),
        "pointwise.cu": [
            f"pointwise<{element}, {op}>"
            for op in ("Relu", "ReluGradient", "Sigmoid", "SigmoidGradient", "Add")
        ],
        "norm.cu": [
            f"{kernel}<{element}, {vec}>"
            for kernel in ("bn_moments", "bn_apply", "bn_sums", "bn_gradient")
            for vec in (4, 1)
        ],
        "rows.cu": [
            f"{kernel}<{element}, {threads}>"
            for kernel in ("standardize", "standardize_backward", "softmax_loss", "softmax_loss_backward")
            for threads in (32, 256)
        ],
        "pool.cu": [
            f"{kernel}<{element}, {vec}, {adaptive}>"
            for kernel in ("max_pool", "max_pool_gradient", "mean_pool", "mean_pool_gradient")
            for vec in (4, 1)
            for adaptive in ("false", "true")
        ]
        + [f"scatter_by_index<{element}>", f"gather_by_index<{element}>"],
        "depthwise.cu": [
            f"{kernel}<{element}, {vec}>" for kernel in ("depthwise", "depthwise_weight") for vec in (4, 2, 1)
        ],
    }
    for source, instances in names.items():
        for number, name in enumerate(instances):
            blocks = 3 if name.startswith(("depthwise<", "mean_pool_gradient<")) else 4
            yield Kernel(source, name, 256, blocks, quick=quick and (number == 0 or source == "norm.cu"))
