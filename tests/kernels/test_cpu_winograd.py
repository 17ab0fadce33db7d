"""Winograd's convolution beside the definition in float64, its choice, and what it may not depend on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from minidl import kernels
from minidl.kernels.cpu import CPUBackend, input_grad, runtime, winograd, winograd_weight
from minidl.kernels.cpu import conv as conv_module
from minidl.kernels.cpu.conv import forward_of
from minidl.kernels.cpu.winograd_family import cut_forward
from minidl.kernels.reference import ReferenceBackend
from tests.kernels.cases import Array, assert_near, conv
from tests.kernels.threads import assert_same_for_any_split

CPU, REFERENCE = CPUBackend(), ReferenceBackend()
ACCURACY = 5e-6  # largest difference over largest value; sums of up to 9 * 512 products

SHAPES = {
    "whole tiles": conv((2, 8, 12, 16), (32, 3, 3, 16), pad=1),
    "rows of seven": conv((3, 7, 7, 48), (64, 3, 3, 48), pad=1),
    "no padding": conv((2, 10, 9, 32), (16, 3, 3, 32)),
    "one output pixel": conv((1, 3, 3, 16), (16, 3, 3, 16)),
    "one row": conv((2, 1, 30, 16), (32, 3, 3, 16), pad=1),
    "uneven padding": conv((1, 13, 6, 32), (48, 3, 3, 32), pad=((2, 0), (1, 2))),
    "more padding than the window reaches": conv((1, 5, 6, 16), (16, 3, 3, 16), pad=((4, 3), (5, 4))),
    "many channels": conv((2, 6, 5, 512), (80, 3, 3, 512), pad=1),
    "many outputs": conv((2, 6, 5, 32), (208, 3, 3, 32), pad=1),
    "many blocks": conv((9, 17, 18, 16), (16, 3, 3, 16), pad=1),
    "strided: whole tiles": conv((2, 16, 8, 16), (32, 3, 3, 16), stride=(2, 2), pad=1),
    "strided: rows of seven": conv((3, 14, 14, 48), (64, 3, 3, 48), stride=(2, 2), pad=1),
    "strided: no padding": conv((2, 9, 19, 32), (16, 3, 3, 32), stride=(2, 2)),
    "strided: last row and column unread": conv((1, 10, 18, 16), (32, 3, 3, 16), stride=(2, 2)),
    "strided: one output pixel": conv((1, 3, 3, 16), (16, 3, 3, 16), stride=(2, 2)),
    "strided: one pixel": conv((2, 1, 1, 16), (16, 3, 3, 16), stride=(2, 2), pad=1),
    "strided: uneven padding": conv((1, 13, 6, 32), (48, 3, 3, 32), stride=(2, 2), pad=((2, 0), (1, 2))),
    "strided: more padding": conv((1, 5, 6, 16), (16, 3, 3, 16), stride=(2, 2), pad=((4, 3), (5, 4))),
    "strided: many channels": conv((2, 6, 5, 512), (80, 3, 3, 512), stride=(2, 2), pad=1),
    "strided: many outputs": conv((2, 6, 5, 32), (208, 3, 3, 32), stride=(2, 2), pad=1),
    "strided: many panels of sums": conv((6, 34, 33, 48), (112, 3, 3, 48), stride=(2, 2), pad=1),
    "strided: many blocks": conv((9, 33, 34, 16), (16, 3, 3, 16), stride=(2, 2), pad=1),
}


def operands(case: dict[str, Any]) -> tuple[list[Array], tuple[Any, ...]]:
    """x, w, bias, residual, gy of a case in float32, and its options."""
    rng = np.random.default_rng(sum(case["x"]) + 1000 * sum(case["w"]))
    options = (case["stride"], case["pad"], case["dilation"], case["groups"])
    x, w = (rng.normal(size=case[name]).astype(np.float32) for name in ("x", "w"))
    shape = REFERENCE.conv2d(x, w, None, *options).shape
    rest = [rng.normal(size=size).astype(np.float32) for size in (len(w), shape, shape)]
    return [x, w, *rest], options


def bias_of(x: Array) -> Array:
    """A number for each channel of x."""
    return np.linspace(-1, 1, x.shape[3], dtype=np.float32)


def double(*arrays: Array) -> list[Array]:
    return [a.astype(np.float64) for a in arrays]


@pytest.fixture(autouse=True)
def _forced() -> Any:
    with kernels.conv_algorithm("winograd"):
        yield


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of Winograd's functions, as they are called."""
    made: list[str] = []

    def count(module: Any, real: Any) -> None:
        def counted(*args: Any) -> Any:
            made.append(real.__name__)
            return real(*args)

        monkeypatch.setattr(module, real.__name__, counted)

    for module in (conv_module, input_grad):
        count(module, winograd.prepare_winograd)
    count(conv_module, winograd_weight.winograd_weight_gradient)
    return made


