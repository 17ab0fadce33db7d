"""Neural operators: what the table cannot show. Randomness, indices, edge values, state, half types, wrong use."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import minidl
import minidl.nn.functional as F
from minidl import Tensor
from minidl.testing.cases import FAMILIES, Entry


def floats(*shape: int, seed: int = 0, dtype: Any = np.float32) -> Tensor:
    return Tensor(np.random.default_rng(seed).standard_normal(shape).astype(dtype))


# --- randomness ---------------------------------------------------------------------------------------------


def test_channel_dropout_drops_whole_channels_and_its_gradient_is_the_same_mask() -> None:
    minidl.manual_seed(1)
    x = Tensor(np.ones((16, 32, 3, 2), np.float32), requires_grad=True)
    y = F.dropout2d(x, 0.25)
    y.sum().backward()
    channels = y.data.reshape(512, 6)
    assert (channels == channels[:, :1]).all() and set(np.unique(channels)) == {0, np.float32(1 / 0.75)}
    assert abs((channels[:, 0] == 0).mean() - 0.25) < 0.06
    assert x.grad is not None and np.array_equal(x.grad.data, y.data)
    signals = F.dropout1d(Tensor(np.ones((8, 3), np.float32)), 0.5).data  # one sample: (C, L)
    assert (signals == signals[:, :1]).all()


def test_stochastic_depth_drops_samples_or_the_batch() -> None:
    minidl.manual_seed(2)
    rows = F.stochastic_depth(Tensor(np.ones((64, 3, 2), np.float32)), 0.5).data.reshape(64, 6)
    assert (rows == rows[:, :1]).all() and set(np.unique(rows)) == {0, 2}
    batches = [F.stochastic_depth(Tensor(np.ones((4, 3), np.float32)), 0.5, "batch").data for _ in range(20)]
    assert all(len(np.unique(b)) == 1 for b in batches) and len({b[0, 0] for b in batches}) == 2


def test_dropout_of_everything_is_zero_and_of_nothing_is_the_input() -> None:
    x = floats(3, 4)
    for drop in (F.dropout, F.dropout1d, F.stochastic_depth):
        assert drop(x, 0.0) is x and drop(x, 0.7, training=False) is x
        assert (drop(x, 1.0).data == 0).all()


def test_attention_drops_weights_in_training_only() -> None:
    minidl.manual_seed(0)
    q = Tensor(np.zeros((1, 1, 4), np.float32))
    k, v = floats(1, 40, 4), Tensor(np.ones((1, 40, 1), np.float32))
    assert F.scaled_dot_product_attention(q, k, v).item() == pytest.approx(1)
    kept = F.scaled_dot_product_attention(q, k, v, dropout_p=0.5).item() * 20
    assert kept == pytest.approx(round(kept), abs=1e-4) and round(kept) != 20


# --- indices ------------------------------------------------------------------------------------------------


def test_indices_point_at_the_maxima() -> None:
    x = floats(2, 3, 7, 6, seed=3)
    flat = x.data.reshape(2, 3, 42)
    for y, index in (
        F.max_pool2d(x, 3, 2, 1, return_indices=True),
        F.max_pool2d(x, 2, ceil_mode=True, return_indices=True),
        F.adaptive_max_pool2d(x, (4, 4), return_indices=True),
        F.adaptive_max_pool2d(x, (7, 3), return_indices=True),
    ):
        assert index.dtype == np.int64 and index.shape == y.shape
        picked = np.take_along_axis(flat, index.data.reshape(2, 3, -1), 2).reshape(y.shape)
        assert np.array_equal(picked, y.data)
    y, index = F.max_pool1d(Tensor(np.array([[1.0, 3, 3, 2, 5]], np.float32)), 2, 1, return_indices=True)
    assert y.data.tolist() == [[3, 3, 3, 5]] and index.data.tolist() == [[1, 1, 2, 4]]


def test_adaptive_maximum_takes_a_nan_and_the_first_of_equals() -> None:
    x = np.zeros((1, 1, 5, 5), np.float32)
    x[0, 0, 1, 1] = np.nan
    y, index = F.adaptive_max_pool2d(Tensor(x), (2, 2), return_indices=True)
    assert np.isnan(y.data[0, 0, 0, 0]) and index.data[0, 0].tolist() == [[6, 2], [10, 12]]


def test_where_indices_repeat_the_last_one_wins_and_gets_the_gradient() -> None:
    x = Tensor(np.array([[[[1.0, 2], [3, 4]]]]), requires_grad=True)
    index = np.array([[[[5, 0], [5, 15]]]])
    y = F.max_unpool2d(x, index, 2)
    assert y.shape == (1, 1, 4, 4) and y.data.reshape(-1)[[0, 5, 15]].tolist() == [2, 3, 4]
    y.sum().backward()
    assert x.grad is not None and x.grad.data.tolist() == [[[[0, 1], [1, 1]]]]


# --- state and edge values ----------------------------------------------------------------------------------


def test_instance_norm_moves_running_statistics_as_pytorch_does() -> None:
    x = floats(3, 2, 5, 4)
    mean, var = Tensor(np.zeros(2, np.float32)), Tensor(np.ones(2, np.float32))
    F.instance_norm(x, mean, var, momentum=0.2)
    np.testing.assert_allclose(mean.data, 0.2 * x.data.mean((2, 3)).mean(0), rtol=1e-5)
    np.testing.assert_allclose(var.data, 0.8 + 0.2 * x.data.var((2, 3), ddof=1).mean(0), rtol=1e-5)


def test_norms_are_exact_far_from_zero() -> None:
    x = (np.random.default_rng(0).standard_normal((4, 64)) + 1e4).astype(np.float32)
    wide = x.astype(np.float64)
    expected = (wide - wide.mean(1, keepdims=True)) / np.sqrt(wide.var(1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(F.layer_norm(Tensor(x), 64).data, expected, atol=2e-5)


def test_half_types_are_normalised_in_float32() -> None:
    x = np.full((2, 5000), 100, np.float32)
    x[:, ::2] = 102  # a float16 sum would be infinite, a bfloat16 sum would stop growing
    for dtype in (np.float16, ml_dtypes.bfloat16):
        y = F.layer_norm(Tensor(x.astype(dtype)), 5000)
        assert y.dtype == dtype and np.allclose(np.abs(y.data.astype(np.float32)), 1, atol=0.01)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16], ids=["float16", "bfloat16"])
@pytest.mark.parametrize(
    "entry", [e for f in ("neural", "activations", "losses") for e in FAMILIES[f]], ids=lambda e: e.name
)
def test_half_types_stay_and_are_close(entry: Entry, dtype: Any) -> None:
    tensors = [Tensor(a, requires_grad=True) for a in entry.inputs(dtype)]
    y = entry.function(minidl, F, *tensors)
    exact = entry.function(minidl, F, *[Tensor(t.data.astype(np.float64)) for t in tensors]).data
    y.backward(minidl.ones_like(y))
    assert y.dtype == dtype and all(t.grad is None or t.grad.dtype == dtype for t in tensors)
    tolerance = 4e-3 if dtype == np.float16 else 3e-2
    assert np.abs(y.data.astype(np.float64) - exact).max() <= tolerance * max(1.0, np.abs(exact).max())


# PyTorch 2.13's gradients where the functions have kinks, and far out
KINKS: list[tuple[str, list[float], list[float]]] = [
    ("relu6", [-1, 0, 6, 7], [0, 0, 0, 0]),
    ("hardtanh", [-1, 0, 1], [0, 1, 0]),
    ("hardswish", [-3, 3, -800, 800], [0, 1, 0, 1]),
    ("hardsigmoid", [-3, 0, 3], [0, 1 / 6, 0]),
    ("leaky_relu", [0, 1], [0.01, 1]),
    ("elu", [0, -800, 800], [1, 0, 1]),
    ("softplus", [-800, 0, 800], [0, 0.5, 1]),
    ("logsigmoid", [-800, 0, 800], [1, 0.5, 0]),
    ("silu", [-800, 0, 800], [0, 0.5, 1]),
    ("gelu", [-40, 0, 40], [0, 0.5, 1]),
    ("softsign", [0, -1], [1, 0.25]),
]


@pytest.mark.parametrize(("name", "points", "slopes"), KINKS, ids=[k[0] for k in KINKS])
def test_gradients_at_kinks_and_far_out_are_pytorchs(
    name: str, points: list[float], slopes: list[float]
) -> None:
    x = Tensor(np.array(points, np.float64), requires_grad=True)
    y = getattr(F, name)(x)
    y.sum().backward()
    assert np.isfinite(y.data).all()
    assert x.grad is not None
    np.testing.assert_allclose(x.grad.data, slopes, atol=1e-12)


def test_binary_cross_entropy_of_certainty_is_finite() -> None:
    x = Tensor(np.array([0.0, 1, 0, 1]), requires_grad=True)
    loss = F.binary_cross_entropy(x, np.array([0.0, 1, 1, 0]), reduction="none")
    loss.sum().backward()
    assert loss.data.tolist() == [0, 0, 100, 100]  # PyTorch's limit of the logarithm
    assert x.grad is not None and x.grad.data.tolist() == [0, 0, -1e12, 1e12]


def test_logit_losses_are_stable_far_out() -> None:
    x = Tensor(np.array([-1000.0, 1000.0]), requires_grad=True)
    loss = F.binary_cross_entropy_with_logits(x, np.array([1.0, 0.0]), reduction="none")
    loss.sum().backward()
    assert loss.data.tolist() == [1000, 1000]
    assert x.grad is not None and x.grad.data.tolist() == [-1, 1]


def test_an_ignored_target_costs_nothing_even_where_its_probability_is_zero() -> None:
    logp = Tensor(np.array([[-np.inf, 0.0], [0.0, -np.inf]]), requires_grad=True)
    loss = F.nll_loss(logp, np.array([-100, 0]))
    loss.backward()
    assert loss.item() == 0 and logp.grad is not None and logp.grad.data.tolist() == [[0, 0], [-1, 0]]
    assert np.isnan(F.nll_loss(logp, np.array([-100, -100])).item())  # as PyTorch: a mean over nothing


def test_divergence_from_certainty_is_finite() -> None:
    target = Tensor(np.array([1.0, 0.0]), requires_grad=True)
    loss = F.kl_div(Tensor(np.log([0.5, 0.5])), target, reduction="sum")
    loss.backward()
    assert loss.item() == pytest.approx(np.log(2))
    assert target.grad is not None and np.isfinite(target.grad.data).all()


def test_vectors_of_zeros_have_gradient_zero_not_nan() -> None:
    for function in (
        lambda x: F.cosine_similarity(x, Tensor(np.ones((2, 3))), 1),
        lambda x: F.normalize(x),
        lambda x: F.pairwise_distance(x, x, eps=0.0),
    ):
        x = Tensor(np.zeros((2, 3)), requires_grad=True)
        function(x).sum().backward()
        assert x.grad is not None and np.isfinite(x.grad.data).all()


def test_a_query_that_sees_no_key_gets_zeros_and_no_gradient() -> None:
    q, k, v = (floats(1, 2, 4, seed=s, dtype=np.float64).requires_grad_() for s in range(3))
    y = F.scaled_dot_product_attention(q, k, v, np.array([[True, True], [False, False]]))
    y.sum().backward()
    assert (y.data[0, 1] == 0).all() and q.grad is not None and (q.grad.data[0, 1] == 0).all()
    assert all(t.grad is not None and np.isfinite(t.grad.data).all() for t in (q, k, v))


def test_embedding_gives_the_padding_row_no_gradient_and_adds_repeated_rows() -> None:
    weight = floats(4, 2, dtype=np.float64).requires_grad_()
    F.embedding(np.array([[1, 3], [3, 0]]), weight, padding_idx=-4).sum().backward()
    assert weight.grad is not None and weight.grad.data.tolist() == [[0, 0], [1, 1], [0, 0], [2, 2]]


def test_embedding_shortens_the_rows_that_it_uses() -> None:
    weight = Tensor(np.array([[3.0, 4.0], [6.0, 8.0], [0.3, 0.4]], np.float32))
    F.embedding(np.array([0, 2]), weight, max_norm=1.0)
    np.testing.assert_allclose(weight.data, [[0.6, 0.8], [6, 8], [0.3, 0.4]], rtol=1e-6)


def test_unfold_and_fold_count_how_often_a_pixel_is_read() -> None:
    ones = minidl.ones(1, 1, 4, 4)
    counts = F.fold(F.unfold(ones, 3, padding=1), (4, 4), 3, padding=1).data[0, 0]
    assert counts.tolist() == [[4, 6, 6, 4], [6, 9, 9, 6], [6, 9, 9, 6], [4, 6, 6, 4]]


def test_a_transposed_convolution_is_the_adjoint_of_the_convolution() -> None:
    x, w = floats(2, 4, 9, 8, dtype=np.float64), floats(6, 2, 3, 2, seed=1, dtype=np.float64)
    options: dict[str, Any] = {"stride": (2, 3), "padding": (1, 0), "dilation": (2, 1), "groups": 2}
    y = F.conv2d(x, w, **options)
    g = floats(*y.shape, seed=2, dtype=np.float64)
    small = F.conv_transpose2d(g, w, **options)
    extra: Any = tuple(a - b for a, b in zip(x.shape[2:], small.shape[2:], strict=True))
    back = F.conv_transpose2d(g, w, output_padding=extra, **options)
    assert np.vdot(y.data, g.data) == pytest.approx(np.vdot(x.data, back.data), rel=1e-12)


# --- wrong use ----------------------------------------------------------------------------------------------

X, S = floats(2, 4, 6, 5), floats(2, 4, 9)
WRONG: list[tuple[Callable[[], object], type[Exception], str]] = [
    (lambda: F.conv1d(X, S), ValueError, r"conv1d: x expects 3 dimensions \(N, C, L\) \(or 2, \(C, L\)\)"),
    (lambda: F.conv1d(S, floats(3, 4)), ValueError, r"conv1d: weight expects 3 dimensions"),
    (lambda: F.conv1d(S, floats(3, 5, 3)), ValueError, "conv1d: weight expects 5 input channels, x has 4"),
    (lambda: F.conv1d(S, floats(3, 4, 3), stride=(1, 2)), ValueError, "conv1d: stride expects an int"),
    (lambda: F.conv1d(S, floats(3, 4, 30)), ValueError, "conv1d: a 1x30 kernel .* is larger than the padded"),
    (lambda: F.conv2d(X, floats(3, 4, 3, 3), groups=True), ValueError, "groups expects an int of at least 1"),
    (
        lambda: F.conv_transpose2d(X, floats(3, 4, 3, 3)),
        ValueError,
        "conv_transpose2d: weight expects 3 input channels, x has 4",
    ),
    (
        lambda: F.conv_transpose2d(X, floats(4, 3, 3, 3), stride=2, output_padding=2),
        ValueError,
        "output_padding expects values below the larger of stride .2, 2. and dilation",
    ),
    (lambda: F.conv_transpose2d(X, floats(4, 3, 1, 1), padding=4), ValueError, "gives an output of -2x-3"),
    (
        lambda: F.conv_transpose2d(X, floats(4, 3, 3, 3), groups=3),
        ValueError,
        "divisor of the 4 input channels",
    ),
    (
        lambda: F.conv_transpose2d(X, floats(4, 3, 3, 3), floats(4)),
        ValueError,
        r"bias expects shape \(3,\), got \(4,\)",
    ),
    (lambda: F.conv_transpose1d(S, floats(4, 3, 3), padding="same"), ValueError, "padding expects numbers"),
    (
        lambda: F.avg_pool2d(X, 2, divisor_override=0),
        ValueError,
        "divisor_override expects an int of at least 1",
    ),
    (
        lambda: F.max_unpool2d(X, np.zeros((2, 4, 6, 4), int), 2),
        ValueError,
        "indices expects integers of shape",
    ),
    (
        lambda: F.max_unpool2d(X, np.full(X.shape, 120), 2),
        ValueError,
        r"indices expects values in \[0, 120\)",
    ),
    (lambda: F.max_unpool2d(X, np.zeros(X.shape, int), 2, output_size=(20, 10)), ValueError, "give or take"),
    (
        lambda: F.adaptive_max_pool2d(X, 0),
        ValueError,
        "adaptive_max_pool2d: output_size expects values of at",
    ),
    (lambda: F.unfold(X, 8), ValueError, "unfold: a 8x8 kernel .* is larger than the padded input of 6x5"),
    (lambda: F.fold(S, (5, 4), 2), ValueError, r"4 x 3 windows of 4 elements, so x expects shape"),
    (lambda: F.interpolate(X), ValueError, "exactly one of size and scale_factor"),
    (lambda: F.interpolate(X, 3, mode="cubic"), ValueError, "mode expects one of nearest"),
    (lambda: F.interpolate(X, 3, mode="linear"), ValueError, "mode 'linear' expects 3 dimensions"),
    (lambda: F.interpolate(X, (1, 2, 3)), ValueError, "size expects 2 ints"),
    (lambda: F.interpolate(X, scale_factor=-1), ValueError, "scale_factor expects 2 numbers > 0"),
    (lambda: F.interpolate(X, scale_factor=0.1), ValueError, "leaves nothing of shape"),
    (lambda: F.interpolate(X, 3, align_corners=True), ValueError, "align_corners is for linear"),
    (lambda: F.interpolate(X, 3, antialias=True), ValueError, "antialias is for bilinear"),
    (lambda: F.pixel_shuffle(X, 3), ValueError, r"shape \(..., C \* 9, H, W\)"),
    (lambda: F.pixel_unshuffle(X, 2), ValueError, "height and width divisible by 2"),
    (lambda: F.pad(X, (1,)), ValueError, "pad expects pairs of ints"),
    (lambda: F.pad(X, (5, 0, 0, 0), "reflect"), ValueError, "a reflect border of 5 needs more than the 5"),
    (lambda: F.pad(X, (1, 1, 1, 1), "mirror"), ValueError, "mode expects one of constant, reflect"),
    (lambda: F.pad(X, (0, 0, -7, 0)), ValueError, "crops more than shape"),
    (lambda: F.layer_norm(X, 4), ValueError, r"layer_norm: x expects a shape that ends in \(4,\)"),
    (lambda: F.layer_norm(X, 5, floats(4)), ValueError, r"weight expects shape \(5,\), got \(4,\)"),
    (lambda: F.group_norm(X, 3), ValueError, "num_groups expects a divisor of the 4 channels, got 3"),
    (lambda: F.group_norm(floats(2, 4), 4), ValueError, "more than one value per group"),
    (lambda: F.instance_norm(floats(2, 4, 1)), ValueError, "more than one value per channel"),
    (
        lambda: F.instance_norm(X, use_input_stats=False),
        ValueError,
        "running_mean and running_var are needed",
    ),
    (lambda: F.prelu(X, floats(3)), ValueError, r"weight expects shape \(1,\) or \(4,\)"),
    (lambda: F.gelu(X, "erf"), ValueError, "approximate expects 'none' or 'tanh'"),
    (lambda: F.glu(X, 3), ValueError, "dim 3 expects an even size, got 5"),
    (lambda: F.softplus(X, 0), ValueError, "beta expects a number other than 0"),
    (lambda: F.elu(Tensor(np.arange(3))), TypeError, "elu: x expects a floating dtype, got int64"),
    (lambda: F.mse_loss(X, S), ValueError, r"mse_loss: target expects the shape of x \(2, 4, 6, 5\)"),
    (lambda: F.l1_loss(X, X, "avg"), ValueError, "l1_loss: reduction expects 'mean', 'sum' or 'none'"),
    (lambda: F.huber_loss(X, X, delta=0), ValueError, "delta expects a number > 0"),
    (lambda: F.binary_cross_entropy(X, X), ValueError, r"x expects values in \[0, 1\]"),
    (lambda: F.nll_loss(X, np.zeros((2, 6, 4), int)), ValueError, "target of that shape without C"),
    (lambda: F.nll_loss(X, np.full((2, 6, 5), 4)), ValueError, r"target 4 is not a class index in \[0, 4\)"),
    (lambda: F.nll_loss(S, np.zeros((2, 9))), TypeError, "integer class indices, got float64"),
    (lambda: F.cosine_embedding_loss(S[0], S[0], np.zeros(4)), ValueError, "target expects 1 and -1"),
    (lambda: F.triplet_margin_loss(S, S, S, margin=0), ValueError, "margin expects a number > 0"),
    (lambda: F.pairwise_distance(S, S, p=-1), ValueError, "p expects a number > 0"),
    (lambda: F.embedding(np.array([4]), S[0]), IndexError, r"index expects values in \[0, 4\), got 4 to 4"),
    (lambda: F.embedding(np.array([0.5]), S[0]), TypeError, "index expects integers, got float64"),
    (lambda: F.embedding(np.array([0]), S[0], 4), ValueError, "padding_idx expects a row"),
    (lambda: F.dropout(X, 1.5), ValueError, "p expects a probability from 0 to 1"),
    (lambda: F.dropout2d(floats(2, 3)), ValueError, "dropout2d: x expects 4 dimensions"),
    (lambda: F.stochastic_depth(X, 0.5, "column"), ValueError, "mode expects 'row' or 'batch'"),
    (lambda: F.scaled_dot_product_attention(S, S, S[:, :3]), ValueError, "do not fit together"),
    (
        lambda: F.scaled_dot_product_attention(S, S, S, np.ones((4, 3), bool)),
        ValueError,
        "does not broadcast",
    ),
    (
        lambda: F.scaled_dot_product_attention(S, S, S, np.ones((4, 4))),
        TypeError,
        "bool or float32, got float64",
    ),
    (
        lambda: F.scaled_dot_product_attention(S, S, S, np.ones((4, 4), bool), is_causal=True),
        ValueError,
        "attn_mask and is_causal exclude each other",
    ),
]


@pytest.mark.parametrize(("call", "kind", "message"), WRONG)
def test_wrong_use_is_named(call: Callable[[], object], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        call()
