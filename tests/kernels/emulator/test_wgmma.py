"""wgmma on the emulated device: every layout of its operands against NumPy, and what its manual leaves undefined."""

# ruff: noqa: E501 (the table quotes lines of source code)

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from minidl.kernels.cuda.device import CUDAError, Module
from minidl.kernels.emulator import EmulatedDevice, KernelFault
from tests.kernels.emulator.needs import emulator

pytestmark = emulator

ORDERS = (0, 1, 7)
DTYPES = {"bf16": np.dtype(ml_dtypes.bfloat16), "f16": np.dtype(np.float16), "tf32": np.dtype(np.float32)}
MODES = {1: 0, 8: 1, 4: 2, 2: 3}
"""Bits 62 and 63 of a descriptor by how many pieces of 16 bytes a swizzled line has."""
IMAGE = 32768


@dataclass(frozen=True)
class Layout:
    """An operand in shared memory: pieces of 16 bytes in a line, k slow or fast, where it starts, the two offsets."""

    pieces: int
    slow: bool
    start: int
    leading: int
    stride: int

    def descriptor(self) -> int:
        fields = self.start >> 4 | (self.leading >> 4) << 16 | (self.stride >> 4) << 32
        return fields | MODES[self.pieces] << 62

    def offset(self, row: int, k: int, itemsize: int) -> int:
        """Bytes from the start of shared memory to an element, as the manual's canonical layouts say."""
        fast, slow = (row, k) if self.slow else (k, row)
        within, line = fast * itemsize, slow % 8
        if self.pieces == 1:
            brick = (self.stride, self.leading) if self.slow else (self.leading, self.stride)
            return self.start + line * 16 + within % 16 + within // 16 * brick[0] + slow // 8 * brick[1]
        width = 16 * self.pieces
        chunk = within // width * self.leading if self.slow else 0
        at = (
            self.start
            + line * width
            + slow // 8 * self.stride
            + chunk
            + (within % width if self.slow else within)
        )
        return at ^ ((at >> 7) % self.pieces) << 4


def fill(image: np.ndarray, layout: Layout, matrix: np.ndarray) -> None:
    raw = np.ascontiguousarray(matrix).view(np.uint8).reshape(*matrix.shape, matrix.dtype.itemsize)
    for row in range(matrix.shape[0]):
        for k in range(matrix.shape[1]):
            at = layout.offset(row, k, matrix.dtype.itemsize)
            assert (image[at : at + matrix.dtype.itemsize] == 0xEE).all(), "two elements in one place"
            image[at : at + matrix.dtype.itemsize] = raw[row, k]


@dataclass(frozen=True)
class Case:
    """A product, D = scale_a A * scale_b B [+ D]; ``a`` is None for A in registers."""

    element: str
    n: int
    a: Layout | None
    b: Layout
    negate: tuple[int, int] = (1, 1)
    accumulate: int = 1


def along(pieces: int, start: int, stride: int = 0, leading: int = 16) -> Layout:
    return Layout(pieces, False, start, leading, stride or pieces * 128)


CASES = {
    "no swizzle": Case("bf16", 16, along(1, 0, 256, 128), along(1, 4096, 256, 128)),
    "32 bytes": Case("f16", 24, along(2, 0), along(2, 4096)),
    "64 bytes, second half of the line": Case("bf16", 8, along(4, 32), along(4, 8192, 1024)),
    "128 bytes": Case("bf16", 128, along(8, 0), along(8, 8192)),
    "128 bytes, last place of the line": Case("f16", 64, along(8, 96), along(8, 8192 + 64)),
    "256 columns": Case("bf16", 256, along(2, 0), along(2, 8192)),
    "tf32": Case("tf32", 16, along(8, 32), along(4, 8192)),
    "tf32, no swizzle": Case("tf32", 40, along(1, 0, 128, 2048), along(1, 8192, 128, 2048)),
    "k slow, 128 bytes": Case("bf16", 128, Layout(8, True, 0, 1024, 2048), Layout(8, True, 8192, 4096, 1024)),
    "k slow, 64 bytes": Case("f16", 64, Layout(4, True, 0, 1024, 512), Layout(4, True, 8192, 512, 1024)),
    "k slow, 32 bytes": Case("bf16", 32, Layout(2, True, 0, 256, 1024), Layout(2, True, 8192, 512, 256)),
    "k slow, no swizzle": Case("f16", 24, Layout(1, True, 0, 128, 256), Layout(1, True, 8192, 1024, 128)),
    "A fast, B slow": Case("bf16", 64, along(8, 0), Layout(8, True, 8192, 2048, 1024)),
    "A slow, B fast": Case("f16", 16, Layout(8, True, 0, 0, 1024), along(4, 8192)),
    "A in registers": Case("bf16", 32, None, along(8, 0)),
    "A in registers, B slow": Case("f16", 64, None, Layout(8, True, 0, 0, 1024)),
    "A in registers, tf32": Case("tf32", 8, None, along(8, 0)),
    "A negated": Case("bf16", 8, along(8, 0), along(8, 8192), (-1, 1)),
    "B negated, D overwritten": Case("bf16", 8, along(8, 0), along(8, 8192), (1, -1), 0),
}