@pytest.mark.parametrize("name", SHAPES)
def test_forward_equals_the_reference(name: str, calls: list[str]) -> None:
    (x, w, bias, residual, _), options = operands(SHAPES[name])
    assert_near(
        CPU.conv2d(x, w, None, *options), REFERENCE.conv2d(*double(x, w), None, *options), ACCURACY, "float32"
    )
    y = CPU.conv2d(x, w, bias, *options, relu=True, residual=residual)
    wide = REFERENCE.conv2d(*double(x, w, bias), *options, relu=True, residual=residual.astype(np.float64))
    assert_near(y, wide, ACCURACY, "float32")
    assert calls == ["prepare_winograd"] * 2 and y.flags.c_contiguous


@pytest.mark.parametrize("name", SHAPES)
def test_the_input_gradient_equals_the_reference(name: str, calls: list[str]) -> None:
    (x, w, _, _, gy), options = operands(SHAPES[name])
    gx = CPU.conv2d_input_grad(gy, w, x.shape[1:3], *options)
    expected = REFERENCE.conv2d_input_grad(*double(gy, w), x.shape[1:3], *options)
    assert_near(gx, expected, ACCURACY, "float32")
    assert calls == ["prepare_winograd"] and gx.flags.c_contiguous
    bias, residual = bias_of(x), x[::-1].copy()
    gx = CPU.conv2d_input_grad(gy, w, x.shape[1:3], *options, bias=bias, relu=True, residual=residual)
    assert_near(gx, np.maximum(expected + bias + residual, 0), ACCURACY, "float32")


@pytest.mark.parametrize("name", SHAPES)
def test_the_weight_gradient_equals_the_reference(name: str, calls: list[str]) -> None:
    (x, _, _, _, gy), options = operands(SHAPES[name])
    gw = CPU.conv2d_weight_grad(gy, x, (3, 3), *options)
    expected = REFERENCE.conv2d_weight_grad(*double(gy, x), (3, 3), *options)
    assert_near(gw, expected, ACCURACY, "float32")
    assert calls == ["winograd_weight_gradient"] and gw.transpose(0, 3, 1, 2).flags.c_contiguous


@pytest.mark.parametrize(("stride", "worse", "largest"), [(1, 5, 4e-6), (2, 3, 2e-6)])
def test_the_error_is_at_most_a_few_times_that_of_the_definition(
    stride: int, worse: float, largest: float
) -> None:
    size = 16 * stride
    case = conv((4, size, size, 128), (64, 3, 3, 128), stride=(stride, stride), pad=1)
    (x, w, _, _, gy), options = operands(case)

    def both() -> list[Array]:
        gradient = CPU.conv2d_input_grad(gy, w, x.shape[1:3], *options)
        return [CPU.conv2d(x, w, None, *options), gradient]

    wide = double(x, w, gy)
    exact = [REFERENCE.conv2d(*wide[:2], None, *options)]
    exact.append(REFERENCE.conv2d_input_grad(wide[2], wide[1], x.shape[1:3], *options))
    fast = both()
    with kernels.conv_algorithm("direct"):
        plain = both()
    for a, b, e in zip(fast, plain, exact, strict=True):
        assert np.sqrt(((a - e) ** 2).mean()) < worse * np.sqrt(((b - e) ** 2).mean())
        assert np.abs(a - e).max() < largest * np.abs(e).max()


