"""The compiler: sources of the package become PTX and machine code, kept on disk, with readable errors."""

from __future__ import annotations

from pathlib import Path

import pytest

from minidl.kernels.cuda import compiler, nvrtc
from minidl.kernels.cuda.device import CUDAError, Parameter

pytestmark = pytest.mark.skipif(not nvrtc.available(), reason=nvrtc.MISSING)

KERNEL = """
#include "one.cuh"
struct Sizes { int rows, columns; long long stride; };
extern "C" __global__ void f(const float* x, int n, float a, double b, bool c, Sizes s) {
  ((float*)x)[0] = n + a + b + c + s.rows + ONE;
}
template <int N> __global__ void g(float* x) { x[N] = N; }
"""
HEADERS = {"one.cuh": '#include "two.cuh"\n#define ONE TWO / 2\n', "two.cuh": "#define TWO 2\n"}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINIDL_CACHE_DIR", str(tmp_path))


def test_parameters_are_read_from_the_compiled_kernel() -> None:
    out = compiler.compile("k.cu", "compute_80", code=KERNEL, headers=HEADERS)
    expected = [("int", 8), ("int", 4), ("float", 4), ("float", 8), ("int", 1), ("bytes", 16)]
    assert out.parameters["f"] == tuple(Parameter(*p) for p in expected)


def test_template_instances_go_by_the_name_in_the_source() -> None:
    out = compiler.compile("k.cu", "compute_80", instances=["g<3>"], code=KERNEL, headers=HEADERS)
    assert set(out.symbols) == {"f", "g<3>"}
    assert out.symbols["g<3>"] != "g<3>"


def test_machine_code_comes_with_registers_and_spills() -> None:
    out = compiler.compile("elementwise.cu", "sm_80")
    usage = out.usage["add_float"]
    assert out.cubin and 0 < usage.registers < 64 and usage.spills == usage.stack == usage.shared == 0


def test_the_second_time_comes_from_the_disk_and_a_changed_header_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = compiler.compile("k.cu", "sm_80", code=KERNEL, headers=HEADERS)

    def refuse(*args: object) -> None:
        raise AssertionError("compiled again")

    monkeypatch.setattr(nvrtc, "run", refuse)
    assert compiler.compile("k.cu", "sm_80", code=KERNEL, headers=HEADERS) == first
    with pytest.raises(AssertionError, match="compiled again"):
        compiler.compile("k.cu", "sm_80", code=KERNEL, headers={**HEADERS, "two.cuh": "#define TWO 4\n"})


def test_a_damaged_entry_is_compiled_again(tmp_path: Path) -> None:
    first = compiler.compile("k.cu", "sm_80", code=KERNEL, headers=HEADERS)
    for path in (tmp_path / "cuda").iterdir():
        path.write_bytes(path.read_bytes()[:100])
    assert compiler.compile("k.cu", "sm_80", code=KERNEL, headers=HEADERS).cubin == first.cubin


def test_an_error_names_the_file_and_shows_the_line() -> None:
    with pytest.raises(
        CUDAError, match=r"(?s)bad\.cu does not compile.*bad\.cu\(2\).*nowhere.*float y = nowhere"
    ):
        compiler.compile(
            "bad.cu", "compute_80", code="__global__ void f(float* x) {\n  float y = nowhere;\n}\n"
        )


def test_an_unknown_source_is_named_with_those_there_are() -> None:
    with pytest.raises(CUDAError, match=r"no CUDA source 'none\.cu'; there are .*elementwise\.cu"):
        compiler.compile("none.cu", "compute_80")


PRODUCTS = """
extern "C" __global__ void product(float* y, long long a, long long b) {
  float d[4] = {y[0], y[1], y[2], y[3]};
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
  asm volatile("wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%0, %1, %2, %3}, %4, %5, 1, 1, 1, 0, 0;"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "l"(a), "l"(b));
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
  asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
  for (int i = 0; i < 4; i++) y[threadIdx.x * 4 + i] = d[i];
}
"""


def test_what_ptxas_mends_in_asynchronous_products_is_a_remark() -> None:
    """A missing wait; of a missing fence only some versions speak, and the emulated device stops at it."""
    assert not compiler.compile("products.cu", "sm_90a", code=PRODUCTS).remarks
    made = compiler.compile(
        "products.cu", "sm_90a", code=PRODUCTS.replace("wgmma.wait_group.sync.aligned 0;", "")
    )
    assert "is injected" in made.remarks[0]
