"""Batch normalisation, standardisation and the loss on the emulated device, checker on, against the reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from minidl.kernels.cuda.norm import grid
from tests.kernels.cuda.on_device import (
    BF16,
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
from tests.target import needs_device

pytestmark = needs_device()

SHAPES = [(2, 5, 3, 24), (3, 7, 7), (1, 1, 1, 5), (70, 4), (2, 1)]


def test_statistics_keep_their_digits_far_from_zero() -> None:
    for shape in SHAPES:
        x = normal(0, F32, *shape) + np.float32(300)
        mean, var = backend().batch_norm_stats(x)
        expected = REFERENCE.batch_norm_stats(x.astype(np.float64))
        near(mean, expected[0], 5e-7)
        near(var, expected[1], 1e-5)


def test_statistics_of_many_slabs_are_merged() -> None:
    x = normal(0, F32, 3000, 4) * np.linspace(0, 9, 3000, dtype=F32)[:, None]
    assert grid(device(), 3000, 4).slabs > 1
    agree("batch_norm_stats", F32, x)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_affine_map_with_residual_and_relu(shape: tuple[int, ...]) -> None:
    scale, shift = normal(1, F32, shape[-1]), normal(2, F32, shape[-1])
    for dtype in (F32, BF16) if shape[-1] == 24 else (F32,):
        x = normal(0, dtype, *shape)
        agree("batch_norm_apply", dtype, x, scale, shift, None, False)
        agree("batch_norm_apply", dtype, x, scale, shift, normal(3, dtype, *shape), True)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_gradients_of_batch_norm(shape: tuple[int, ...], training: bool) -> None:
    c = shape[-1]
    mean, rstd, weight = normal(2, F32, c), np.abs(normal(3, F32, c)), normal(4, F32, c)
    for dtype in (F32, BF16) if c == 24 else (F32,):
        gy, x, y = (normal(i, dtype, *shape) for i in (0, 1, 5))
        tolerance = 3 * TOLERANCE[np.dtype(dtype)]
        agree("batch_norm_backward", dtype, gy, x, mean, rstd, weight, None, training, tolerance=tolerance)
        agree("batch_norm_backward", dtype, gy, x, mean, rstd, weight, y, training, tolerance=tolerance)


def test_only_the_wanted_gradients_are_made() -> None:
    args = [normal(0, F32, 6, 4), normal(1, F32, 6, 4), *(normal(i, F32, 4) for i in (2, 3, 4))]
    y = normal(5, F32, 6, 4)
    for needs in ((False, True, False), (False, False, True), (True, False, False)):
        results = agree("batch_norm_backward", F32, *args, y, True, *needs, tolerance=3e-6)
        assert [r is not None for r in results] == [needs[0], needs[2], needs[2], needs[1]]


@pytest.mark.parametrize("shape", [(2, 5, 3, 24), (3, 7, 7)], ids=str)
def test_the_mask_of_a_relu_may_be_made_of_x(shape: tuple[int, ...]) -> None:
    gy, x = normal(0, F32, *shape), normal(1, F32, *shape)
    mean, rstd, weight, scale, shift = (normal(i, F32, shape[-1]) for i in range(2, 7))
    for needs in ((True, True, True), (True, False, True), (False, True, False)):
        args = (gy, x, mean, rstd, weight, None, True, *needs, (scale, shift))
        agree("batch_norm_backward", F32, *args, tolerance=3e-6)


@pytest.mark.parametrize("dtype", [F32, BF16], ids=str)
def test_sums_of_channels_with_and_without_a_mask(dtype: Any) -> None:
    for shape in ((2, 5, 3, 24), (70, 4)) if dtype == F32 else ((2, 5, 3, 24),):
        g, y = normal(0, dtype, *shape), normal(1, dtype, *shape)
        tolerance = 3 * TOLERANCE[np.dtype(dtype)]
        agree("channel_sums", dtype, g, tolerance=tolerance)
        agree("channel_sums", dtype, g, y, tolerance=tolerance)


def test_a_mask_of_nan_is_no_gradient() -> None:
    args = [normal(0, F32, 6, 4), normal(1, F32, 6, 4), *(normal(i, F32, 4) for i in (2, 3, 4))]
    y = np.full((6, 4), np.nan, F32)
    assert not backend().batch_norm_backward(*args, y, False)[0].any()


def test_an_empty_batch_has_no_mean() -> None:
    with pytest.raises(ValueError, match="no values to take the mean of"):
        backend().batch_norm_stats(normal(0, F32, 0, 4))


STANDARD: dict[str, tuple[Any, ...]] = {
    "layer norm": ((6, 4, 33), (2,), (33,), (33,)),
    "group norm": ((2, 3, 4, 5, 2), (2, 3, 4), (3, 4, 1, 1), (3, 4, 1, 1)),
    "instance norm": ((2, 4, 3, 5), (2, 3), (4, 1, 1), None),
    "channels last in memory": ((2, 4, 3, 5), (1,), (4, 1, 1), (4, 1, 1)),
    "weight and bias of different shapes": ((2, 4, 3), (2,), (4, 1), (3,)),
    "a long row": ((2, 1100), (1,), (1100,), None),
    "no weight": ((5, 7), (1,), None, None),
}


@pytest.mark.parametrize("case", STANDARD)
def test_standardisation_and_its_gradients(case: str) -> None:
    shape, axes, *parts = STANDARD[case]
    for dtype in (F32, BF16) if case == "layer norm" else (F32,):
        x = normal(0, dtype, *shape) + dtype.type(2)
        weight, bias = (None if p is None else normal(i, dtype, *p) for i, p in enumerate(parts, 1))
        _, mean, rstd = agree("standardize", dtype, x, axes, weight, bias, 1e-5)
        gy = normal(3, dtype, *shape)
        tolerance = 3 * TOLERANCE[np.dtype(dtype)]
        for needs in ((True, True), (True, False), (False, True)):
            agree("standardize_backward", dtype, gy, x, axes, mean, rstd, weight, *needs, tolerance=tolerance)


def test_a_row_far_from_zero_keeps_its_digits() -> None:
    x = (normal(0, F32, 3, 64) + np.float32(1000)).astype(F32)
    y, _, _ = backend().standardize(x, (1,), None, None, 0.0)
    near(y, REFERENCE.standardize(x.astype(np.float64), (1,), None, None, 0.0)[0], 1e-4)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("classes", [5, 1, 1030])
def test_the_loss_and_its_gradient(classes: int, weighted: bool, smoothing: float) -> None:
    logits, g = normal(0, F32, 9, classes) * 3, normal(1, F32, 9)
    target = np.arange(9) % classes
    target[4] = -100
    weight = normal(2, F32, classes) ** 2 if weighted else None
    options = (weight, -100, smoothing)
    loss, row_weight = agree("softmax_cross_entropy", F32, logits, target, *options, tolerance=2e-6)
    glogits = agree("softmax_cross_entropy_backward", F32, g, logits, target, *options, tolerance=2e-6)
    assert loss[4] == row_weight[4] == 0 and not glogits[4].any()


def test_the_loss_of_half_types_and_of_large_logits() -> None:
    target = np.array([1, 0, 2], np.int32)
    agree("softmax_cross_entropy", BF16, normal(0, BF16, 3, 6), target, None, -100, 0.1)
    agree(
        "softmax_cross_entropy_backward",
        BF16,
        normal(1, BF16, 3),
        normal(0, BF16, 3, 6),
        target,
        None,
        -100,
        0.1,
    )
    large = np.array([[1e4, 0, -1e4], [-3e38, 0, 1], [80, 90, 100]], F32)
    agree("softmax_cross_entropy", F32, large, target, None, -100, 0.0)


def test_a_label_that_is_no_class_gives_nan_in_its_row_alone() -> None:
    logits, target = normal(0, F32, 4, 3), np.array([0, 3, -1, 2])
    loss, _ = backend().softmax_cross_entropy(logits, target, None, -100, 0.0)
    glogits = backend().softmax_cross_entropy_backward(np.ones(4, F32), logits, target, None, -100, 0.0)
    assert np.isnan(loss).tolist() == [False, True, True, False]
    assert np.isnan(glogits).all(axis=1).tolist() == [False, True, True, False]


def test_a_row_with_nan_has_no_loss() -> None:
    logits = normal(0, F32, 2, 40)
    logits[1, 33] = np.nan
    loss, _ = backend().softmax_cross_entropy(logits, np.array([0, 1]), None, -100, 0.0)
    assert np.isnan(loss).tolist() == [False, True]


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="target expects shape"):
        backend().softmax_cross_entropy(normal(0, F32, 2, 3), np.zeros(3, int), None, -100, 0.0)
    with pytest.raises(ValueError, match="target expects integers"):
        backend().softmax_cross_entropy(normal(0, F32, 2, 3), np.zeros(2), None, -100, 0.0)
    with pytest.raises(ValueError, match="scale expects shape"):
        backend().batch_norm_apply(normal(0, F32, 2, 3), normal(0, F32, 4), normal(0, F32, 3), None, False)
    assert wide(normal(0, BF16, 2)).dtype == F32
