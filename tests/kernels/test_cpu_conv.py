"""The CPU convolution and its gradients beside the reference in float64: options, odd shapes, layouts, splits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from minidl import kernels
from minidl.kernels.cpu import (
    CPUBackend,
    gather,
    group_weight,
    input_grad,
    memory,
    plan,
    runtime,
    weight_grad,
)
from minidl.kernels.cpu import conv as conv_module
from minidl.kernels.reference import ReferenceBackend
from tests.kernels.cases import Array, assert_near, conv
from tests.kernels.threads import assert_same_for_any_split

CPU, REFERENCE = CPUBackend(), ReferenceBackend()
# Largest difference over largest value; float32 sums of up to a few thousand products.
TOLERANCE = {"float32": 4e-6, "float64": 1e-13}

SHAPES = {
    "one pixel": conv((1, 1, 1, 5), (3, 1, 1, 5)),
    "one by one": conv((2, 9, 5, 33), (40, 1, 1, 33)),
    "one by one, stride": conv((2, 9, 6, 20), (40, 1, 1, 20), stride=(2, 3)),
    "one by one, padded": conv((2, 4, 5, 7), (8, 1, 1, 7), pad=1),
    "one by one, many panels": conv((1, 40, 17, 512), (168, 1, 1, 512)),
    "few channels": conv((3, 15, 11, 3), (16, 3, 3, 3), pad=1),
    "stem": conv((2, 23, 22, 3), (20, 7, 7, 3), stride=(2, 2), pad=3),
    "3x3": conv((2, 14, 14, 32), (32, 3, 3, 32), pad=1),
    "3x3, stride": conv((2, 15, 16, 16), (33, 3, 3, 16), stride=(2, 2), pad=1),
    "rows of seven": conv((2, 7, 7, 48), (64, 3, 3, 48), pad=1),
    "rows of eight": conv((3, 8, 8, 16), (16, 3, 3, 16), pad=1),
    "several reduction blocks": conv((1, 5, 6, 256), (17, 3, 3, 256), pad=1),
    "crowded pixels": conv((2, 5, 5, 512), (24, 1, 1, 512)),
    "crowded strided pixels": conv((1, 9, 9, 256), (24, 3, 3, 256), stride=(2, 2), pad=1),
    "uneven everything": conv(
        (2, 13, 17, 6), (10, 2, 4, 6), stride=(3, 2), pad=((2, 0), (1, 3)), dilation=(2, 1)
    ),
    "dilated": conv((2, 14, 13, 5), (18, 3, 3, 5), pad=2, dilation=(2, 2)),
    "dilated and strided": conv((1, 19, 18, 4), (6, 3, 2, 4), stride=(2, 3), pad=3, dilation=(3, 2)),
    "stride beyond the window": conv((2, 13, 12, 5), (9, 2, 2, 5), stride=(4, 5), pad=((0, 3), (1, 1))),
    "padding beyond the window": conv((1, 4, 5, 6), (8, 2, 2, 6), pad=4),
    "rows of an image the stride skips": conv((1, 10, 10, 3), (4, 3, 3, 3), stride=(4, 4)),
    "input smaller than the stride": conv((2, 2, 2, 4), (4, 1, 1, 4), stride=(3, 3)),
    "groups": conv((2, 9, 8, 12), (18, 3, 3, 4), pad=1, groups=3),
    "strided groups": conv((2, 9, 8, 12), (6, 3, 3, 6), stride=(2, 2), pad=1, groups=2),
    "one by one groups": conv((2, 6, 6, 32), (64, 1, 1, 16), groups=2),
    "depthwise": conv((2, 9, 10, 37), (37, 3, 3, 1), pad=1, groups=37),
    "wide depthwise": conv((3, 20, 21, 70), (70, 5, 3, 1), stride=(1, 2), pad=2, groups=70),
    "dilated depthwise": conv((1, 14, 12, 16), (16, 3, 3, 1), pad=2, dilation=(2, 2), groups=16),
    "groups of two": conv((2, 9, 10, 38), (38, 3, 3, 2), pad=1, groups=19),
    "groups of four": conv((2, 11, 12, 40), (40, 3, 3, 4), stride=(2, 1), pad=1, groups=10),
    "groups of eight, large window": conv((1, 14, 15, 24), (24, 5, 6, 8), pad=2, dilation=(1, 2), groups=3),
    "groups of sixteen": conv((2, 7, 7, 48), (48, 3, 3, 16), pad=1, groups=3),
    "depthwise with a multiplier": conv((2, 7, 7, 6), (12, 3, 3, 1), stride=(2, 1), pad=1, groups=6),
    "wide rows": conv((1, 3, 700, 3), (5, 3, 3, 3), pad=1),
    "tall": conv((1, 300, 3, 8), (16, 3, 1, 8), pad=((1, 1), (0, 0))),
}


# float64 is the same code with half the lanes: a few shapes show it.
DOUBLE = ("3x3", "uneven everything", "one by one", "groups", "depthwise", "groups of four")
CASES = [(name, "float32") for name in SHAPES] + [(name, "float64") for name in DOUBLE]


def operands(case: dict[str, Any], dtype: str) -> tuple[Array, Array, Array, Array, tuple[Any, ...]]:
    """x, w, bias and gy of a case, small whole numbers over 8 plus noise, and its options."""
    rng = np.random.default_rng(sum(case["x"]) + 1000 * sum(case["w"]))
    x, w = (rng.normal(size=case[name]).astype(dtype) for name in ("x", "w"))
    bias = rng.normal(size=case["w"][0]).astype(dtype)
    options = (case["stride"], case["pad"], case["dilation"], case["groups"])
    shape = REFERENCE.conv2d(x, w, None, *options).shape
    return x, w, bias, rng.normal(size=shape).astype(dtype), options


def double(*arrays: Array) -> list[Array]:
    return [a.astype(np.float64) for a in arrays]


@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_forward_equals_the_reference(name: str, dtype: str) -> None:
    x, w, bias, _, options = operands(SHAPES[name], dtype)
    plain = REFERENCE.conv2d(*double(x, w), None, *options)
    assert_near(CPU.conv2d(x, w, None, *options), plain, TOLERANCE[dtype], dtype)
    y = CPU.conv2d(x, w, bias, *options, relu=True)
    assert y.flags.c_contiguous
    plain += bias
    assert_near(y, np.maximum(plain, 0), TOLERANCE[dtype], dtype)
    residual = np.random.default_rng(1).normal(size=y.shape).astype(dtype)
    y = CPU.conv2d(x, w, bias, *options, residual=residual)
    assert_near(y, plain + residual, TOLERANCE[dtype], dtype)
    y = CPU.conv2d(x, w, bias, *options, relu=True, residual=residual)
    assert_near(y, np.maximum(plain + residual, 0), TOLERANCE[dtype], dtype)


def test_a_residual_of_another_layout_or_shape() -> None:
    x, w, bias, _, options = operands(SHAPES["3x3"], "float32")
    residual = np.random.default_rng(1).normal(size=CPU.conv2d(x, w, bias, *options).shape).astype("float32")
    expected = CPU.conv2d(x, w, bias, *options, residual=residual)
    turned = np.ascontiguousarray(residual.transpose(0, 3, 1, 2)).transpose(0, 2, 3, 1)
    np.testing.assert_array_equal(CPU.conv2d(x, w, bias, *options, residual=turned), expected)
    for backend in (CPU, REFERENCE):
        with pytest.raises(ValueError, match="residual"):
            backend.conv2d(x, w, bias, *options, residual=residual[:, 1:])
        with pytest.raises(ValueError, match="conv2d_input_grad: residual"):
            backend.conv2d_input_grad(residual, w, (14, 14), *options, residual=x[1:])
        with pytest.raises(ValueError, match="conv2d_input_grad: bias"):
            backend.conv2d_input_grad(residual, w, (14, 14), *options, bias=bias[1:])


@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_gradients_equal_the_reference(name: str, dtype: str) -> None:
    x, w, _, gy, options = operands(SHAPES[name], dtype)
    input_hw, kernel_hw = x.shape[1:3], w.shape[1:3]
    gx = CPU.conv2d_input_grad(gy, w, input_hw, *options)
    assert gx.flags.c_contiguous
    expected = REFERENCE.conv2d_input_grad(*double(gy, w), input_hw, *options)
    assert_near(gx, expected, TOLERANCE[dtype], dtype)
    rng = np.random.default_rng(2)
    bias, residual = rng.normal(size=x.shape[3]).astype(dtype), rng.normal(size=x.shape).astype(dtype)
    gx = CPU.conv2d_input_grad(gy, w, input_hw, *options, bias=bias, relu=True, residual=residual)
    finished = np.maximum(expected + bias + residual, 0)
    assert_near(gx, finished, TOLERANCE[dtype], dtype)
    gx = CPU.conv2d_input_grad(gy, w, input_hw, *options, residual=residual)
    assert_near(gx, expected + residual, TOLERANCE[dtype], dtype)
    both = {"bias": bias.astype(np.float64), "relu": True, "residual": residual.astype(np.float64)}
    same = REFERENCE.conv2d_input_grad(*double(gy, w), input_hw, *options, **both)
    np.testing.assert_allclose(same, finished)
    gw = CPU.conv2d_weight_grad(gy, x, kernel_hw, *options)
    assert gw.transpose(0, 3, 1, 2).flags.c_contiguous
    expected = REFERENCE.conv2d_weight_grad(*double(gy, x), kernel_hw, *options)
    assert_near(gw, expected, TOLERANCE[dtype], dtype)


def test_drawn_shapes_equal_the_reference() -> None:
    rng = np.random.default_rng(5)
    for _ in range(60):
        groups = int(rng.choice([1, 1, 1, 2, 3]))
        c, o = groups * int(rng.integers(1, 25)), groups * int(rng.integers(1, 25))
        kernel, stride, dilation = (tuple(int(v) for v in rng.integers(1, top, 2)) for top in (5, 4, 3))
        pad = tuple(tuple(int(v) for v in side) for side in rng.integers(0, 4, (2, 2)))
        h, width = (int(v) for v in rng.integers(8, 20, 2))
        case = conv((2, h, width, c), (o, *kernel, c // groups), stride=stride, pad=pad, dilation=dilation)
        case["groups"] = groups
        x, w, bias, gy, options = operands(case, "float32")
        input_hw, kernel_hw = (h, width), w.shape[1:3]
        pairs = [
            (CPU.conv2d(x, w, bias, *options), REFERENCE.conv2d(*double(x, w, bias), *options)),
            (
                CPU.conv2d_input_grad(gy, w, input_hw, *options),
                REFERENCE.conv2d_input_grad(*double(gy, w), input_hw, *options),
            ),
            (
                CPU.conv2d_weight_grad(gy, x, kernel_hw, *options),
                REFERENCE.conv2d_weight_grad(*double(gy, x), kernel_hw, *options),
            ),
        ]
        for actual, expected in pairs:
            assert_near(actual, expected, TOLERANCE["float32"], "float32")


SPLIT = (
    "3x3",
    "3x3, stride",
    "rows of seven",
    "few channels",
    "one by one",
    "crowded pixels",
    "groups",
    "stem",
    "wide depthwise",
    "groups of four",
)


@pytest.mark.parametrize("name", SPLIT)
def test_results_have_the_same_bits_for_any_split(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    x, w, bias, gy, options = operands(SHAPES[name], "float32")

    def run() -> tuple[Array, ...]:
        forward = CPU.conv2d(x, w, bias, *options)
        gx = CPU.conv2d_input_grad(gy, w, x.shape[1:3], *options)
        return forward, gx, CPU.conv2d_weight_grad(gy, x, w.shape[1:3], *options)

    for module in (gather, weight_grad, group_weight):
        monkeypatch.setattr(module, "SMALL", 0)
    for module in (conv_module, input_grad, weight_grad, group_weight):
        monkeypatch.setattr(module, "get_num_threads", lambda: runtime.get_num_threads())
    gather.plan_gather.cache_clear()
    weight_grad.plan_weight.cache_clear()
    assert_same_for_any_split(monkeypatch, run)
    gather.plan_gather.cache_clear()


def test_threads_give_the_same_bits_as_one() -> None:
    x, w, bias, gy, options = operands(conv((6, 20, 20, 32), (48, 3, 3, 32), pad=1), "float32")
    results = []
    before = kernels.get_num_threads()
    try:
        for count in (1, 2):
            kernels.set_num_threads(count)
            forward = CPU.conv2d(x, w, bias, *options)
            gx = CPU.conv2d_input_grad(gy, w, (20, 20), *options)
            results.append((forward, gx, CPU.conv2d_weight_grad(gy, x, (3, 3), *options)))
    finally:
        kernels.set_num_threads(before)
    for one, two in zip(*results, strict=True):
        np.testing.assert_array_equal(one, two)


def test_small_budgets_cut_images_into_many_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows, columns and reduction blocks are cut, as for images too large for the cache."""
    monkeypatch.setattr(gather, "GATHER_SLAB", 12_000)
    monkeypatch.setattr(gather, "DEPTH_BLOCK", 50)
    monkeypatch.setattr(weight_grad, "WEIGHT_SLAB", 12_000)
    monkeypatch.setattr(weight_grad, "WEIGHT_PIXELS", (40, 40))
    gather.plan_gather.cache_clear()
    weight_grad.plan_weight.cache_clear()
    try:
        for pad, stride, dilation in (((1, 1), 1, 1), ((0, 3), 2, 1), ((2, 2), 1, 2)):
            case = conv(
                (2, 19, 90, 9),
                (21, 3, 3, 9),
                stride=(stride, stride),
                pad=(pad, pad),
                dilation=(dilation, dilation),
            )
            x, w, bias, gy, options = operands(case, "float32")
            forward = CPU.conv2d(x, w, bias, *options)
            assert_near(forward, REFERENCE.conv2d(*double(x, w, bias), *options), 4e-6, "float32")
            gx = CPU.conv2d_input_grad(gy, w, (19, 90), *options)
            assert_near(gx, REFERENCE.conv2d_input_grad(*double(gy, w), (19, 90), *options), 4e-6, "float32")
            gw = CPU.conv2d_weight_grad(gy, x, (3, 3), *options)
            assert_near(gw, REFERENCE.conv2d_weight_grad(*double(gy, x), (3, 3), *options), 4e-6, "float32")
    finally:
        gather.plan_gather.cache_clear()
        weight_grad.plan_weight.cache_clear()