@pytest.mark.parametrize("name", ["rows of seven", "many blocks", "strided: many blocks", "many outputs"])
def test_results_have_the_same_bits_for_any_split(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    (x, w, bias, _, gy), options = operands(SHAPES[name])

    def run() -> tuple[Array, ...]:
        forward, gx = CPU.conv2d(x, w, bias, *options), CPU.conv2d_input_grad(gy, w, x.shape[1:3], *options)
        return forward, gx, CPU.conv2d_weight_grad(gy, x, (3, 3), *options)

    monkeypatch.setattr(winograd_weight, "SLICE_TILES", 8)
    monkeypatch.setattr(winograd_weight, "SLICE_BYTES", 1)
    winograd_weight.plan_winograd_weight.cache_clear()
    for module in (conv_module, input_grad, winograd, winograd_weight):
        monkeypatch.setattr(module, "get_num_threads", lambda: runtime.get_num_threads())
    assert_same_for_any_split(monkeypatch, run)
    assert_near(run()[2], REFERENCE.conv2d_weight_grad(*double(gy, x), (3, 3), *options), ACCURACY, "float32")
    winograd_weight.plan_winograd_weight.cache_clear()


@pytest.mark.parametrize("name", ["many blocks", "strided: many blocks"])
def test_weights_transformed_before_or_in_the_kernel_give_the_same_bits(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (x, w, bias, _, _), options = operands(SHAPES[name])
    results = []
    for large in (0, 1 << 40):
        monkeypatch.setattr(winograd, "LARGE", large)
        winograd.plan_winograd.cache_clear()
        results.append(CPU.conv2d(x, w, bias, *options))
    winograd.plan_winograd.cache_clear()
    np.testing.assert_array_equal(*results)


@pytest.mark.parametrize("name", ["many blocks", "strided: many blocks"])
def test_kept_weights_give_the_same_bits_and_are_made_once(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (x, w, bias, _, _), options = operands(SHAPES[name])
    expected = CPU.conv2d(x, w, bias, *options)
    kept: dict[Any, Any] = {}
    np.testing.assert_array_equal(CPU.conv2d(x, w, bias, *options, kept=kept), expected)
    monkeypatch.setattr(winograd, "pack", None)
    np.testing.assert_array_equal(CPU.conv2d(x, w, bias, *options, kept=kept), expected)
    assert len(kept) == 2, "the transformed weights, and the call that reads them"


def test_a_nan_stays_in_the_tile_of_an_input_gradient() -> None:
    (x, w, _, _, gy), options = operands(SHAPES["strided: rows of seven"])
    gy[1, 5, 5, 3] = np.nan
    gx = CPU.conv2d_input_grad(gy, w, x.shape[1:3], *options)
    assert np.isnan(gx[1, 9:12, 9:12]).all()
    assert not np.isnan(gx[0]).any() and not np.isnan(gx[1, :8, :8]).any()


def test_a_nan_stays_in_its_tile() -> None:
    (x, w, _, _, _), options = operands(SHAPES["rows of seven"])
    x[1, 5, 5, 3] = np.nan
    y = CPU.conv2d(x, w, None, *options, relu=True)
    assert np.isnan(y[1, 4:, 4:]).all()
    assert not np.isnan(y[0]).any() and not np.isnan(y[2]).any() and not np.isnan(y[1, :4, :4]).any()


OTHERS = {
    "other windows": conv((2, 9, 9, 16), (16, 5, 5, 16), pad=2),
    "strides": conv((2, 9, 9, 16), (16, 3, 3, 16), stride=(2, 1), pad=1),
    "dilations": conv((2, 9, 9, 16), (16, 3, 3, 16), pad=1, dilation=(1, 2)),
    "larger strides": conv((2, 9, 9, 16), (16, 3, 3, 16), stride=(3, 3), pad=1),
    "strides of other windows": conv((2, 9, 9, 16), (16, 5, 5, 16), stride=(2, 2), pad=2),
    "strides and dilations alike": conv((2, 9, 9, 16), (16, 3, 3, 16), stride=(2, 2), pad=2, dilation=(2, 2)),
    "groups": conv((2, 9, 9, 32), (32, 3, 3, 16), pad=1, groups=2),
    "depthwise": conv((2, 9, 9, 32), (32, 3, 3, 1), pad=1, groups=32),
    "odd channels": conv((2, 9, 9, 19), (16, 3, 3, 19), pad=1),
    "odd outputs": conv((2, 9, 9, 16), (19, 3, 3, 16), pad=1),
}


@pytest.mark.parametrize("name", OTHERS)
def test_where_it_does_not_apply_the_definition_is_used(name: str, calls: list[str]) -> None:
    (x, w, _, _, gy), options = operands(OTHERS[name])
    y, expected = CPU.conv2d(x, w, None, *options), REFERENCE.conv2d(x, w, None, *options)
    assert_near(y, expected, 4e-6, "float32")
    gx = CPU.conv2d_input_grad(gy, w, x.shape[1:3], *options)
    assert_near(gx, REFERENCE.conv2d_input_grad(gy, w, x.shape[1:3], *options), 4e-6, "float32")
    gw, kernel_hw = CPU.conv2d_weight_grad(gy, x, w.shape[1:3], *options), w.shape[1:3]
    assert_near(gw, REFERENCE.conv2d_weight_grad(gy, x, kernel_hw, *options), 4e-6, "float32")
    assert not calls


def test_float64_takes_the_definition(calls: list[str]) -> None:
    (x, w, _, _, gy), options = operands(SHAPES["whole tiles"])
    CPU.conv2d(*double(x, w), None, *options)
    CPU.conv2d_weight_grad(*double(gy, x), (3, 3), *options)
    assert not calls


def test_direct_is_direct(calls: list[str]) -> None:
    (x, w, _, _, gy), options = operands(SHAPES["many blocks"])
    with kernels.conv_algorithm("direct"):
        CPU.conv2d(x, w, None, *options)
        CPU.conv2d_input_grad(gy, w, x.shape[1:3], *options)
        CPU.conv2d_weight_grad(gy, x, (3, 3), *options)
    assert not calls


@pytest.mark.parametrize(
    ("size", "channels", "images", "stride", "faster"),
    [
        (56, 64, 16, 1, True),
        (7, 512, 16, 1, True),
        (32, 16, 128, 1, True),
        (7, 512, 1, 1, False),
        (2, 64, 4, 1, False),
        (56, 128, 16, 2, True),
        (16, 64, 128, 2, True),
        (14, 512, 1, 2, False),
        (2, 64, 4, 2, False),
    ],
)
def test_auto_takes_what_is_estimated_faster(
    size: int, channels: int, images: int, stride: int, faster: bool
) -> None:
    shapes = ((images, size, size, channels), (channels, 3, 3, channels))
    call = forward_of("conv2d", *shapes, (stride, stride), ((1, 1), (1, 1)), (1, 1), 1, 4)
    cut = cut_forward(call.source, call.window, channels)
    assert cut and winograd.takes_winograd(cut, "auto") == faster
    if stride == 1:
        assert winograd_weight.takes_winograd_weight(cut, "auto") == faster


@pytest.mark.parametrize(("images", "taken"), [(1, False), (2, True)])
def test_the_prediction_of_one_image_compiles_no_kernel_of_stride_2(images: int, taken: bool) -> None:
    shapes = ((images, 56, 56, 128), (128, 3, 3, 128))
    call = forward_of("conv2d", *shapes, (2, 2), ((1, 1), (1, 1)), (1, 1), 1, 4)
    cut = cut_forward(call.source, call.window, 128)
    assert cut and winograd.takes_winograd(cut, "auto", kept=True) == taken


@pytest.mark.parametrize(("size", "outputs", "faster"), [(16, 64, True), (8, 128, True), (28, 256, False)])
def test_auto_takes_the_weight_gradient_of_stride_2_where_its_sums_stay_in_the_caches(
    size: int, outputs: int, faster: bool
) -> None:
    channels = outputs // 2
    shapes = ((128, size, size, channels), (outputs, 3, 3, channels))
    call = forward_of("conv2d", *shapes, (2, 2), ((1, 1), (1, 1)), (1, 1), 1, 4)
    cut = cut_forward(call.source, call.window, outputs)
    assert cut and winograd_weight.takes_winograd_weight(cut, "auto") == faster


def test_the_environment_sets_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    token = kernels._algorithm.set("")
    read = kernels._default_conv_algorithm  # once in a process
    try:
        monkeypatch.delenv("MINIDL_CONV_ALGORITHM", raising=False)
        read.cache_clear()
        assert kernels.get_conv_algorithm() == "auto"
        monkeypatch.setenv("MINIDL_CONV_ALGORITHM", "direct")
        read.cache_clear()
        assert kernels.get_conv_algorithm() == "direct"
        with kernels.conv_algorithm("winograd"):
            assert kernels.get_conv_algorithm() == "winograd"
        monkeypatch.setenv("MINIDL_CONV_ALGORITHM", "fast")
        read.cache_clear()
        with pytest.raises(
            ValueError, match="MINIDL_CONV_ALGORITHM expects one of auto, direct, winograd, got 'fast'"
        ):
            kernels.get_conv_algorithm()
    finally:
        kernels._algorithm.reset(token)
        read.cache_clear()


def test_an_unknown_algorithm_raises() -> None:
    with (
        pytest.raises(ValueError, match="name expects one of auto, direct, winograd, got 'fft'"),
        kernels.conv_algorithm("fft"),
    ):
        pass
