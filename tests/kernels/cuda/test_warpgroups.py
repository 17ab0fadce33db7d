"""The main loop by Hopper's warpgroups (wgmma), on the emulated device or on a card that has them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minidl.kernels.cuda import tiling
from minidl.kernels.cuda.tiling import TILINGS, Tiling
from minidl.kernels.emulator import EmulatedDevice
from tests.kernels.cuda.on_device import (
    BF16,
    F16,
    F32,
    REFERENCE,
    agree,
    backend,
    device,
    near,
    normal,
    on_hopper,
    wide,
)
from tests.target import needs_device

pytestmark = needs_device()


@pytest.fixture(scope="module", autouse=True)
def hopper() -> Iterator[None]:
    with on_hopper():
        yield


SMALL = Tiling(64, 64, 16, 64, 3, 1, wgmma=True)
"""One warpgroup and three stages: several blocks and slices are quick then."""
TF32 = 2e-3
ONE = ((1, 1), (1, 1))
NONE = ((0, 0), (0, 0))


# x (N, H, W, C), w (O, KH, KW, C/groups), stride, pad, dilation, groups: all channels in copies of 16 bytes
CASES: dict[str, tuple[Any, ...]] = {
    "3x3, five slices, two of pixels and of outputs": (
        (1, 9, 8, 32),
        (72, 3, 3, 32),
        (1, 1),
        ONE,
        (1, 1),
        1,
    ),
    "stride 2, ragged": ((2, 9, 7, 8), (24, 3, 2, 8), (2, 2), ((1, 0), (1, 2)), (1, 1), 1),
    "groups": ((1, 5, 6, 32), (16, 3, 3, 16), (1, 1), ONE, (1, 1), 2),
}


@pytest.mark.parametrize("case", CASES)
def test_a_convolution_and_its_gradients(case: str) -> None:
    x_shape, w_shape, stride, pad, dilation, groups = CASES[case]
    x, w, bias = normal(0, BF16, *x_shape), normal(1, BF16, *w_shape), normal(2, BF16, w_shape[0])
    options = (stride, pad, dilation, groups)
    with tiling.force(SMALL):
        y = agree("conv2d", BF16, x, w, None, *options)
        rest = normal(3, BF16, *y.shape)
        agree("conv2d", BF16, x, w, bias, *options, relu=True, residual=rest)
        gy = normal(4, BF16, *y.shape)
        agree("conv2d_input_grad", BF16, gy, w, x_shape[1:3], *options)
        agree("conv2d_weight_grad", BF16, gy, x, w_shape[1:3], *options)


def test_statistics_of_the_result_come_with_it() -> None:
    x_shape, w_shape, *place = CASES["3x3, five slices, two of pixels and of outputs"]
    found: list[Any] = []
    with tiling.force(SMALL):
        y = backend().conv2d(
            normal(0, BF16, *x_shape), normal(1, BF16, *w_shape), None, *place, statistics=found
        )
    mean, var = REFERENCE.batch_norm_stats(wide(y).astype(np.float64))
    near(found[0], mean, 1e-6)
    near(found[1], var, 1e-5)


@pytest.mark.parametrize("case", CASES)
def test_float32_rounded_to_tf32(case: str) -> None:
    x_shape, w_shape, stride, pad, dilation, groups = CASES[case]
    x, w = normal(0, F32, *x_shape), normal(1, F32, *w_shape)
    options = (stride, pad, dilation, groups)
    with tiling.float32_precision("tf32"), tiling.force(SMALL):
        y = agree("conv2d", F32, x, w, None, *options, tolerance=TF32)
        agree("conv2d_input_grad", F32, normal(4, F32, *y.shape), w, x_shape[1:3], *options, tolerance=TF32)


def to_tf32(x: Any) -> Any:
    """Rounded to 10 bits of mantissa, halves away from zero."""
    return ((x.view(np.uint32) + np.uint32(0x1000)) & np.uint32(0xFFFFE000)).view(F32)


def test_both_factors_are_rounded_to_the_nearest_tf32() -> None:
    x, w = normal(0, F32, 1, 4, 4, 64), normal(1, F32, 8, 1, 1, 64)
    expected = REFERENCE.conv2d(to_tf32(x), to_tf32(w), None, (1, 1), NONE, (1, 1), 1)
    with tiling.float32_precision("tf32"), tiling.force(SMALL):
        near(backend().conv2d(x, w, None, (1, 1), NONE, (1, 1), 1), expected, 1e-6)


@pytest.mark.parametrize("tile", TILINGS["WARPGROUP"], ids=lambda t: f"{t.bm}x{t.bn}")
def test_the_tilings_that_are_offered_work_for_float16(tile: Tiling) -> None:
    with tiling.force(tile):
        agree("matmul", F16, normal(0, F16, 130, 328), normal(1, F16, 328, 264))


@pytest.mark.parametrize("turned", [(False, False), (True, True)])
@pytest.mark.parametrize(("m", "n", "k"), [(72, 80, 200), (8, 136, 64)])
def test_each_operand_of_a_product_lies_along_or_across(
    m: int, n: int, k: int, turned: tuple[bool, bool]
) -> None:
    a = normal(0, BF16, k, m).T if turned[0] else normal(0, BF16, m, k)
    b = normal(1, BF16, n, k).T if turned[1] else normal(1, BF16, k, n)
    with tiling.force(SMALL):
        agree("matmul", BF16, a, b)


def test_a_layer_in_tf32_with_a_split_sum() -> None:
    x, w, bias = normal(0, F32, 12, 1028), normal(1, F32, 20, 1028), normal(2, F32, 20)
    before = device().launches
    with tiling.float32_precision("tf32"), tiling.force(SMALL):
        agree("linear", F32, x, w, bias, tolerance=TF32)
    assert device().launches == before + 2


def test_results_do_not_depend_on_the_order_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    x, w = normal(0, BF16, 1, 9, 8, 32), normal(1, BF16, 72, 3, 3, 32)
    results = set()
    with tiling.force(SMALL):
        for order in (0, 1, 7):
            monkeypatch.setattr(device(), "order", order, raising=False)
            results.add(backend().conv2d(x, w, None, (1, 1), ONE, (1, 1), 1).tobytes())
    assert len(results) == 1


@given(data=st.data())
@settings(max_examples=20, deadline=None, derandomize=True)
def test_any_shape_is_convolved(data: st.DataObject) -> None:
    def pair(low: int, high: int) -> tuple[int, int]:
        return data.draw(st.tuples(st.integers(low, high), st.integers(low, high)))

    kernel, stride, dilation, pad = pair(1, 3), pair(1, 3), pair(1, 2), (pair(0, 2), pair(0, 2))
    reach = [dilation[a] * (kernel[a] - 1) + 1 - sum(pad[a]) for a in (0, 1)]
    h, w = (max(reach[a], 1) + data.draw(st.integers(0, 8)) for a in (0, 1))
    depth, outputs = (8 * data.draw(st.integers(1, limit)) for limit in (10, 17))
    x, weight = normal(0, BF16, 2, h, w, depth), normal(1, BF16, outputs, *kernel, depth)
    options = (stride, pad, dilation, 1)
    with tiling.force(SMALL):
        gy = normal(2, BF16, *agree("conv2d", BF16, x, weight, None, *options).shape)
        agree("conv2d_input_grad", BF16, gy, weight, (h, w), *options)
        agree("conv2d_weight_grad", BF16, gy, x, kernel, *options)


def test_only_its_architecture_is_offered_wgmma() -> None:
    def offered(device: EmulatedDevice, *args: Any) -> bool:
        return any(tile.wgmma for tile in tiling.candidates(device, *args))

    card = EmulatedDevice(90)
    assert offered(card, "TENSOR", 2, 8) and offered(card, "TENSOR", 2, 8, True)
    assert offered(card, "TENSOR", 4, 4) and not offered(card, "TENSOR", 4, 4, True)
    assert not offered(card, "TENSOR", 2, 4) and not offered(card, "TENSOR", 2, 1)
    assert not offered(card, "FMA", 4, 4) and not offered(card, "TENSOR3", 4, 4)
    for capability in (75, 80, 89, 100, 120):
        assert not offered(EmulatedDevice(capability), "TENSOR", 2, 8)
    card.architecture = "compute_90"
    assert not offered(card, "TENSOR", 2, 8)


def test_a_large_product_gets_warpgroups_by_rule() -> None:
    card = EmulatedDevice(90)
    card.multiprocessors = 132
    table = tiling.candidates(card, "TENSOR", 2, 8)
    assert tiling.choose(card, table, 200704, 256, 1, splits=False).wgmma
    assert tiling.choose(card, table, 50176, 512, 1, splits=False).wgmma
