"""Batch normalisation on the CPU beside the reference: odd shapes, strides, splits, writing past the
caches.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest

from minidl.kernels.cpu import CPUBackend, layout
from minidl.kernels.cpu.norm import _plan
from minidl.kernels.reference import ReferenceBackend
from tests.kernels.cases import Array, assert_near
from tests.kernels.threads import assert_same_for_any_split

CPU, REFERENCE = CPUBackend(), ReferenceBackend()
TOLERANCE = 2e-6
SHAPES = [
    (2, 5, 7, 16),
    (3, 11, 64),
    (4, 33, 13),
    (1, 7, 300),
    (40, 1001),
    (2, 9, 9, 3),
    (1, 1, 1, 5),
    (21, 1),
]


def tensors(shape: tuple[int, ...], count: int, dtype: Any = np.float32) -> list[Array]:
    rng = np.random.default_rng(shape[-1])
    return [rng.normal(size=shape).astype(dtype) for _ in range(count)]


def tables(channels: int, count: int, dtype: Any = np.float32) -> list[Array]:
    rng = np.random.default_rng(channels)
    return [rng.uniform(0.5, 2, channels).astype(dtype) for _ in range(count)]


def assert_all_near(actual: Any, expected: Any) -> None:
    for a, b in zip(actual, expected, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            assert a.flags.c_contiguous
            assert_near(a, b, TOLERANCE)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_kernel_equals_the_reference(shape: tuple[int, ...]) -> None:
    x, gy, other = tensors(shape, 3)
    scale, shift, mean = tables(shape[-1], 3)
    assert_all_near(CPU.batch_norm_stats(x), REFERENCE.batch_norm_stats(x))
    for residual, relu in product((None, other), (False, True)):
        args: tuple[Any, ...] = (x, scale, shift, residual, relu)
        assert_all_near([CPU.batch_norm_apply(*args)], [REFERENCE.batch_norm_apply(*args)])
    for y, training in product((None, np.maximum(other, 0)), (False, True)):
        args = (gy, x, mean, scale, shift, y, training)
        assert_all_near(CPU.batch_norm_backward(*args), REFERENCE.batch_norm_backward(*args))
    for training, needs in product((False, True), product((False, True), repeat=3)):
        args = (gy, x, mean, scale, shift, None, training, *needs, (scale, -shift))
        assert_all_near(CPU.batch_norm_backward(*args), REFERENCE.batch_norm_backward(*args))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_mask_made_of_x_is_that_of_the_output(dtype: Any) -> None:
    x, gy = tensors((3, 19, 13, 24), 2, dtype)
    scale, shift, mean, rstd, weight = tables(24, 5, dtype)
    y = CPU.batch_norm_apply(x, scale, -shift, None, True)
    by_output = CPU.batch_norm_backward(gy, x, mean, rstd, weight, y, True)
    by_input = CPU.batch_norm_backward(gy, x, mean, rstd, weight, None, True, affine=(scale, -shift))
    for a, b in zip(by_output, by_input, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("shape", SHAPES)
def test_constants_and_running_statistics_equal_the_reference(shape: tuple[int, ...]) -> None:
    mean, var, weight, bias, running = tables(shape[-1], 5)
    for w, b in product((None, weight), (None, bias)):
        args = (mean, var, 1e-5, w, b)
        assert_all_near(CPU.batch_norm_affine(*args), REFERENCE.batch_norm_affine(*args))
    same = running.copy()
    CPU.batch_norm_track(running, var, 0.1, 1.25)
    REFERENCE.batch_norm_track(same, var, 0.1, 1.25)
    assert_near(running, same, TOLERANCE)
    np.testing.assert_allclose(same, 0.9 * tables(shape[-1], 5)[4] + 0.125 * var, rtol=1e-6)


def test_any_strides_are_accepted() -> None:
    x, gy, other = (a.transpose(0, 2, 3, 1)[:, ::2, ::-1] for a in tensors((3, 17, 9, 8), 3))
    scale, shift, mean = (table[::2] for table in tables(34, 3))
    assert_all_near(CPU.batch_norm_stats(x), REFERENCE.batch_norm_stats(x))
    args: tuple[Any, ...] = (x, scale, shift, other, True)
    assert_all_near([CPU.batch_norm_apply(*args)], [REFERENCE.batch_norm_apply(*args)])
    args = (gy, x, mean, scale, shift, np.maximum(other, 0), True)
    assert_all_near(CPU.batch_norm_backward(*args), REFERENCE.batch_norm_backward(*args))


def test_gradients_may_be_read_only() -> None:
    gy, x = tensors((40, 17), 2)
    mean, rstd, weight = tables(17, 3)
    gy.flags.writeable = False
    assert_all_near(CPU.channel_sums(gy), REFERENCE.channel_sums(gy))
    args = (gy, x, mean, rstd, weight, None, True)
    assert_all_near(CPU.batch_norm_backward(*args), REFERENCE.batch_norm_backward(*args))


@pytest.mark.parametrize("shape", [(4, 40, 41, 16), (3, 37, 29, 20)])
def test_results_do_not_depend_on_the_split(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    assert _plan(int(np.prod(shape[:-1])), shape[-1]).chunks == 1 or shape[-1] == 16
    x, gy, other = tensors(shape, 3)
    scale, shift, mean = tables(shape[-1], 3)
    assert_same_for_any_split(monkeypatch, lambda: CPU.batch_norm_stats(x))
    assert_same_for_any_split(monkeypatch, lambda: CPU.batch_norm_apply(x, scale, shift, other, True))
    y = np.maximum(other, 0)
    assert_same_for_any_split(
        monkeypatch, lambda: CPU.batch_norm_backward(gy, x, mean, scale, shift, y, True)
    )


def test_threads_give_the_bits_that_one_thread_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    (x,) = tensors((4, 64, 64, 32), 1)
    together = CPU.batch_norm_stats(x)
    monkeypatch.setattr("minidl.kernels.cpu.runtime.run_parallel", lambda *arguments: False)
    for a, b in zip(together, CPU.batch_norm_stats(x), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_plan_covers_all_pixels_with_whole_vectors() -> None:
    for pixels, channels in product((1, 5, 64, 1000, 200704), (1, 3, 13, 16, 48, 64, 100, 2048)):
        plan = _plan(pixels, channels)
        width = plan.fold * channels
        assert width % 16 == 0 and width >= 64
        assert width == plan.width and 0 <= pixels - plan.rows * plan.fold < plan.fold
        assert plan.chunks * plan.chunk_rows >= plan.rows
        assert plan.rows == 0 or (plan.chunks - 1) * plan.chunk_rows < plan.rows


def test_writing_past_the_caches_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    x, gy = tensors((2, 17, 19, 24), 2)
    scale, shift, mean = tables(24, 3)

    def run() -> tuple[Array, Array]:
        gx = CPU.batch_norm_backward(gy, x, mean, scale, shift, None, True)[0]
        assert gx is not None
        return CPU.batch_norm_apply(x, scale, shift, None, True), gx

    usual = run()
    monkeypatch.setattr(layout, "STREAM_BYTES", 0)
    assert layout.streams(usual[0]), "the output is large enough to come aligned from the pool"
    for a, b in zip(usual, run(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_float64_is_accurate_where_the_mean_dwarfs_the_deviation() -> None:
    x = np.random.default_rng(0).normal(size=(2000, 16)) + 1e6
    mean, var = CPU.batch_norm_stats(x)
    np.testing.assert_allclose(mean, x.mean(axis=0), rtol=1e-14)
    np.testing.assert_allclose(var, ((x - x.mean(axis=0)) ** 2).mean(axis=0), rtol=1e-10)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_bad_values_stay_in_their_channel(bad: float) -> None:
    (x,) = tensors((2, 8, 8, 16), 1)
    x[0, 0, 0, 3] = bad
    mean, var = CPU.batch_norm_stats(x)
    assert np.isnan(var[3]) and not np.isfinite(mean[3])
    assert np.isfinite(np.delete(var, 3)).all() and np.isfinite(np.delete(mean, 3)).all()
    scale, shift = tables(16, 2)
    y = CPU.batch_norm_apply(x, scale, shift, None, True)
    assert not np.isfinite(y[0, 0, 0, 3]) and np.isfinite(np.delete(y.ravel(), 3)).all()


def test_other_types_go_to_the_reference() -> None:
    x = np.random.default_rng(0).normal(size=(4, 16)).astype(np.float16)
    assert CPU.batch_norm_stats(x)[0].dtype == np.float16
