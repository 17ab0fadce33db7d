"""Single wgmma products on the emulated device: what only A in registers, a copied sum or one warp can do wrong."""

# ruff: noqa: E501 (the table quotes lines of source code)

from __future__ import annotations

import numpy as np
import pytest

from minidl.kernels.emulator import EmulatedDevice, KernelFault
from tests.kernels.emulator.needs import emulator
from tests.kernels.emulator.test_wgmma import HEAD, ORDERS

pytestmark = emulator

CODE = (
    HEAD
    + """
#define PRODUCT(d, a, b) asm volatile("{ .reg .pred p; setp.ne.b32 p, %9, 0; \\
  wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%0, %1, %2, %3}, {%4, %5, %6, %7}, %8, p, 1, 1, 0; }" \\
  : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add))
#define PIN(d) asm volatile("" : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) :: "memory")
// y = 1 + A (64 x 16, ones, in registers) times B (8 x 16, zeros), for two B; warp `writer` then writes over the first.
extern "C" __global__ void product(float* y, const unsigned* numbers, int writer) {
  extern __shared__ __align__(1024) char shared[];
  const int t = threadIdx.x;
  for (int i = t; i < 512; i += 128) ((int*)shared)[i] = 0;
  PROXY_FENCE;
  const unsigned one = numbers[0];
  unsigned a[4] = {one, one, one, one};
  float d[4] = {1, 1, 1, 1}, e[4] = {1, 1, 1, 1};
  const long long b = (long long)((unsigned)__cvta_generic_to_shared(shared) >> 4) | 1ll << 16 | 64ll << 32 | 1ll << 62;
  const int add = 1;
  __syncthreads();
  PIN(d);
  PIN(e);
  FENCE;
  PRODUCT(d, a, b);
  PRODUCT(e, a, b + 64);
  COMMIT;
  __syncthreads();
  WAIT(0);
  __syncthreads();
  if (t / 32 == writer) ((int*)shared)[t % 32] = 5;
  for (int r = 0; r < 4; r++) y[t * 4 + r] = (d[r] + e[r]) / 2 + (a[r] != one);
}
"""
)
# what is wrong, text, what it becomes, which warp writes, what the report must say
BUGS = [
    ("a factor changed after the fence", "  FENCE;", "  FENCE; a[1] += numbers[1];", 9,
     "a register of A was read or written after the last wgmma.fence"),
    ("a factor changed in flight", "  COMMIT;", '  COMMIT; asm volatile("add.u32 %0, %0, 1;" : "+r"(a[1]));', 9, "wgmma.wait_group must come first"),
    ("sums in flight as a factor", "PRODUCT(e, a, b + 64);",
     "for (int i = 0; i < 4; i++) a[i] = __float_as_uint(d[i]);\n  PRODUCT(e, a, b + 64);", 9, "a register of A belongs to a wgmma in flight"),
    ("a copy of a sum read in flight", "  COMMIT;",
     '  COMMIT; float copy; asm volatile("mov.f32 %0, %1;" : "=f"(copy) : "f"(d[0])); y[t] = copy + 1;', 9, "wgmma.wait_group must come first"),
    ("threads that add and threads that do not", "add = 1", "add = t < 64", 9, "different descriptors or scale-d"),
    ("the first warp writes before the others have waited", "  WAIT(0);\n  __syncthreads();", "  WAIT(0);", 0,
     "write to shared memory that a wgmma in flight reads"),
    ("the last warp writes, and no barrier says that the others have waited", "  WAIT(0);\n  __syncthreads();", "  WAIT(0);", 3,
     "race in shared memory"),
]  # fmt: skip


def run(device: EmulatedDevice, code: str, writer: int) -> np.ndarray:
    y = device.empty((128, 4), np.float32)
    numbers = np.array([0x3F803F80, 0], np.uint32)  # two ones in bfloat16
    device.launch(device.compile("product.cu", code=code)["product"], 1, 128, (y, numbers, writer), 2048)
    return y


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("writer", [0, 3, 9])
def test_correct_products_raise_no_alarm(order: int, writer: int) -> None:
    np.testing.assert_array_equal(run(EmulatedDevice(90, order=order), CODE, writer), 1)


@pytest.mark.parametrize(("what", "old", "new", "writer", "report"), BUGS, ids=[b[0] for b in BUGS])
def test_a_planted_bug_is_caught(what: str, old: str, new: str, writer: int, report: str) -> None:
    assert CODE.count(old) == 1, old
    with pytest.raises(KernelFault, match=report):
        run(EmulatedDevice(90), CODE.replace(old, new), writer)