@pytest.mark.parametrize("outputs", [64, 72, 40])
def test_outputs_written_past_the_caches_are_the_same(monkeypatch: pytest.MonkeyPatch, outputs: int) -> None:
    x, w, bias, gy, place = operands(conv((3, 15, 13, 48), (outputs, 1, 1, 48)), "float32")

    def run() -> tuple[Array, Array]:
        y = CPU.conv2d(x, w, bias, *place, relu=True, residual=gy)
        return y, CPU.conv2d_input_grad(gy, w, (15, 13), *place)

    cached = run()
    monkeypatch.setattr(gather, "FAR_BYTES", 0)
    for streamed, expected in zip(run(), cached, strict=True):
        np.testing.assert_array_equal(streamed, expected)


def test_inputs_may_have_any_strides() -> None:
    x, w, bias, gy, options = operands(SHAPES["3x3"], "float32")
    expected = CPU.conv2d(x, w, bias, *options)
    planes = np.ascontiguousarray(x.transpose(0, 3, 1, 2)).transpose(0, 2, 3, 1)
    spaced = np.repeat(x, 2, axis=3)[..., ::2]
    weights = np.ascontiguousarray(w.transpose(0, 3, 1, 2)).transpose(0, 2, 3, 1)
    reverse = bias[::-1].copy()[::-1]
    for image in (planes, spaced, x[::-1].copy()[::-1]):
        np.testing.assert_array_equal(CPU.conv2d(image, weights, reverse, *options), expected)
    grads = np.ascontiguousarray(gy.transpose(0, 3, 1, 2)).transpose(0, 2, 3, 1)
    gx = CPU.conv2d_input_grad(gy, w, (14, 14), *options)
    np.testing.assert_array_equal(CPU.conv2d_input_grad(grads, weights, (14, 14), *options), gx)
    gw = CPU.conv2d_weight_grad(gy, x, (3, 3), *options)
    np.testing.assert_array_equal(CPU.conv2d_weight_grad(grads, planes, (3, 3), *options), gw)


