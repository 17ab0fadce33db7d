"""Classic CUDA mistakes, planted one at a time in the kernels' sources: the checker or a comparison must catch each."""

# ruff: noqa: E501 (the table quotes lines of source code)

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from minidl.kernels.cuda import compiler, tiling
from minidl.kernels.cuda.device import Module
from minidl.kernels.cuda.families import Families
from minidl.kernels.cuda.tiling import Tiling
from minidl.kernels.emulator import EmulatedDevice, KernelFault
from tests.kernels.cuda.on_device import BF16, F32, REFERENCE, TOLERANCE, near, normal, wide
from tests.kernels.emulator.needs import emulator

pytestmark = emulator

SMALL, WIDE = Tiling(32, 32, 16, 16, 3, 1), Tiling(64, 64, 32, 32, 3, 1)
ONE = ((1, 1), (1, 1))


class Mutant(EmulatedDevice):
    """A device whose compiler reads one file with one passage replaced."""

    def __init__(self, file: str, old: str, new: str, compute_capability: int) -> None:
        super().__init__(compute_capability)
        text = compiler.sources()[file]
        assert text.count(old) == 1, f"{file} has {old!r} {text.count(old)} times"
        self.file, self.text = file, text.replace(old, new)

    def compile(
        self,
        source: str,
        defines: Mapping[str, int | str] | None = None,
        instances: Sequence[str] = (),
        **_: Any,
    ) -> Module:
        if source == self.file:
            return super().compile(source, defines, instances, code=self.text)
        return super().compile(source, defines, instances, headers={self.file: self.text})


def compare(backend: Families, kernel: str, dtype: Any, *args: Any, **options: Any) -> None:
    expected = getattr(REFERENCE, kernel)(
        *[wide(a) for a in args], **{k: wide(v) for k, v in options.items()}
    )
    actual = getattr(backend, kernel)(*args, **options)
    several = isinstance(expected, tuple)
    for a, e in zip(actual if several else [actual], expected if several else [expected], strict=True):
        if e is not None:
            near(a, e, 3 * TOLERANCE[np.dtype(dtype)])


def forward(b: Families) -> None:
    """Two blocks of pixels, ragged at the end; the reduced index has a tail; bias and residual."""
    x, w = normal(0, F32, 2, 5, 4, 8), normal(1, F32, 12, 3, 3, 8)
    with tiling.force(SMALL):
        rest = normal(3, F32, 2, 5, 4, 12)
        compare(b, "conv2d", F32, x, w, normal(2, F32, 12), (1, 1), ONE, (1, 1), 1, residual=rest)


def statistics_along(b: Families) -> None:
    """Two slabs of pixels, the second ragged; two threads to a column."""
    found: list[Any] = []
    with tiling.force(SMALL):
        x, w = normal(0, F32, 2, 5, 4, 8), normal(1, F32, 12, 3, 3, 8)
        y = b.conv2d(x, w, normal(2, F32, 12), (1, 1), ONE, (1, 1), 1, statistics=found)
    for ours, theirs in zip(found, REFERENCE.batch_norm_stats(y), strict=True):
        near(ours, theirs, 1e-5)


def forward_half(b: Families) -> None:
    with tiling.force(WIDE):
        compare(b, "conv2d", BF16, normal(0, BF16, 1, 9, 8, 32), normal(1, BF16, 72, 1, 1, 32), None, (1, 1),
                ((0, 0), (0, 0)), (1, 1), 1)  # fmt: skip


def input_gradient(b: Families) -> None:
    with tiling.force(SMALL):
        compare(b, "conv2d_input_grad", F32, normal(0, F32, 1, 4, 3, 8), normal(1, F32, 8, 3, 3, 8), (7, 6), (2, 2),
                ONE, (1, 1), 1)  # fmt: skip


def weight_gradient(b: Families) -> None:
    with tiling.force(SMALL):
        compare(b, "conv2d_weight_grad", F32, normal(0, F32, 3, 11, 12, 8), normal(1, F32, 3, 11, 12, 4), (3, 3), (1, 1),
                ONE, (1, 1), 1)  # fmt: skip


def weight_gradient_half(b: Families) -> None:
    with tiling.force(WIDE):
        compare(b, "conv2d_weight_grad", BF16, normal(0, BF16, 1, 7, 9, 8), normal(1, BF16, 1, 7, 9, 8), (3, 3),
                (1, 1), ONE, (1, 1), 1)  # fmt: skip


