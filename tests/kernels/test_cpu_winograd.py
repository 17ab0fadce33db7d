"""Winograd's convolution beside the definition in float64, its choice, and what it may not depend on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from minidl import kernels
from minidl.kernels.cpu import CPUBackend, runtime, winograd, winograd_blocks, winograd_tiles, winograd_weight
from minidl.kernels.cpu import conv as conv_module
from minidl.kernels.cpu.conv import forward_of
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

    def count(name: str, real: Any) -> None:
        def counted(*args: Any) -> Any:
            made.append(name)
            return real(*args)

        monkeypatch.setattr(conv_module, name, counted)

    count("prepare_winograd", winograd.prepare_winograd)
    count("winograd_weight_gradient", winograd_weight.winograd_weight_gradient)
    return made


def test_the_matrices_give_the_convolution_of_a_line() -> None:
    b_t, g, a_t = winograd_tiles.matrices()
    rng = np.random.default_rng(0)
    for _ in range(5):
        d, w = rng.integers(-9, 9, 6), rng.integers(-9, 9, 3)
        np.testing.assert_allclose(a_t @ ((g @ w) * (b_t @ d)), np.correlate(d, w, "valid"), atol=1e-12)


def test_the_input_and_output_matrices_are_exact_in_float32() -> None:
    b_t, _, a_t = winograd_tiles.matrices()
    for matrix in (b_t, a_t):
        np.testing.assert_array_equal(matrix.astype(np.float32), matrix)


def test_the_transforms_apply_their_matrices() -> None:
    b_t, g, a_t = winograd_tiles.matrices()
    rng = np.random.default_rng(1)
    lanes = winograd_tiles.LANES
    scratch = np.zeros(winograd_tiles.SCRATCH, np.float32)
    d = rng.normal(size=(6, 6, lanes)).astype(np.float32)
    v = np.zeros((6, 6, lanes), np.float32)
    image = winograd_blocks.Picture(6, 6, lanes, 0, 0)
    one, packed = winograd_blocks.Tiles(1, 1, 1), winograd_blocks.by_lanes(1, lanes)
    room = (scratch, 0, v.reshape(-1), 0, packed)
    winograd_blocks.transform_inputs(one, image, d.reshape(-1), 0, 1, 0, lanes, *room)
    np.testing.assert_allclose(v, np.einsum("ik,klc,jl->ijc", b_t, d, b_t), atol=1e-5)
    w = rng.normal(size=(3, 3, lanes)).astype(np.float32)
    winograd_tiles.transform_weight(w.reshape(-1), 0, 3 * lanes, lanes, scratch, 0, v.reshape(-1), 0, lanes)
    np.testing.assert_allclose(v, np.einsum("ik,klc,jl->ijc", g, w, g), atol=1e-5)
    y = np.zeros((4, 4, lanes), np.float32)
    pixels = winograd_blocks.Picture(4, 4, lanes, 0, 0)
    rest = (np.zeros(lanes, np.float32), y.reshape(-1), False, np.float32(-np.inf), y.reshape(-1), False)
    winograd_blocks.finish_block(one, pixels, d.reshape(-1), 0, packed, 0, 1, 0, lanes, scratch, 0, *rest)
    np.testing.assert_allclose(y, np.einsum("ik,klc,jl->ijc", a_t, d, a_t), atol=2e-5)
    winograd_blocks.transform_gradients(one, pixels, y.reshape(-1), 0, 1, 0, lanes, *room)
    np.testing.assert_allclose(v, np.einsum("ki,klc,lj->ijc", a_t, y, a_t), rtol=1e-4, atol=1e-3)
    winograd_tiles.weight_gradient_back(
        d.reshape(-1), 0, 6 * lanes, lanes, scratch, 0, w.reshape(-1), 0, lanes
    )
    np.testing.assert_allclose(w, np.einsum("ki,klc,lj->ijc", g, d, g), atol=2e-5)


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


def test_the_error_is_at_most_a_few_times_that_of_the_definition() -> None:
    (x, w, _, _, _), options = operands(conv((4, 16, 16, 128), (64, 3, 3, 128), pad=1))
    exact = REFERENCE.conv2d(*double(x, w), None, *options)
    fast = CPU.conv2d(x, w, None, *options) - exact
    with kernels.conv_algorithm("direct"):
        plain = CPU.conv2d(x, w, None, *options) - exact
    assert np.sqrt((fast**2).mean()) < 5 * np.sqrt((plain**2).mean())
    assert np.abs(fast).max() < 4e-6 * np.abs(exact).max()


@pytest.mark.parametrize("name", ["rows of seven", "many blocks", "many outputs"])
def test_results_have_the_same_bits_for_any_split(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    (x, w, bias, _, gy), options = operands(SHAPES[name])

    def run() -> tuple[Array, ...]:
        forward, gx = CPU.conv2d(x, w, bias, *options), CPU.conv2d_input_grad(gy, w, x.shape[1:3], *options)
        return forward, gx, CPU.conv2d_weight_grad(gy, x, (3, 3), *options)

    monkeypatch.setattr(winograd_weight, "SLICE_TILES", 8)
    monkeypatch.setattr(winograd_weight, "SLICE_BYTES", 1)
    winograd_weight.plan_winograd_weight.cache_clear()
    for module in (conv_module, winograd, winograd_weight):
        monkeypatch.setattr(module, "get_num_threads", lambda: runtime.get_num_threads())
    assert_same_for_any_split(monkeypatch, run)
    assert_near(run()[2], REFERENCE.conv2d_weight_grad(*double(gy, x), (3, 3), *options), ACCURACY, "float32")
    winograd_weight.plan_winograd_weight.cache_clear()


def test_weights_transformed_before_or_in_the_kernel_give_the_same_bits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (x, w, bias, _, _), options = operands(SHAPES["many blocks"])
    results = []
    for large in (0, 1 << 40):
        monkeypatch.setattr(winograd, "LARGE", large)
        winograd.plan_winograd.cache_clear()
        results.append(CPU.conv2d(x, w, bias, *options))
    winograd.plan_winograd.cache_clear()
    np.testing.assert_array_equal(*results)


def test_kept_weights_give_the_same_bits_and_are_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    (x, w, bias, _, _), options = operands(SHAPES["many blocks"])
    expected = CPU.conv2d(x, w, bias, *options)
    kept: dict[Any, Any] = {}
    np.testing.assert_array_equal(CPU.conv2d(x, w, bias, *options, kept=kept), expected)
    monkeypatch.setattr(winograd, "pack", None)
    np.testing.assert_array_equal(CPU.conv2d(x, w, bias, *options, kept=kept), expected)
    assert len(kept) == 2, "the transformed weights, and the call that reads them"


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
    ("size", "channels", "images", "faster"),
    [(56, 64, 16, True), (7, 512, 16, True), (32, 16, 128, True), (7, 512, 1, False), (2, 64, 4, False)],
)
def test_auto_takes_what_is_estimated_faster(size: int, channels: int, images: int, faster: bool) -> None:
    shapes = ((images, size, size, channels), (channels, 3, 3, channels))
    call = forward_of("conv2d", *shapes, (1, 1), ((1, 1), (1, 1)), (1, 1), 1, 4)
    assert winograd.takes_winograd(call.source, call.window, channels, "auto") == faster
    taken = winograd_weight.takes_winograd_weight(call.source, call.window, channels, "auto")
    assert taken == faster


def test_the_environment_sets_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    token = kernels._algorithm.set("")
    try:
        assert kernels.get_conv_algorithm() == "auto"
        monkeypatch.setenv("MINIDL_CONV_ALGORITHM", "direct")
        assert kernels.get_conv_algorithm() == "direct"
        with kernels.conv_algorithm("winograd"):
            assert kernels.get_conv_algorithm() == "winograd"
        monkeypatch.setenv("MINIDL_CONV_ALGORITHM", "fast")
        with pytest.raises(
            ValueError, match="MINIDL_CONV_ALGORITHM expects one of auto, direct, winograd, got 'fast'"
        ):
            kernels.get_conv_algorithm()
    finally:
        kernels._algorithm.reset(token)


def test_an_unknown_algorithm_raises() -> None:
    with (
        pytest.raises(ValueError, match="name expects one of auto, direct, winograd, got 'fft'"),
        kernels.conv_algorithm("fft"),
    ):
        pass