def instruction(case: Case) -> str:
    """The PTX, with operands by number: D first, then A, B, scale-d."""
    depth, count = (8 if case.element == "tf32" else 16), case.n // 2
    d = ", ".join(f"%{i}" for i in range(count))
    a = f"%{count}" if case.a else "{" + ", ".join(f"%{count + i}" for i in range(4)) + "}"
    next_operand = count + (1 if case.a else 4)
    turned = [case.a.slow] if case.a else []
    turned = [] if case.element == "tf32" else [*turned, case.b.slow]
    ends = "".join(f", {int(t)}" for t in turned)
    scales = f"{case.negate[0]}, {case.negate[1]}"
    return (
        f"{{ .reg .pred p; setp.ne.b32 p, %{next_operand + 1}, 0; wgmma.mma_async.sync.aligned.m64n{case.n}k{depth}"
        f".f32.{case.element}.{case.element} {{{d}}}, {a}, %{next_operand}, p, {scales}{ends}; }}"
    )


HEAD = """
__device__ __forceinline__ void fill(char* shared, const char* image, int bytes) {
  for (int i = threadIdx.x * 16; i < bytes; i += blockDim.x * 16) *(int4*)(shared + i) = *(const int4*)(image + i);
}
#define PROXY_FENCE asm volatile("fence.proxy.async.shared::cta;" ::: "memory")
#define FENCE asm volatile("wgmma.fence.sync.aligned;" ::: "memory")
#define COMMIT asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory")
#define WAIT(n) asm volatile("wgmma.wait_group.sync.aligned %0;" :: "n"(n) : "memory")
"""


def kernel(number: int, case: Case) -> str:
    count = case.n // 2
    d = ", ".join(f'"+f"(d[{i}])' for i in range(count))
    a = '"l"(a)' if case.a else ", ".join(f'"r"(f[{i}])' for i in range(4))
    return f"""
extern "C" __global__ void case_{number}(const char* image, const unsigned* fragments, float* y, long long a, long long b) {{
  extern __shared__ __align__(1024) char shared[];
  const int t = threadIdx.x;
  fill(shared, image, {IMAGE});
  PROXY_FENCE;
  unsigned f[4];
  for (int i = 0; i < 4; i++) f[i] = fragments[t * 4 + i];
  float d[{count}];
  #pragma unroll
  for (int i = 0; i < {count}; i++) d[i] = y[t * {count} + i];
  __syncthreads();
  FENCE;
  asm volatile("{instruction(case)}" : {d} : {a}, "l"(b), "r"({case.accumulate}));
  COMMIT;
  WAIT(0);
  #pragma unroll
  for (int i = 0; i < {count}; i++) y[t * {count} + i] = d[i];
}}"""


@pytest.fixture(scope="module")
def cases() -> tuple[EmulatedDevice, Module]:
    device = EmulatedDevice(90)
    code = HEAD + "".join(kernel(i, c) for i, c in enumerate(CASES.values()))
    return device, device.compile("wgmma.cu", code=code)