def precise_product(b: Families) -> None:
    with tiling.float32_precision("tf32x3"), tiling.force(SMALL):
        compare(b, "matmul", F32, normal(0, F32, 20, 40), normal(1, F32, 24, 40).T)


def depthwise(b: Families) -> None:
    compare(b, "conv2d_weight_grad", F32, normal(0, F32, 2, 6, 6, 8), normal(1, F32, 2, 6, 6, 8), (3, 3), (1, 1), ONE,
            (1, 1), 8)  # fmt: skip


def statistics(b: Families) -> None:
    compare(b, "batch_norm_stats", F32, normal(0, F32, 1300, 8) + np.linspace(0, 9, 1300, dtype=F32)[:, None])


def sums(b: Families) -> None:
    y = normal(5, F32, 300, 8)
    args = (normal(0, F32, 300, 8), normal(1, F32, 300, 8), *(normal(i, F32, 8) for i in (2, 3, 4)))
    compare(b, "batch_norm_backward", F32, *args, y, True)


def long_rows(b: Families) -> None:
    compare(b, "standardize", F32, normal(0, F32, 3, 1100), (1,), None, None, 1e-5)


def loss(b: Families) -> None:
    target = np.array([1, 0, -100, 4])
    compare(
        b, "softmax_cross_entropy", F32, normal(0, F32, 4, 20), target, normal(1, F32, 20) ** 2, -100, 0.1
    )


def maximum(b: Families) -> None:
    x, window = normal(0, F32, 1, 7, 6, 4), ((3, 3), (2, 2), ONE, (1, 1))
    compare(b, "max_pool2d", F32, x, *window, (4, 3))
    _, index = REFERENCE.max_pool2d(x, *window, (4, 3))
    compare(b, "max_pool2d_scatter", F32, normal(1, F32, *index.shape), index, (7, 6), window)


def optimizer(b: Families) -> None:
    params, grads = ([normal(s, F32, n) for n in (5, 2100, 3)] for s in (0, 1))
    expected = [p - 0.5 * g for p, g in zip(params, grads, strict=True)]
    with b.together():
        for p, g in zip(params, grads, strict=True):
            b.sgd_step(p, g, None, 0.5, 0.0, 0.0, 0.0, False)
    for p, e in zip(params, expected, strict=True):
        near(p, e, 1e-6)


def nan_through_relu(b: Families) -> None:
    assert np.isnan(b.relu(np.array([np.nan], F32))[0])


def warpgroups(b: Families) -> None:
    """Five slices, two blocks of rows and of columns, all ragged."""
    with tiling.force(Tiling(64, 64, 16, 64, 3, 1, wgmma=True)):
        compare(b, "matmul", BF16, normal(0, BF16, 72, 280), normal(1, BF16, 72, 280).T)


def warpgroups_across(b: Families) -> None:
    with tiling.force(Tiling(64, 128, 16, 128, 3, 1, wgmma=True)):
        compare(b, "matmul", BF16, normal(0, BF16, 200, 64).T, normal(1, BF16, 200, 128))


def warpgroups_rounding(b: Families) -> None:
    """Factors of 11 bits and a bit more: one is rounded up, and cutting it would show."""
    a, w = (rng.integers(1024, 2048, (16, 32)).astype(F32) for rng in map(np.random.default_rng, (0, 1)))
    with tiling.float32_precision("tf32"), tiling.force(Tiling(64, 64, 16, 64, 3, 1, wgmma=True)):
        near(b.matmul(a + F32.type(0.75), (w + F32.type(0.75)).T), (a + 1) @ (w + 1).T, 1e-6)


HOPPER = (warpgroups, warpgroups_across, warpgroups_rounding)


def capability(probe: Callable[[Families], None]) -> int:
    return 90 if probe in HOPPER else 80


