"""Convolution and its gradients on the emulated device, checker on, against the reference."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minidl
from minidl import nn
from minidl.kernels.cuda import tiling
from minidl.kernels.cuda.conv import phases
from minidl.kernels.cuda.families import Families
from minidl.kernels.cuda.tiling import Tiling
from minidl.kernels.emulator import EmulatedDevice
from minidl.nn import functional
from tests.kernels.cuda.on_device import (
    BF16,
    F16,
    F32,
    REFERENCE,
    TOLERANCE,
    agree,
    backend,
    device,
    near,
    normal,
    wide,
)
from tests.kernels.emulator.needs import emulator
from tests.target import needs_device

pytestmark = needs_device()

SMALL, WIDE = Tiling(32, 32, 16, 16, 3, 1), Tiling(64, 64, 32, 32, 3, 1)
"""Small tiles: shapes with several blocks are quick then. What the back end would choose has tests of its own."""
ONE = ((1, 1), (1, 1))
NONE = ((0, 0), (0, 0))

# x (N, H, W, C), w (O, KH, KW, C/groups), stride, pad, dilation, groups
CASES: dict[str, tuple[Any, ...]] = {
    "3x3": ((1, 7, 6, 24), (40, 3, 3, 24), (1, 1), ONE, (1, 1), 1),
    "3x3 stride 2": ((2, 9, 7, 16), (24, 3, 3, 16), (2, 2), ONE, (1, 1), 1),
    "1x1 stride 2": ((2, 5, 6, 8), (33, 1, 1, 8), (2, 2), NONE, (1, 1), 1),
    "one pixel": ((3, 1, 1, 5), (7, 1, 1, 5), (1, 1), NONE, (1, 1), 1),
    "stem": ((1, 13, 12, 3), (8, 7, 7, 3), (2, 2), ((3, 3), (3, 3)), (1, 1), 1),
    "uneven": ((2, 8, 9, 8), (12, 2, 3, 8), (3, 2), ((2, 0), (1, 3)), (2, 1), 1),
    "stride past the kernel": ((1, 11, 12, 8), (16, 2, 2, 8), (5, 4), ONE, (1, 1), 1),
    "dilation shares a factor with the stride": ((1, 12, 9, 8), (8, 3, 3, 8), (4, 3), ONE, (2, 3), 1),
    "groups": ((2, 5, 6, 16), (24, 3, 3, 8), (1, 1), ONE, (1, 1), 2),
    "ragged groups": ((2, 5, 6, 6), (4, 3, 3, 3), (1, 2), ONE, (1, 1), 2),
    "seven channels": ((1, 4, 5, 7), (6, 3, 3, 7), (1, 1), ONE, (1, 1), 1),
    "two channels": ((1, 4, 5, 2), (6, 3, 3, 2), (1, 1), ONE, (1, 1), 1),
    "depthwise": ((2, 7, 6, 12), (12, 3, 3, 1), (1, 1), ONE, (1, 1), 12),
    "ragged depthwise, uneven": ((1, 9, 8, 5), (5, 3, 2, 1), (2, 3), ((2, 0), (1, 1)), (2, 1), 5),
    "multiplier": ((1, 5, 5, 3), (6, 3, 2, 1), (1, 1), ((1, 1), (0, 0)), (1, 1), 3),
}
FEW = ("3x3 stride 2", "stem", "ragged groups")
HALF = (*FEW, "depthwise")


def run(case: str, dtype: Any, tolerance: float | None = None) -> None:
    x_shape, w_shape, stride, pad, dilation, groups = CASES[case]
    x, w, bias = normal(0, dtype, *x_shape), normal(1, dtype, *w_shape), normal(2, dtype, w_shape[0])
    options = (stride, pad, dilation, groups)
    with tiling.force(SMALL):
        y = agree("conv2d", dtype, x, w, None, *options, tolerance=tolerance)
        rest = normal(3, dtype, *y.shape)
        agree("conv2d", dtype, x, w, bias, *options, relu=True, residual=rest, tolerance=tolerance)
        gy = normal(4, dtype, *y.shape)
        agree("conv2d_input_grad", dtype, gy, w, x_shape[1:3], *options, tolerance=tolerance)
        row, rest = normal(5, dtype, w_shape[3] * groups), normal(6, dtype, *x_shape)
        after = {"bias": row, "relu": True, "residual": rest}
        agree("conv2d_input_grad", dtype, gy, w, x_shape[1:3], *options, **after, tolerance=tolerance)
    with tiling.force(WIDE if np.dtype(dtype).itemsize == 2 else SMALL):
        gw = agree("conv2d_weight_grad", dtype, gy, x, w_shape[1:3], *options, tolerance=tolerance)
    assert gw.transpose(0, 3, 1, 2).flags.c_contiguous


@pytest.mark.parametrize("case", CASES)
def test_float32_is_the_references(case: str) -> None:
    run(case, F32)


@pytest.mark.parametrize("dtype", [BF16, F16], ids=str)
@pytest.mark.parametrize("case", HALF)
def test_half_types_multiply_exactly_and_add_in_float32(case: str, dtype: Any) -> None:
    run(case, dtype)


@pytest.mark.parametrize(("precision", "tolerance"), [("tf32", 2e-3), ("tf32x3", 2e-6)])
@pytest.mark.parametrize("case", FEW)
def test_tensor_cores_multiply_float32(case: str, precision: str, tolerance: float) -> None:
    with tiling.float32_precision(precision):
        run(case, F32, tolerance)


def test_the_engine_multiplies_float32_as_it_is_told() -> None:
    x = minidl.tensor(normal(0, F32, 1, 64, 4, 4), device="emulated")
    w = minidl.tensor(normal(1, F32, 8, 64, 3, 3), device="emulated")
    with tiling.force(SMALL):
        strict = functional.conv2d(x, w).to("cpu").numpy()
        with minidl.cuda.float32_precision("tf32"):
            rounded = functional.conv2d(x, w).to("cpu").numpy()
    assert 0 < np.abs(strict - rounded).max() < 3e-3 * np.abs(strict).max()


def test_three_tf32_products_are_far_nearer_than_one() -> None:
    x, w = normal(0, F32, 1, 4, 4, 64), normal(1, F32, 8, 3, 3, 64)
    exact = backend().conv2d(x.astype(np.float64), w.astype(np.float64), None, (1, 1), ONE, (1, 1), 1)
    error = {}
    for precision in tiling.PRECISIONS:
        with tiling.float32_precision(precision), tiling.force(SMALL):
            y = backend().conv2d(x, w, None, (1, 1), ONE, (1, 1), 1)
        error[precision] = np.abs(y - exact).max()
    assert error["tf32"] > 50 * error["tf32x3"]
    assert error["tf32x3"] < 4 * error["strict"]


@emulator
@pytest.mark.parametrize("dtype", [F32, F16, BF16], ids=str)
def test_turing_has_no_asynchronous_copies_and_fewer_instructions(dtype: Any) -> None:
    old = Families(EmulatedDevice(75))
    shape, weight, stride, pad, dilation, groups = CASES["3x3 stride 2"]
    x, w, options = normal(0, dtype, *shape), normal(1, dtype, *weight), (stride, pad, dilation, groups)
    with tiling.force(WIDE):
        y = old.conv2d(x, w, None, *options)
        near(y, REFERENCE.conv2d(wide(x), wide(w), None, *options), TOLERANCE[np.dtype(dtype)])
        gy = normal(2, dtype, *y.shape)
        gw = old.conv2d_weight_grad(gy, x, weight[1:3], *options)
        expected = REFERENCE.conv2d_weight_grad(wide(gy), wide(x), weight[1:3], *options)
        near(gw, expected, TOLERANCE[np.dtype(dtype)])


def test_the_tiling_that_a_shape_gets_works() -> None:
    options = ((1, 1), ONE, (1, 1), 1)
    x, w = normal(0, BF16, 2, 9, 9, 64), normal(1, BF16, 72, 3, 3, 64)
    y = agree("conv2d", BF16, x, w, None, *options)
    agree("conv2d_weight_grad", BF16, normal(2, BF16, *y.shape), x, (3, 3), *options)


def test_the_largest_tile_works() -> None:
    x, w = normal(0, BF16, 1, 12, 12, 32), normal(1, BF16, 136, 1, 1, 32)
    with tiling.force(tiling.TILINGS["TENSOR"][0]):
        agree("conv2d", BF16, x, w, None, (1, 1), NONE, (1, 1), 1)


def test_results_do_not_depend_on_the_order_of_threads() -> None:
    x, w, gy = normal(0, F32, 2, 6, 6, 8), normal(1, F32, 8, 3, 3, 8), normal(2, F32, 2, 6, 6, 8)
    options = ((1, 1), ONE, (1, 1), 1)
    results = []
    with tiling.force(SMALL):
        for order in (0, 1, 7):
            device().order = order
            y = backend().conv2d(x, w, None, *options)
            results.append((y.tobytes(), backend().conv2d_weight_grad(gy, x, (3, 3), *options).tobytes()))
    device().order = 0
    assert len(set(results)) == 1


def test_nan_stays_nan_through_relu() -> None:
    x, w = normal(0, F32, 1, 2, 2, 4), normal(1, F32, 4, 1, 1, 4)
    x[0, 1, 0, 2] = np.nan
    with tiling.force(SMALL):
        y = backend().conv2d(x, w, None, (1, 1), NONE, (1, 1), 1, relu=True)
    assert np.isnan(y[0, 1, 0]).all() and not np.isnan(y[0, 0]).any()


def test_strided_and_unaligned_inputs_are_taken() -> None:
    x, w = normal(0, F32, 1, 8, 2, 5, 5), normal(1, F32, 8, 8, 3, 3)
    view, weight = x[:, :, 1].transpose(0, 2, 3, 1), w.transpose(0, 2, 3, 1)
    with tiling.force(SMALL):
        agree("conv2d", F32, view, weight, None, (1, 1), ONE, (1, 1), 1)
    whole = normal(2, F32, 1 + 5 * 5 * 8)
    with tiling.force(SMALL):
        agree("conv2d", F32, whole[1:].reshape(1, 5, 5, 8), weight, None, (1, 1), ONE, (1, 1), 1)


def test_what_no_kernel_takes_is_the_references() -> None:
    run_options = ((1, 1), ONE, (1, 1), 1)
    x, w = normal(0, np.float64, 1, 4, 4, 3), normal(1, np.float64, 2, 3, 3, 3)
    assert backend().conv2d(x, w, None, *run_options).dtype == np.float64
    empty = backend().conv2d(normal(0, F32, 0, 4, 4, 3), normal(1, F32, 2, 3, 3, 3), None, *run_options)
    assert empty.shape == (0, 4, 4, 2)
    gw = backend().conv2d_weight_grad(
        normal(0, F32, 0, 4, 4, 2), normal(0, F32, 0, 4, 4, 3), (3, 3), *run_options
    )
    assert not gw.any()


def test_a_kept_weight_is_packed_once() -> None:
    x, w = normal(0, F32, 1, 4, 4, 8), normal(1, F32, 8, 8, 3, 3).transpose(0, 2, 3, 1)
    kept: dict[Any, Any] = {}
    with tiling.force(SMALL):
        first = backend().conv2d(x, w, None, (1, 1), ONE, (1, 1), 1, kept=kept)
        before = device().launches
        again = backend().conv2d(x, w, None, (1, 1), ONE, (1, 1), 1, kept=kept)
    assert device().launches == before + 1
    np.testing.assert_array_equal(first, again)


def test_a_kept_weight_is_rounded_only_where_it_is_asked_for() -> None:
    x, w = normal(0, F32, 1, 4, 4, 8), normal(1, F32, 8, 8, 3, 3).transpose(0, 2, 3, 1)
    kept: dict[Any, Any] = {}
    with tiling.force(SMALL):
        with tiling.float32_precision("tf32"):
            rounded = backend().conv2d(x, w, None, (1, 1), ONE, (1, 1), 1, kept=kept)
        exact = agree("conv2d", F32, x, w, None, (1, 1), ONE, (1, 1), 1)
        np.testing.assert_array_equal(backend().conv2d(x, w, None, (1, 1), ONE, (1, 1), 1, kept=kept), exact)
    assert (rounded != exact).any()


def test_wrong_shapes_are_refused() -> None:
    x, w = normal(0, F32, 1, 4, 4, 8), normal(1, F32, 8, 3, 3, 8)
    with pytest.raises(ValueError, match="conv2d: weight expects"):
        backend().conv2d(x[..., :4], w, None, (1, 1), ONE, (1, 1), 1)
    with pytest.raises(ValueError, match="conv2d: bias expects shape"):
        backend().conv2d(x, w, normal(2, F32, 7), (1, 1), ONE, (1, 1), 1)
    with pytest.raises(ValueError, match="conv2d_input_grad: gy expects shape"):
        backend().conv2d_input_grad(x, w, (9, 9), (1, 1), ONE, (1, 1), 1)
    with (
        pytest.raises(ValueError, match="float32_precision: name expects one of"),
        tiling.float32_precision("fast"),
    ):
        pass


@given(data=st.data())
@settings(max_examples=25, deadline=None, derandomize=True)
def test_any_shape_is_convolved(data: st.DataObject) -> None:
    def pair(low: int, high: int) -> tuple[int, int]:
        return data.draw(st.tuples(st.integers(low, high), st.integers(low, high)))

    kernel, stride, dilation, groups = (
        pair(1, 4),
        pair(1, 4),
        pair(1, 3),
        data.draw(st.sampled_from([1, 1, 1, 2])),
    )
    pad = (pair(0, 3), pair(0, 3))
    reach = [dilation[a] * (kernel[a] - 1) + 1 - sum(pad[a]) for a in (0, 1)]
    h, w = (max(reach[a], 1) + data.draw(st.integers(0, 7)) for a in (0, 1))
    depth, per = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 9))
    x, weight = normal(0, F32, 2, h, w, depth * groups), normal(1, F32, per * groups, *kernel, depth)
    options = (stride, pad, dilation, groups)
    with tiling.force(SMALL):
        y = agree("conv2d", F32, x, weight, None, *options)
        gy = normal(2, F32, *y.shape)
        agree("conv2d_input_grad", F32, gy, weight, (h, w), *options)
        agree("conv2d_weight_grad", F32, gy, x, kernel, *options)


def test_phases_cover_every_pixel_and_every_tap_once() -> None:
    for stride, dilation, pad, kernel in (
        (1, 1, 1, 3),
        (2, 1, 3, 7),
        (4, 2, 1, 3),
        (3, 3, 0, 2),
        (5, 1, 1, 2),
    ):
        size = 23
        out = (size + 2 * pad - dilation * (kernel - 1) - 1) // stride + 1
        pairs = set()
        for phase in phases(size, out, kernel, stride, pad, dilation):
            for i in range(phase.count):
                for j in range(phase.axis.taps):
                    source = phase.axis.step * i + phase.axis.first + phase.axis.tap * j
                    tap = phase.taps[0] + j * phase.taps[1]
                    pixel = phase.phase + stride * i
                    assert source * stride == pixel + pad - tap * dilation and tap < kernel
                    if 0 <= source < out:
                        pairs.add((pixel, source))
        wanted = {
            (s * stride - pad + k * dilation, s)
            for s in range(out)
            for k in range(kernel)
            if 0 <= s * stride - pad + k * dilation < size
        }
        assert pairs == wanted


def test_tolerances_are_one_rounding() -> None:
    assert TOLERANCE[F16] >= 2**-11 and TOLERANCE[BF16] >= 2**-8


@pytest.mark.parametrize(
    "case", ["3x3 stride 2", "1x1 stride 2", "one pixel", "ragged groups", "seven channels"]
)
def test_statistics_of_the_result_come_with_it(case: str) -> None:
    x_shape, w_shape, *place = CASES[case]
    dtypes = (F32, BF16) if case == "3x3 stride 2" else (F32,)
    for dtype in dtypes:
        x, w, bias = normal(0, dtype, *x_shape), normal(1, dtype, *w_shape), normal(2, dtype, w_shape[0])
        for tile in (SMALL, WIDE):
            found: list[Any] = []
            with tiling.force(tile):
                y = backend().conv2d(x, w, bias, *place, statistics=found)
            mean, var = found
            expected = REFERENCE.batch_norm_stats(wide(y).astype(np.float64))
            near(mean, expected[0], 1e-6)
            near(var, expected[1], 1e-5)


def test_statistics_keep_their_digits_where_the_mean_dwarfs_the_deviation() -> None:
    x, w = normal(0, F32, 3, 9, 8, 8), normal(1, F32, 12, 3, 3, 8)
    found: list[Any] = []
    with tiling.force(SMALL):
        y = backend().conv2d(x, w, np.full(12, 3e4, F32), (1, 1), ONE, (1, 1), 1, statistics=found)
    mean, var = REFERENCE.batch_norm_stats(y.astype(np.float64))
    np.testing.assert_allclose(found[0], mean, rtol=3e-7)
    np.testing.assert_allclose(found[1], var, rtol=1e-4)


def test_kernels_that_compute_no_statistics_leave_them_to_others() -> None:
    x_shape, w_shape, *place = CASES["depthwise"]
    found: list[Any] = []
    backend().conv2d(normal(0, F32, *x_shape), normal(1, F32, *w_shape), None, *place, statistics=found)
    assert found == []


def test_a_batch_norm_in_training_takes_the_statistics_of_the_convolution_before_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.bn = nn.Conv2d(4, 8, 3, padding=1), nn.BatchNorm2d(8)

        def forward(self, x: minidl.Tensor) -> minidl.Tensor:
            return functional.relu(self.bn(self.conv(x)))

    minidl.manual_seed(0)
    block = Block()
    x = normal(0, F32, 2, 4, 6, 5)
    results = []
    # a pass of its own over the result would end the test
    monkeypatch.setattr(Families, "batch_norm_stats", None)
    for place in ("cpu", "emulated"):
        moved = copy.deepcopy(block).to(place)
        image = minidl.tensor(x, device=place, requires_grad=True)
        y = moved(image)
        y.square().sum().backward()
        assert image.grad is not None and moved.bn.running_var is not None
        results.append([t.detach().to("cpu").numpy() for t in (y, image.grad, moved.bn.running_var)])
    for a, b in zip(*results, strict=True):
        near(b, a, 2e-5)
