"""Convolution kernels on a graphics card beside cuDNN: every distinct convolution of ResNet-50, three directions, three
precisions.

Both sides are captured as CUDA graphs of several calls, so that a kernel's time is the card's alone. Results are
compared first, on the first images.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import numpy as np

from benchmarks.cuda_roofline import Layer
from benchmarks.gpu_limits import PRECISIONS
from benchmarks.others import torch_convolution
from benchmarks.report import DIRECTIONS
from benchmarks.timing import interleave
from minidl import kernels
from minidl.cuda import float32_precision
from minidl.dtypes import as_dtype
from minidl.kernels.capturing import Capture

TOLERANCE = {"float32": 2e-5, "tf32": 5e-3, "bf16": 4e-2}
"""Of the largest element, between the two sides."""
COMPARED = 2
"""Images of a batch that are compared."""


def scope(precision: str) -> Any:
    """How minidl multiplies float32 in it."""
    return float32_precision("tf32") if precision == "tf32" else nullcontext()


def set_torch(torch: Any, precision: str) -> None:
    """The same for PyTorch, and cuDNN's choice by timing."""
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"


def name_of(layer: Layer) -> str:
    """A row title."""
    stride = f" /{layer.stride}" if layer.stride > 1 else ""
    what = f"{layer.window}x{layer.window}{stride}"
    return f"{what}, {layer.channels} -> {layer.outputs}, {layer.size}x{layer.size}"


