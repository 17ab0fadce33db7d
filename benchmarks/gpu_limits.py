"""The limits of a graphics card, measured: bytes from and to memory, multiply-adds of each precision.

Own loops on registers (FMA, ``mma.sync``) and a triad that no cache holds; where PyTorch takes part, also cuBLAS on
matrices of 8192, which on Hopper has instructions that ``mma.sync`` has not. The larger figure is the limit.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

PRECISIONS = ("float32", "tf32", "bf16")
"""float32 is strict: products and sums of 24 bits."""
SIZE = 8192
CODE = """
#include "mma.cuh"

// a = b + 3 c, four numbers a thread
extern "C" __global__ void triad(float* a, const float* b, const float* c, const long long count) {
  const long long i = 4 * ((long long)blockIdx.x * blockDim.x + threadIdx.x);
  if (i >= count) return;
  const float4 x = *(const float4*)(b + i), y = *(const float4*)(c + i);
  *(float4*)(a + i) = make_float4(x.x + 3 * y.x, x.y + 3 * y.y, x.z + 3 * y.z, x.w + 3 * y.w);
}

// 16 chains of multiply-adds a thread: 32 operations each turn
extern "C" __global__ void spin_float32(float* out, const int turns, const float x) {
  float sum[16];
  for (int j = 0; j < 16; j++) sum[j] = j + threadIdx.x;
  for (int i = 0; i < turns; i++)
#pragma unroll
    for (int j = 0; j < 16; j++) sum[j] = fmaf(sum[j], x, x);
  float total = 0;
  for (int j = 0; j < 16; j++) total += sum[j];
  out[blockIdx.x * blockDim.x + threadIdx.x] = total;
}

// 8 chains of a warp's product; 16 x 8 x 8 multiply-adds in tf32, 16 x 8 x 16 in bf16
template <bool BF16> __device__ void spin(float* out, const int turns) {
  float d[8][4] = {};
  const uint32_t a[4] = {threadIdx.x, 1, 2, 3};
  for (int i = 0; i < turns; i++)
#pragma unroll
    for (int j = 0; j < 8; j++)
      if (BF16) mma_bf16(d[j], a, i, j); else mma_tf32(d[j], a, i, j);
  float total = 0;
  for (int j = 0; j < 8; j++) total += d[j][0] + d[j][1] + d[j][2] + d[j][3];
  out[blockIdx.x * blockDim.x + threadIdx.x] = total;
}
extern "C" __global__ void spin_tf32(float* out, const int turns) { spin<false>(out, turns); }
extern "C" __global__ void spin_bf16(float* out, const int turns) { spin<true>(out, turns); }
"""
OPERATIONS = {"float32": 32, "tf32": 8 * 2 * 16 * 8 * 8 / 32, "bf16": 8 * 2 * 16 * 8 * 16 / 32}
"""Floating-point operations of a thread in one turn."""


def rate(run: Callable[[], object], wait: Callable[[], None], amount: float, turns: int = 7) -> float:
    """``amount`` per second at the best of a few calls, after one that may compile."""
    best = float("inf")
    for turn in range(turns + 1):
        wait()
        started = time.perf_counter()
        run()
        wait()
        if turn:
            best = min(best, time.perf_counter() - started)
    return amount / best


def measure(place: Any, torch: Any = None, *, count: int = 1 << 28, spins: int = 20_000) -> dict[str, float]:
    """GB/s under "bandwidth", and GFLOP/s under each precision.

    Args:
        place: the device.
        torch: PyTorch, if it takes part.
        count: numbers in each array of the triad; divisible by 4.
        spins: turns of the loops on registers.
    """
    device = place.device
    kernels = device.compile("limits.cu", code=CODE)
    a, b, c = (device.empty(count, np.float32) for _ in range(3))
    b[...], c[...] = 1, 2
    blocks = -(-count // 1024)

    def triad() -> None:
        device.launch(kernels["triad"], blocks, 256, (a, b, c, count))

    found = {"bandwidth": rate(triad, place.synchronize, 3 * 4 * count / 1e9)}
    grid = 8 * device.multiprocessors
    out = device.empty(grid * 256, np.float32)
    for precision in PRECISIONS:
        arguments = (out, spins, 0.5) if precision == "float32" else (out, spins)

        def spin(name: str = f"spin_{precision}", arguments: tuple[Any, ...] = arguments) -> None:
            device.launch(kernels[name], grid, 256, arguments)

        amount = OPERATIONS[precision] * grid * 256 * spins / 1e9
        found[precision] = rate(spin, place.synchronize, amount)
        if torch is not None:
            found[precision] = max(found[precision], _cublas(torch, precision))
    return found


def _cublas(torch: Any, precision: str) -> float:
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    x, y = (torch.randn(SIZE, SIZE, device="cuda", dtype=dtype) for _ in range(2))
    return rate(lambda: x @ y, torch.cuda.synchronize, 2 * SIZE**3 / 1e9)