def test_read_only_inputs_are_accepted_and_left_alone() -> None:
    x, w, bias, gy, options = operands(SHAPES["few channels"], "float32")
    before = [a.copy() for a in (x, w, bias, gy)]
    for array in (x, w, bias, gy):
        array.flags.writeable = False
    CPU.conv2d(x, w, bias, *options, relu=True)
    CPU.conv2d_input_grad(gy, w, x.shape[1:3], *options)
    CPU.conv2d_weight_grad(gy, x, w.shape[1:3], *options)
    for array, old in zip((x, w, bias, gy), before, strict=True):
        np.testing.assert_array_equal(array, old)


def test_nan_and_infinity_stay_where_they_belong() -> None:
    x, w, bias, _, options = operands(SHAPES["rows of eight"], "float32")
    x[1, 3, 4, 2] = np.nan
    x[2, 0, 0, 5] = np.inf
    with kernels.conv_algorithm("direct"):
        y = CPU.conv2d(x, w, bias, *options, relu=True)
    expected = REFERENCE.conv2d(x, w, bias, *options, relu=True)
    np.testing.assert_array_equal(np.isnan(y), np.isnan(expected))
    np.testing.assert_array_equal(np.isinf(y), np.isinf(expected))
    assert np.isnan(y[1, 2:5, 3:6]).all() and not np.isnan(y[0]).any()


