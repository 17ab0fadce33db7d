"""Convolution and matrix products: PyTorch's results, the adjoint identities, wrong shapes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from minidl.kernels.reference import ReferenceBackend
from tests.kernels.cases import CONV, DTYPES, TOLERANCE, assert_near, stored

REFERENCE = ReferenceBackend()


def options(case: dict[str, Any]) -> tuple[Any, ...]:
    return case["stride"], case["pad"], case["dilation"], case["groups"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CONV)
def test_convolution_and_its_gradients_equal_pytorch(name: str, dtype: str) -> None:
    case, a, near = CONV[name], stored(name, dtype), TOLERANCE[dtype]
    y = REFERENCE.conv2d(a["x"], a["w"], a["bias"], *options(case))
    assert_near(y, a["y"], near, dtype)
    gx = REFERENCE.conv2d_input_grad(a["gy"], a["w"], a["x"].shape[1:3], *options(case))
    assert_near(gx, a["gx"], near, dtype)
    gw = REFERENCE.conv2d_weight_grad(a["gy"], a["x"], a["w"].shape[1:3], *options(case))
    assert_near(gw, a["gw"], near, dtype)
    assert all(array.flags.c_contiguous for array in (y, gx, gw))


@pytest.mark.parametrize("name", CONV)
def test_the_gradients_are_the_adjoints_of_the_convolution(name: str) -> None:
    case, rng = CONV[name], np.random.default_rng(3)
    x, w = rng.normal(size=case["x"]), rng.normal(size=case["w"])
    y = REFERENCE.conv2d(x, w, None, *options(case))
    gy = rng.normal(size=y.shape)
    gx = REFERENCE.conv2d_input_grad(gy, w, x.shape[1:3], *options(case))
    gw = REFERENCE.conv2d_weight_grad(gy, x, w.shape[1:3], *options(case))
    product = np.vdot(y, gy)
    assert np.vdot(x, gx) == pytest.approx(product, rel=1e-12)
    assert np.vdot(w, gw) == pytest.approx(product, rel=1e-12)


def test_overlapping_windows_add_in_the_input_gradient() -> None:
    gx = REFERENCE.conv2d_input_grad(
        np.ones((1, 3, 3, 1)), np.ones((1, 3, 3, 1)), (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 1
    )
    np.testing.assert_array_equal(gx[0, :, :, 0], [[4, 6, 4], [6, 9, 6], [4, 6, 4]])


def test_relu_clips_the_output_and_keeps_nan() -> None:
    x = np.array([-1.0, 2.0, np.nan]).reshape(1, 1, 3, 1)
    y = REFERENCE.conv2d(x, np.ones((1, 1, 1, 1)), None, (1, 1), ((0, 0), (0, 0)), (1, 1), 1, relu=True)
    np.testing.assert_array_equal(y.ravel(), [0.0, 2.0, np.nan])


def test_an_empty_batch_gives_empty_outputs_and_a_zero_weight_gradient() -> None:
    x, w = np.zeros((0, 5, 5, 2)), np.ones((3, 3, 3, 2))
    rest = ((1, 1), ((1, 1), (1, 1)), (1, 1), 1)
    y = REFERENCE.conv2d(x, w, None, *rest)
    assert y.shape == (0, 5, 5, 3)
    assert REFERENCE.conv2d_input_grad(y, w, (5, 5), *rest).shape == x.shape
    np.testing.assert_array_equal(REFERENCE.conv2d_weight_grad(y, x, (3, 3), *rest), np.zeros(w.shape))


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "channels": ({"w": np.zeros((4, 3, 3, 2))}, "weight expects 2 input channels .* x has 3"),
    "groups": ({"w": np.zeros((4, 3, 3, 1)), "groups": 3}, "4 output channels do not divide into 3 groups"),
    "no groups": ({"groups": 0}, "groups expects at least 1"),
    "bias": ({"bias": np.zeros(3)}, r"bias expects shape \(4,\), got \(3,\)"),
    "window": ({"dilation": (4, 1)}, "a window of 9 pixels does not fit a padded input of 7"),
    "stride": ({"stride": (0, 1)}, "stride expects two integers of at least 1"),
    "pad": ({"pad": ((-1, 0), (0, 0))}, "pad expects .* without negative values"),
    "axes": ({"x": np.zeros((5, 5, 3))}, "x expects 4 axes"),
}


@pytest.mark.parametrize("what", WRONG)
def test_wrong_convolution_arguments_are_named(what: str) -> None:
    right: dict[str, Any] = {"x": np.zeros((1, 5, 5, 3)), "w": np.zeros((4, 3, 3, 3)), "bias": None}
    right |= {"stride": (1, 1), "pad": ((1, 1), (1, 1)), "dilation": (1, 1), "groups": 1}
    changed, message = WRONG[what]
    with pytest.raises(ValueError, match=f"conv2d: {message}"):
        REFERENCE.conv2d(**(right | changed))


def test_gradients_refuse_an_output_gradient_of_the_wrong_size() -> None:
    gy, rest = np.zeros((1, 4, 5, 4)), ((1, 1), ((1, 1), (1, 1)), (1, 1), 1)
    with pytest.raises(ValueError, match=r"conv2d_input_grad: gy expects shape \(1, 5, 5, 4\)"):
        REFERENCE.conv2d_input_grad(gy, np.zeros((4, 3, 3, 3)), (5, 5), *rest)
    with pytest.raises(ValueError, match=r"conv2d_weight_grad: gy expects shape \(1, 5, 5, 4\)"):
        REFERENCE.conv2d_weight_grad(gy, np.zeros((1, 5, 5, 3)), (3, 3), *rest)


def test_matrix_products_follow_their_definition_for_any_strides() -> None:
    rng = np.random.default_rng(0)
    x, w, bias = rng.normal(size=(5, 14))[:, ::2], rng.normal(size=(7, 4)).T, rng.normal(size=4)
    np.testing.assert_allclose(REFERENCE.linear(x, w, bias), np.einsum("mk,nk->mn", x, w) + bias)
    np.testing.assert_allclose(REFERENCE.linear(x, w, None), np.einsum("mk,nk->mn", x, w))
    product = REFERENCE.matmul(x, w.T)
    np.testing.assert_allclose(product, np.einsum("mk,nk->mn", x, w))
    assert product.flags.c_contiguous


def test_matrix_products_name_wrong_shapes() -> None:
    with pytest.raises(ValueError, match="linear: weight expects 4 input features, x has 3"):
        REFERENCE.linear(np.zeros((2, 3)), np.zeros((5, 4)), None)
    with pytest.raises(ValueError, match=r"linear: bias expects shape \(5,\)"):
        REFERENCE.linear(np.zeros((2, 4)), np.zeros((5, 4)), np.zeros(4))
    with pytest.raises(ValueError, match="matmul: b expects 3 rows"):
        REFERENCE.matmul(np.zeros((2, 3)), np.zeros((4, 5)))
