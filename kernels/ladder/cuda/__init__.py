"""The ladder for graphics cards: convolution from one thread per output to the production kernel.

Every step is a file in ``source/`` that can be read by itself; it runs on a graphics card, or on the emulated device,
which needs none and counts what each line asks of memory::

    from minidl.kernels.emulator import EmulatedDevice
    from minidl.kernels.ladder.cuda import STEPS
    device = EmulatedDevice()
    with device.count_traffic() as lines:
        y = STEPS[2].conv2d(device, x, w, stride=1, pad=1)      # x (N, H, W, C), w (O, KH, KW, C)
    print(*lines, sep="\\n")

``python -m benchmarks.ladder_cuda`` prints the table of docs/convolution-cuda.md.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from importlib.resources import files
from typing import Any, NamedTuple

import numpy as np

from minidl.kernels.cuda.device import Array, Device, Dim, Function, blocks
from minidl.kernels.cuda.tiling import has_wgmma

SHAPE = np.dtype(
    [
        (name, np.int32)
        for name in (
            *("images", "height", "width", "channels", "rows", "cols", "outputs"),
            *("kernel_rows", "kernel_cols", "stride", "pad"),
        )
    ]
)
HEADERS = ("shape.cuh", "warp_tile.cuh")


@functools.cache
def source(name: str) -> str:
    """The text of a file of the ladder."""
    return files(__package__).joinpath("source", name).read_text(encoding="utf8")


class Step(NamedTuple):
    """One step: how its kernel is launched.

    Attributes:
        tile: pixels and output channels that a block makes.
        block: its threads.
        outputs_last: it wants its weights as (KH, KW, C, O).
        bfloat16: it multiplies bfloat16 numbers (the sums and the result are float32), C a multiple of 8.
        warpgroup: it needs Hopper's own instructions (sm_90a).
    """

    number: int
    title: str
    file: str
    tile: tuple[int, int]
    block: Dim
    outputs_last: bool = False
    bfloat16: bool = False
    warpgroup: bool = False

    def runs_on(self, device: Device) -> bool:
        """Whether the device has its instructions."""
        return not self.warpgroup or has_wgmma(device.architecture)

    def compile(self, device: Device) -> Function:
        """Its kernel.

        Raises:
            ValueError: the device lacks its instructions.
        """
        if not self.runs_on(device):
            raise ValueError(f"{self.file} needs sm_90a (Hopper); {device.name} is {device.architecture}")
        headers = {name: source(name) for name in HEADERS}
        return device.compile(self.file, code=source(self.file), headers=headers)["conv2d"]

    def conv2d(self, device: Device, x: Array, w: Array, stride: int = 1, pad: int = 0) -> Array:
        """Cross-correlation of x (N, H, W, C) with w (O, KH, KW, C), float32 arrays of the device: y (N, OH, OW, O).

        Raises:
            ValueError: the channels differ, or the window is larger than the padded image.
        """
        launch, y = self.prepare(device, x, w, stride, pad)
        launch()
        return y

    def prepare(
        self, device: Device, x: Array, w: Array, stride: int = 1, pad: int = 0
    ) -> tuple[Callable[[], None], Array]:
        """A function that launches the kernel, and the array that it fills; see :meth:`conv2d`."""
        shape, *operands = self._prepared(device.xp, x, w, stride, pad)
        aligned = [device.empty(a.shape, a.dtype) for a in operands]
        for to, a in zip(aligned, operands, strict=True):
            to[...] = a
        images, rows, cols, outputs = (int(shape[name]) for name in ("images", "rows", "cols", "outputs"))
        y = device.empty((images, rows, cols, outputs), np.float32)
        grid = (blocks(images * rows * cols, self.tile[0]), blocks(outputs, self.tile[1]))
        kernel = self.compile(device)
        return lambda: device.launch(kernel, grid, self.block, (*aligned, y, shape)), y

    def _prepared(self, xp: Any, x: Array, w: Array, stride: int, pad: int) -> tuple[Any, Array, Array]:
        """The sizes, and x and w as this step's kernel wants them."""
        if x.ndim != 4 or w.ndim != 4 or x.shape[3] != w.shape[3]:
            raise ValueError(
                "conv2d: x (N, H, W, C) and w (O, KH, KW, C) expected, with the same C; "
                f"got {x.shape} and {w.shape}"
            )
        rows, cols = ((x.shape[a] + 2 * pad - w.shape[a]) // stride + 1 for a in (1, 2))
        if rows < 1 or cols < 1:
            raise ValueError(
                f"conv2d: a window of {w.shape[1:3]} does not fit into x {x.shape} with padding {pad}"
            )
        if self.bfloat16:
            import ml_dtypes

            extra = ((0, 0),) * 3 + ((0, -x.shape[3] % 8),)
            x, w = (xp.pad(a, extra).astype(ml_dtypes.bfloat16) for a in (x, w))
        shape = np.array((*x.shape, rows, cols, w.shape[0], w.shape[1], w.shape[2], stride, pad), SHAPE)
        if self.outputs_last:
            w = w.transpose(1, 2, 3, 0)
        return shape, x, w


STEPS = (
    Step(0, "one thread for each output", "step0_naive.cu", (128, 1), 128),
    Step(1, "coalesced", "step1_coalesced.cu", (4, 32), (32, 4), outputs_last=True),
    Step(2, "shared memory", "step2_shared.cu", (16, 16), (16, 16), outputs_last=True),
    Step(3, "register tile", "step3_register_tile.cu", (64, 64), 256, outputs_last=True),
    Step(4, "tensor cores", "step4_tensor_core.cu", (64, 64), 128, bfloat16=True),
    Step(5, "pipeline", "step5_pipelined.cu", (64, 64), 128, bfloat16=True),
    Step(6, "warpgroup", "step6_warpgroup.cu", (64, 64), 128, bfloat16=True, warpgroup=True),
)