def places(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of D in each register of each thread, as the manual's figure has them."""
    t, r = np.meshgrid(np.arange(128), np.arange(n // 2), indexing="ij")
    return t // 32 * 16 + t % 32 // 4 + r // 2 % 2 * 8, r // 4 * 8 + t % 4 * 2 + r % 2


def fragments(a: np.ndarray) -> np.ndarray:
    """A (64, k) as 4 registers of each thread: mma's fragment in each warp."""
    words = np.zeros((128, 4), np.uint32)
    for t in range(128):
        for r in range(4):
            row = t // 32 * 16 + t % 32 // 4 + r % 2 * 8
            if a.dtype.itemsize == 4:
                words[t, r] = a[row, t % 4 + r // 2 * 4].view(np.uint32)
            else:
                k = t % 4 * 2 + r // 2 * 8
                words[t, r] = np.ascontiguousarray(a[row, k : k + 2]).view(np.uint32)[0]
    return words


def matrices(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Small whole numbers, exact in every type: sums do not depend on their order."""
    rng = np.random.default_rng(0)
    depth = 8 if case.element == "tf32" else 16
    a, b = (rng.integers(-4, 5, (size, depth)).astype(DTYPES[case.element]) for size in (64, case.n))
    return a, b


@pytest.mark.parametrize("name", CASES)
def test_a_product_is_numpys(name: str, cases: tuple[EmulatedDevice, Module]) -> None:
    device, module = cases
    case = CASES[name]
    a, b = matrices(case)
    image = np.full(IMAGE, 0xEE, np.uint8)
    if case.a:
        fill(image, case.a, a)
    fill(image, case.b, b)
    y = np.random.default_rng(1).integers(-9, 9, (128, case.n // 2)).astype(np.float32)
    rows, columns = places(case.n)
    start = np.zeros((64, case.n), np.float32)
    start[rows, columns] = y * case.accumulate
    wide = [m.astype(np.float32) for m in (a, b)]
    expected = start + case.negate[0] * case.negate[1] * (wide[0] @ wide[1].T)
    args = (
        image,
        fragments(a),
        y,
        signed(case.a.descriptor() if case.a else 0),
        signed(case.b.descriptor()),
    )
    with device.count_traffic() as lines:
        device.launch(module[f"case_{list(CASES).index(name)}"], 1, 128, args, IMAGE)
    (product,) = (line for line in lines if line.accesses == 1 and line.memory == "shared")
    assert product.real == (64 * (case.a is not None) + case.n) * 32 // 128
    actual = np.zeros((64, case.n), np.float32)
    actual[rows, columns] = y
    np.testing.assert_array_equal(actual, expected)


def signed(bits: int) -> int:
    return bits - (1 << 64) if bits >> 63 else bits


@pytest.mark.parametrize(
    ("name", "bits", "report"),
    [
        ("128 bytes", 1 << 14, "reserved bits"),
        ("128 bytes", 1 << 46, "reserved bits"),
        ("128 bytes", 1 << 60, "reserved bits"),
        ("128 bytes", 3 << 49, "base offset"),
        ("128 bytes", 128 >> 4, "begins at offset 128"),
        ("128 bytes", 112 >> 4, "begins at offset 112"),
        ("128 bytes", 16 >> 4 << 32, "no multiples of a brick"),
        ("128 bytes", 0x3FC0, "of shared memory, which has"),
        ("k slow, 128 bytes", 32 >> 4, "no start of a brick"),
        ("k slow, 128 bytes", 16 >> 4 << 16, "no multiples of a brick"),
        ("k slow, 128 bytes", 16 >> 4 << 32, "no multiples of a brick"),
    ],
)
def test_a_wrong_descriptor_is_refused(
    name: str, bits: int, report: str, cases: tuple[EmulatedDevice, Module]
) -> None:
    device, module = cases
    number, case = list(CASES).index(name), CASES[name]
    assert case.a is not None
    image, y = np.zeros(IMAGE, np.uint8), np.zeros((128, 64), np.float32)
    args = (
        image,
        np.zeros((128, 4), np.uint32),
        y,
        signed(case.a.descriptor() + bits),
        signed(case.b.descriptor()),
    )
    with pytest.raises(KernelFault, match=report):
        device.launch(module[f"case_{number}"], 1, 128, args, IMAGE)


PIPELINE = (
    HEAD
    + """
#define MULTIPLY(d, a, b) asm volatile("{ .reg .pred p; setp.ne.b32 p, 1, 0; \\
  wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%0, %1, %2, %3}, %4, %5, p, 1, 1, 0, 0; }" \\
  : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "l"(a), "l"(b))
#define PIN(d) asm volatile("" : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) :: "memory")
__device__ long long descriptor(const char* p) {   // k fast, lines of 128 bytes
  return (long long)((unsigned)__cvta_generic_to_shared(p) >> 4) | 1ll << 16 | 64ll << 32 | 1ll << 62;
}
__device__ void fetch(char* stage, const char* from) {
  const char* source = from + threadIdx.x * 16;
  const unsigned to = (unsigned)__cvta_generic_to_shared(stage) + (threadIdx.x * 16 ^ (threadIdx.x / 8 % 8) * 16);
  for (int i = 0; i < 9216; i += 2048)
    if (i + threadIdx.x * 16 < 9216)
      asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" :: "r"(to + i), "l"(source + i) : "memory");
  asm volatile("cp.async.commit_group;" ::: "memory");
}
// y (64 x 8) = the sum over slices of A (64 x 64) times B (8 x 64) transposed, three stages, one product in flight.
extern "C" __global__ void sum_of_products(const char* x, float* y, int slices) {
  extern __shared__ __align__(1024) char shared[];
  float d[4] = {};
  fetch(shared, x);
  fetch(shared + 9216, x + 9216);
  for (int s = 0; s < slices; s++) {
    asm volatile("cp.async.wait_group 1;" ::: "memory");
    PROXY_FENCE;
    __syncthreads();
    const char* stage = shared + s % 3 * 9216;
    PIN(d);
    FENCE;
    for (int k = 0; k < 4; k++) MULTIPLY(d, descriptor(stage + k * 32), descriptor(stage + 8192 + k * 32));
    COMMIT;
    WAIT(1);
    __syncthreads();
    if (s + 2 < slices) fetch(shared + (s + 2) % 3 * 9216, x + (s + 2) * 9216);
    else asm volatile("cp.async.commit_group;" ::: "memory");
  }
  WAIT(0);
  const int row = threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4, column = threadIdx.x % 4 * 2;
  for (int r = 0; r < 4; r++) y[(row + r / 2 * 8) * 8 + column + r % 2] = d[r];
}
"""
)
SLICES = 5


def run(device: EmulatedDevice, module: Module, threads: int = 128) -> None:
    rng = np.random.default_rng(0)
    x = rng.integers(-3, 4, (SLICES, 72, 64)).astype(DTYPES["bf16"])
    y = device.empty((64, 8), np.float32)
    device.launch(module["sum_of_products"], 1, threads, (x, y, SLICES), 3 * 9216)
    wide = x.astype(np.float32)
    np.testing.assert_array_equal(y, np.einsum("sik,sjk->ij", wide[:, :64], wide[:, 64:]))


# what is wrong, text, what it becomes, what the report must say
BUGS = [
    ("no fence before the products", "    FENCE;", "", "after the last wgmma.fence, or there was none"),
    ("accumulators written after the fence", "    FENCE;", "    FENCE; d[1] += y == 0;", "after the last wgmma.fence"),
    ("sums read before the wait", "  WAIT(0);\n  const int row", "  const int row", "wgmma.wait_group must come first"),
    ("sums read too early", "  WAIT(0);\n  const int row", "  WAIT(1);\n  const int row", "wgmma.wait_group must come first"),
    ("sums changed in flight", "    COMMIT;", "    COMMIT; d[0] = d[0] * 2 - d[0];", "wgmma.wait_group must come first"),
    ("products never committed", "    COMMIT;", "", "wgmma.wait_group must come first|in flight reads"),
    ("no proxy fence", "    PROXY_FENCE;", "", "not handed over with fence.proxy.async"),
    ("proxy fence before the copies arrive", '    asm volatile("cp.async.wait_group 1;" ::: "memory");\n    PROXY_FENCE;',
     '    PROXY_FENCE;\n    asm volatile("cp.async.wait_group 1;" ::: "memory");', "not handed over with fence.proxy.async"),
    ("proxy fence after the barrier", "    PROXY_FENCE;\n    __syncthreads();", "    __syncthreads();\n    PROXY_FENCE;",
     "not handed over with fence.proxy.async"),
    ("proxy fence for another memory", "fence.proxy.async.shared::cta", "fence.proxy.async.global", "not handed over"),
    ("no barrier after the copies", "    PROXY_FENCE;\n    __syncthreads();", "    PROXY_FENCE;", "race in shared memory"),
    ("copies into the stage in flight", "fetch(shared + (s + 2) % 3 * 9216", "fetch(shared + (s + 3) % 3 * 9216",
     "write to shared memory that a wgmma in flight reads"),
    ("two products in flight and three stages", "    WAIT(1);", "    WAIT(2);", "write to shared memory that a wgmma in flight reads"),
    ("no barrier before the overwrite", "    WAIT(1);\n    __syncthreads();\n    if (s + 2 < slices) fetch(shared + (s + 2) % 3",
     "    WAIT(0);\n    if (s + 2 < slices) fetch(shared + s % 3", "race in shared memory"),
    ("a warp leaves its warpgroup", "  for (int s = 0;", "  if (threadIdx.x >= 96) slices--;\n  for (int s = 0;", "never come"),
    ("warps at different products", "    for (int k = 0; k < 4; k++) MULTIPLY(d, descriptor(stage + k * 32), descriptor(stage + 8192 + k * 32));",
     "    for (int k = 0; k < 4; k++)\n      if (threadIdx.x < 64) { MULTIPLY(d, descriptor(stage + k * 32), descriptor(stage + 8192 + k * 32)); }\n"
     "      else MULTIPLY(d, descriptor(stage + k * 32), descriptor(stage + 8192 + k * 32));", "at different wgmma"),
    ("lanes at different products", "descriptor(stage + 8192 + k * 32)", "descriptor(stage + 8192 + threadIdx.x / 64 * 32)",
     "different descriptors"),
    ("lanes at different rows", "descriptor(stage + k * 32)", "descriptor(stage + threadIdx.x / 64 * 1024 + k * 32)",
     "different descriptors"),
    ("the swizzle is forgotten", "^ (threadIdx.x / 8 % 8) * 16", "", "Mismatch|not equal"),
    ("the wrong stride", "64ll << 32", "128ll << 32", "Mismatch|not equal|nobody wrote|in flight reads"),
    ("the end is not waited for", "    WAIT(1);\n    __syncthreads();", "    if (s + 1 < slices) WAIT(1); else return;\n    __syncthreads();",
     "before this wgmma was waited for"),
]  # fmt: skip
DEVICES = [EmulatedDevice(90, order=order) for order in ORDERS]


def test_a_correct_pipeline_raises_no_alarm() -> None:
    for device in DEVICES:
        run(device, device.compile("pipeline.cu", code=PIPELINE))


@pytest.mark.parametrize(("what", "old", "new", "report"), BUGS, ids=[b[0] for b in BUGS])
def test_a_planted_bug_is_caught(what: str, old: str, new: str, report: str) -> None:
    assert PIPELINE.count(old) == 1, old
    for device in DEVICES:
        module = device.compile("pipeline.cu", code=PIPELINE.replace(old, new))
        with pytest.raises((KernelFault, AssertionError), match=rf"(?is){report}"):
            run(device, module)


def test_half_a_warpgroup_is_refused() -> None:
    device = DEVICES[0]
    code = PIPELINE.replace("< 9216", "< 0")  # without the copies, which need all threads
    with pytest.raises(KernelFault, match="whole warpgroups of 128 threads, and the block has 96"):
        run(device, device.compile("pipeline.cu", code=code), threads=96)


def test_other_forms_are_named_with_their_line() -> None:
    body = (
        'unsigned d[2] = {};\n  asm volatile("wgmma.mma_async.sync.aligned.m64n8k16.f16.f16.f16 {%0, %1}, %2, %2, 1, 1, 1, 0, 0;"'
        ' : "+r"(d[0]), "+r"(d[1]) : "l"(0ll));\n  *y = d[0];'
    )
    code = f'extern "C" __global__ void f(unsigned* y) {{\n  {body}\n}}'
    with pytest.raises(CUDAError, match=r"strange\.cu:3: .* does not know the PTX instruction: wgmma"):
        EmulatedDevice(90).compile("strange.cu", code=code)


def test_no_architecture_but_hopper_has_it() -> None:
    for capability in (80, 100):
        device: Any = EmulatedDevice(capability)
        with pytest.raises(CUDAError, match="wgmma needs sm_90a, this is PTX for sm_"):
            device.compile("pipeline.cu", code=PIPELINE)