def poison() -> None:
    """Fill what lies in the memory pool with NaN."""
    for power in range(12, 21):
        memory.empty(1 << power, np.float32).fill(np.nan)  # goes back to the pool at once


def test_what_lies_in_reused_memory_does_not_matter() -> None:
    x, w, _, gy, options = operands(SHAPES["rows of seven"], "float32")
    first = CPU.conv2d(x, w, None, *options), CPU.conv2d_input_grad(gy, w, (7, 7), *options)
    poison()
    second = CPU.conv2d(x, w, None, *options), CPU.conv2d_input_grad(gy, w, (7, 7), *options)
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_last_chunk_with_fewer_rows_has_its_padding_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three threads share 14 rows as 5, 5 and 4; taps of stride 2 read two planes of a slab, each with its right
    padding."""
    x, w, bias, _, options = operands(conv((1, 27, 65, 16), (32, 3, 3, 16), stride=(2, 2), pad=1), "float32")
    expected = REFERENCE.conv2d(*double(x, w, bias), *options)
    monkeypatch.setattr(conv_module, "get_num_threads", lambda: 3)
    poison()
    assert_near(CPU.conv2d(x, w, bias, *options), expected, 4e-6, "float32")


def test_empty_batches_and_other_dtypes_go_through() -> None:
    options: tuple[Any, ...] = ((1, 1), ((1, 1), (1, 1)), (1, 1), 1)
    x, w = np.zeros((0, 4, 5, 3), np.float32), np.ones((6, 3, 3, 3), np.float32)
    y = CPU.conv2d(x, w, None, *options)
    assert y.shape == (0, 4, 5, 6)
    assert CPU.conv2d_input_grad(y, w, (4, 5), *options).shape == x.shape
    gw = CPU.conv2d_weight_grad(y, x, (3, 3), *options)
    assert gw.shape == w.shape and not gw.any()
    whole = np.arange(60, dtype=np.int64).reshape(1, 4, 5, 3)
    expected = REFERENCE.conv2d(whole, w.astype(np.int64), None, *options)
    np.testing.assert_array_equal(CPU.conv2d(whole, w.astype(np.int64), None, *options), expected)
    swapped = whole.astype(">f4")
    np.testing.assert_allclose(CPU.conv2d(swapped, w, None, *options), expected)


BAD = [
    ({"x": (2, 4, 4, 3), "w": (5, 3, 3, 4)}, "weight expects 4 input channels"),
    ({"x": (2, 4, 3), "w": (5, 3, 3, 3)}, "x expects 4 axes"),
    ({"x": (2, 4, 4, 3), "w": (5, 3, 3)}, "weight expects 4 axes"),
    ({"x": (2, 4, 4, 3), "w": (5, 7, 3, 3)}, "does not fit"),
    ({"x": (2, 4, 4, 4), "w": (5, 1, 1, 2), "groups": 2}, "do not divide into 2 groups"),
    ({"x": (2, 4, 4, 3), "w": (5, 3, 3, 3), "stride": (0, 1)}, "stride"),
    ({"x": (2, 4, 4, 3), "w": (5, 3, 3, 3), "pad": ((-1, 0), (0, 0))}, "pad"),
    ({"x": (2, 4, 4, 3), "w": (5, 3, 3, 3), "bias": (4,)}, "bias expects shape"),
]


@pytest.mark.parametrize(("case", "message"), BAD)
def test_wrong_shapes_raise_before_anything_is_read(case: dict[str, Any], message: str) -> None:
    x, w = np.zeros(case["x"], np.float32), np.zeros(case["w"], np.float32)
    bias = np.zeros(case["bias"], np.float32) if "bias" in case else None
    options = (case.get("stride", (1, 1)), case.get("pad", ((0, 0), (0, 0))), (1, 1), case.get("groups", 1))
    with pytest.raises(ValueError, match=message):
        CPU.conv2d(x, w, bias, *options)


def test_gradients_of_the_wrong_shape_raise() -> None:
    options: tuple[Any, ...] = ((1, 1), ((1, 1), (1, 1)), (1, 1), 1)
    x, w = np.zeros((2, 5, 5, 3), np.float32), np.zeros((4, 3, 3, 3), np.float32)
    for shape in ((2, 5, 4, 4), (2, 5, 5, 3), (1, 5, 5, 4)):
        gy = np.zeros(shape, np.float32)
        if shape[0] == 2:
            with pytest.raises(ValueError, match="gy expects shape"):
                CPU.conv2d_input_grad(gy, w, (5, 5), *options)
        if shape[3] == 4:
            with pytest.raises(ValueError, match="gy expects shape"):
                CPU.conv2d_weight_grad(gy, x, (3, 3), *options)


@pytest.mark.parametrize(
    ("threads", "chunks", "panels", "expected"),
    [
        (1, 5, 3, (1, 1)),
        (2, 96, 4, (2, 1)),
        (2, 3, 4, (1, 2)),
        (2, 5, 1, (2, 1)),
        (4, 1, 16, (1, 4)),
        (8, 3, 2, (3, 2)),
        (64, 2, 3, (2, 3)),
    ],
)
def test_parts_split_chunks_or_panels_by_the_longest_share(
    threads: int, chunks: int, panels: int, expected: tuple[int, int]
) -> None:
    assert plan.split_grid(threads, chunks, panels, 1.0, 20.0)[:2] == expected