def operands(layer: Layer, batch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x (N, H, W, C), w (O, C, KH, KW), gy (N, OH, OW, O), float32; images repeat after eight."""
    rng = np.random.default_rng(0)
    out, few = -(-layer.size // layer.stride), min(batch, 8)
    times = -(-batch // few)

    def images(*shape: int) -> np.ndarray:
        return np.tile(rng.standard_normal((few, *shape), np.float32), (times, 1, 1, 1))[:batch]

    w = rng.standard_normal((layer.outputs, layer.channels, layer.window, layer.window), np.float32)
    return images(layer.size, layer.size, layer.channels), w, images(out, out, layer.outputs)


def ours(place: Any, layer: Layer, arrays: Any, precision: str) -> list[Callable[[], Any]]:
    """minidl's three directions."""
    dtype = as_dtype("bfloat16" if precision == "bf16" else "float32")
    x, w, gy = (place.put(a.astype(dtype, copy=False)) for a in arrays)
    w = w.transpose(0, 2, 3, 1)
    backend, p, side = place.backend, layer.window // 2, (layer.size,) * 2
    where: tuple[Any, ...] = ((layer.stride,) * 2, ((p, p), (p, p)), (1, 1), 1)

    def scoped(run: Callable[[], Any]) -> Callable[[], Any]:
        def call() -> Any:
            with scope(precision):
                return run()

        return call

    return [
        scoped(lambda: backend.conv2d(x, w, None, *where)),
        scoped(lambda: backend.conv2d_input_grad(gy, w, side, *where)),
        scoped(lambda: backend.conv2d_weight_grad(gy, x, (layer.window,) * 2, *where)),
    ]


def theirs(torch: Any, device: str, layer: Layer, arrays: Any, precision: str) -> list[Callable[[], Any]]:
    """PyTorch's three directions, channels last."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    x, w, gy = arrays
    images, grads = (torch.from_numpy(a).to(device, dtype).permute(0, 3, 1, 2) for a in (x, gy))
    weights = torch.from_numpy(w).to(device, dtype).contiguous(memory_format=torch.channels_last)
    return torch_convolution(torch, images, weights, grads, layer.stride, layer.window // 2)


def host(result: Any, place: Any, direction: int) -> np.ndarray:
    """What is compared of a result: NHWC images or the weight's gradient, float32."""
    if hasattr(result, "cpu"):  # PyTorch's, NCHW
        few = result if direction == 2 else result[:COMPARED]
        return few.float().cpu().permute(0, 2, 3, 1).numpy()
    few = result if direction == 2 else result[:COMPARED]
    return (few if isinstance(few, np.ndarray) else place.get(few)).astype(np.float32)


def graphed(place: Any, run: Callable[[], Any], calls: int) -> Callable[[], None]:
    """``calls`` calls as one captured step, replayed and waited for."""
    capture = Capture(place)

    def several() -> None:
        for _ in range(calls):
            run()

    capture.record(several)

    def replay() -> None:
        capture.replay()
        place.synchronize()

    return replay


def torch_graphed(torch: Any, run: Callable[[], Any], calls: int) -> Callable[[], None]:
    """The same of PyTorch."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(calls):
            run()

    def replay() -> None:
        graph.replay()
        torch.cuda.synchronize()

    return replay


def measure(
    place: Any, torch: Any, layer: Layer, batch: int, precision: str, limits: dict[str, float], turns: int
) -> Iterator[dict[str, Any]]:
    """Compare and time the directions of one convolution: a row for each.

    Raises:
        SystemExit: the two sides differ.
    """
    arrays = operands(layer, batch)
    mine = ours(place, layer, arrays, precision)
    rival: list[Callable[[], Any]] = []
    if torch is not None:
        set_torch(torch, precision)
        rival = theirs(torch, "cuda", layer, arrays, precision)
    out, size = -(-layer.size // layer.stride), 2 if precision == "bf16" else 4
    moved = batch * (layer.size**2 * layer.channels + out**2 * layer.outputs)
    moved += layer.outputs * layer.channels * layer.window**2
    for d, direction in enumerate(DIRECTIONS):
        if layer.channels == 3 and direction == "input gradient":  # nobody asks for it: x is data
            continue
        expected = rival[d]() if rival else reference(layer, arrays, d)
        result, other = host(mine[d](), place, d), host(expected, place, d)
        difference = float(np.abs(result - other).max() / np.abs(other).max())
        if not difference <= TOLERANCE[precision]:
            raise SystemExit(
                f"{name_of(layer)}, {direction}, {precision}: differs by {difference:.1e}; not timed"
            )
        started = time.perf_counter()
        mine[d]()
        place.synchronize()
        calls = max(1, min(20, int(2e-3 / (time.perf_counter() - started))))
        contestants = {"minidl": graphed(place, mine[d], calls)}
        if rival:
            contestants["cuDNN"] = torch_graphed(torch, rival[d], calls)
        timing = interleave(contestants, turns)
        yield {
            "convolution": name_of(layer),
            "direction": direction,
            "precision": precision,
            "batch": batch,
            "count": layer.count,
            "gflop": 2e-9 * batch * out**2 * layer.channels * layer.outputs * layer.window**2,
            "gbytes": size * moved / 1e9,
            "limit": limits[precision],
            "difference": difference,
            "seconds": {name: [s / calls for s in times] for name, times in timing.seconds.items()},
        }


def reference(layer: Layer, arrays: Any, direction: int) -> np.ndarray:
    """The result of the CPU's kernels, where PyTorch does not take part."""
    x, w, gy = arrays
    p, w = layer.window // 2, w.transpose(0, 2, 3, 1)
    where: tuple[Any, ...] = ((layer.stride,) * 2, ((p, p), (p, p)), (1, 1), 1)
    backend = kernels.backend(x)
    if direction == 0:
        return backend.conv2d(x[:COMPARED], w, None, *where)
    if direction == 1:
        return backend.conv2d_input_grad(gy[:COMPARED], w, (layer.size,) * 2, *where)
    return backend.conv2d_weight_grad(gy, x, (layer.window,) * 2, *where)


def rows(
    place: Any, torch: Any, layers: list[Layer], batch: int, limits: dict[str, float], turns: int
) -> Iterator[dict[str, Any]]:
    """The rows of all these convolutions in all precisions."""
    for layer in layers:
        for precision in PRECISIONS:
            yield from measure(place, torch, layer, batch, precision, limits, turns)