WAIT = "    __syncthreads();\n    if constexpr (WARPGROUPS) start"
BUGS: dict[str, tuple[str, str, str, Callable[[Families], None]]] = {
    "no barrier in the main loop": ("gemm_loop.cuh", WAIT, "    if constexpr (WARPGROUPS) start", forward),
    "the wait is too weak by one": ("gemm_loop.cuh", "copy_wait<AHEAD - 1>()", "copy_wait<AHEAD>()", forward),
    "no commit": ("gemm_loop.cuh", "    copy_commit();    ", "    ", forward),
    "copies go into the stage that is being read": (
        "gemm_loop.cuh", "shared + slice % STAGES", "shared + (slice + 1) % STAGES", forward),
    "the results overwrite tiles in use": (
        "gemm_loop.cuh", "  copy_wait<0>();\n  __syncthreads();", "  copy_wait<0>();", forward),
    "rows past the end are read": ("gemm_loop.cuh", "l < lines && column < columns", "column < columns", forward),
    "the tail of k is not cut": ("gemm_loop.cuh", "l < lines && column < columns", "l < lines", precise_product),
    "a thread's lines are not its own": ("gemm_loop.cuh", "line(thread / PER_LINE)", "line(thread % PER_LINE)", forward),
    "B is read without the twist": (
        "tile.cuh", "ldmatrix(b, tile + place(i + lane % 8 + lane / 16 * 8, step * 2 + lane / 8 % 2));",
        "ldmatrix(b, tile + (i + lane % 8 + lane / 16 * 8) * SLICE + (step * 2 + lane / 8 % 2) * 16);", forward_half),
    "the lanes of ldmatrix in the wrong order": (
        "tile.cuh", "place(i + lane % 16, step * 2 + lane / 16)", "place(i + lane / 2, step * 2 + lane % 2)", forward_half),
    "A across k is not transposed": (
        "tile.cuh", "ldmatrix_transposed(a, ", "ldmatrix(a, ", weight_gradient_half),
    "columns of B doubled": ("tile.cuh", "col + j / 2 * 8 + lane % 4 * 2 + j % 2", "col + j / 2 * 8 + lane % 4 * 2", forward),
    "a register of A and its neighbour exchanged": (
        "mma.cuh", '"r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));                                        \\',
        '"r"(a[0]), "r"(a[2]), "r"(a[1]), "r"(a[3]), "r"(b0), "r"(b1)); \\', forward_half),
    "the low part of a factor is lost": (
        "tile.cuh", "mma<T>(acc[i][j * 2 + h], a_low, b_high[h * 2], b_high[h * 2 + 1]);", "", precise_product),
    "what is not read is not zero": ("async.cuh", "valid ? BYTES : 0", "BYTES", forward),
    "no barrier after the corners": (
        "conv.cu", "  __syncthreads();                                               // a thread's lines", "  // a", forward),
    "the moments of a tile are read before they are there": (
        "epilogue.cuh", "    __syncthreads();                                             // everybody's", "    // e", statistics_along),
    "a tile is read back before it is stored": (
        "epilogue.cuh", "  __syncthreads();                                               // the tile is stored", "  // t",
        statistics_along),
    "the last rows of a tile count twice": (
        "epilogue.cuh", "r < BM && m + r < output.rows; r += DOWN", "r < BM && m + r < output.rows; r += 1", statistics_along),
    "the last corner is not filled": ("window.cuh", "i < count; i += threads", "i < count - 1; i += threads", forward),
    "the next tap comes one channel late": (
        "window.cuh", "while (channel >= window.channels)", "while (channel > window.channels)", forward),
    "a window's edge is off by one": (
        "window.cuh", "valid = live && m < end && (unsigned)row < (unsigned)window.h.size",
        "valid = live && m < end && (unsigned)row <= (unsigned)window.h.size", weight_gradient),
    "splits overlap": ("conv_weight.cu", "end = min(begin + split, window.pixels)", "end = min(begin + split + 1, window.pixels)",
                       weight_gradient),
    "a split is forgotten": ("conv_weight.cu", "for (int s = 0; s < splits; s++)", "for (int s = 1; s < splits; s++)",
                             weight_gradient),
    "the phases all begin at the corner": ("epilogue.cuh", "return origin + image", "return image", input_gradient),
    "no barrier before the slab is read": (
        "epilogue.cuh", "    __syncwarp();                                                // the slab has been written", "",
        forward),
    "no barrier before the slab is overwritten": (
        "epilogue.cuh", "    __syncwarp();                                                // the slab has been read", "",
        forward_half),
    "rows past the end are written": ("epilogue.cuh", "if (m >= rows || n >= columns)", "if (n >= columns)", forward),
    "the residual of the first row for all": ("epilogue.cuh", "add(v, residual + at)", "add(v, residual + n)", forward),
    "a quotient without its shift": ("types.cuh", "__umulhi(n, factor) >> shift", "__umulhi(n, factor)", forward),
    "ReLU drops NaN": ("types.cuh", "v < 0.0f ? 0.0f : v", "v > 0.0f ? v : 0.0f", nan_through_relu),
    "no barrier after the parts of a row": (
        "reduce.cuh", "    if (lane == 0) part[warp] = v;\n    __syncthreads();", "    if (lane == 0) part[warp] = v;", long_rows),
    "no barrier before the next reduction": (
        "reduce.cuh", "    __syncthreads();                                             // part may still", "    // part", long_rows),
    "parts that no warp wrote": (
        "reduce.cuh", "lane < THREADS / 32 ? part[lane] : Op::neutral()", "part[lane % 16]", long_rows),
    "a barrier in one branch": (
        "reduce.cuh", "    if (lane == 0) part[warp] = v;\n    __syncthreads();",
        "    if (lane == 0) {\n      part[warp] = v;\n      __syncthreads();\n    }", long_rows),
    "lanes leave before their warp's sum": (
        "rows.cu", "  const float lse", "  if (lane >= classes) return;\n  const float lse", loss),
    "a channel's moments overwrite the last one's": (
        "norm.cu", "    __syncthreads();                                             // the last channel's have", "    // the", statistics),
    "the last slab counts as full": (
        "norm.cu", "(float)(min((s + 1) * slab.height, slab.rows) - s * slab.height)", "(float)slab.height", statistics),
    "rows of threads past the second add too": ("norm.cu", "at.down < 2 &&", "at.down < 3 &&", sums),
    "no barrier between the channels' sums": (
        "depthwise.cu", "    __syncthreads();                                             // the last channel's sums", "    // the",
        depthwise),
    "windows begin one too late": (
        "pool.cu", "reach <= 0 ? 0 : (reach + a.stride - 1) / a.stride", "reach <= 0 ? 0 : reach / a.stride + 1", maximum),
    "the last column of a window is left out": ("pool.cu", "const int end = min(past, a.size);", "const int end = min(past - 1, a.size);",
                                                maximum),
    "a block takes its neighbour's parameter": (
        "optim.cu", "first_block <= blockIdx.x", "first_block < blockIdx.x", optimizer),
    "warpgroups without a barrier": ("gemm_loop.cuh", WAIT, "    if constexpr (WARPGROUPS) start", warpgroups),
    "warpgroups are handed a slice after the barrier": (
        "gemm_loop.cuh", "    if constexpr (WARPGROUPS) hand_over(a, b, tiles);\n    __syncthreads();",
        "    __syncthreads();\n    if constexpr (WARPGROUPS) hand_over(a, b, tiles);", warpgroups),
    "no fence between copies and warpgroups": ("warpgroup.cuh", "  proxy_fence();\n}", "}", warpgroups),
    "no fence between accumulators and warpgroups": (
        "warpgroup.cuh", 'asm volatile("wgmma.fence.sync.aligned;" ::: "memory");', "", warpgroups),
    "products are not committed": ("warpgroup.cuh", "  wgmma_commit();\n}", "}", warpgroups),
    "two slices' products in flight": ("gemm_loop.cuh", "wgmma_wait<1>()", "wgmma_wait<2>()", warpgroups),
    "the last products are not waited for": ("gemm_loop.cuh", "wgmma_wait<0>()", "wgmma_wait<1>()", warpgroups),
    "copies go into the stage that products read": (
        "gemm_loop.cuh", "STAGES - (WARPGROUPS ? 2 : 1)", "STAGES - 1", warpgroups),
    "pieces are not twisted for warpgroups": ("warpgroup.cuh", "(piece % 8 ^ line % 8) * 16", "piece % 8 * 16", warpgroups),
    "another swizzle is named": ("warpgroup.cuh", "1ull << 62", "2ull << 62", warpgroups),
    "a warp names its own rows": ("warpgroup.cuh", "row / 64 * 64", "row", warpgroups),
    "the next columns across k are not where they are said to be": (
        "warpgroup.cuh", "LINES * SWIZZLED_LINE / 16", "BRICK / 16", warpgroups_across),
    "a step across k is half as long": ("warpgroup.cuh", "32 : 2 * BRICK", "32 : BRICK", warpgroups_across),
    "half of the factors are cut to tf32": (
        "warpgroup.cuh", "round_to_tf32(b.share, tiles + A::BYTES);", ";", warpgroups_rounding),
}  # fmt: skip


@pytest.mark.parametrize("probe", sorted({bug[3] for bug in BUGS.values()}, key=lambda f: f.__name__))
def test_without_a_bug_nothing_is_reported(probe: Callable[[Families], None]) -> None:
    probe(Families(EmulatedDevice(capability(probe))))


@pytest.mark.parametrize("name", BUGS)
def test_a_planted_bug_is_caught(name: str) -> None:
    file, old, new, probe = BUGS[name]
    mutant = Families(Mutant(file, old, new, capability(probe)))
    with pytest.raises((KernelFault, AssertionError)):
        probe(mutant)
