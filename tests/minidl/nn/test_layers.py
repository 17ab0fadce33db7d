"""Layers: what they hand to the operators, how they start, and which arguments they refuse."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import pytest

import minidl
from minidl import kernels, nn
from minidl.nn import functional as F
from minidl.nn import init
from minidl.tensor import Tensor


@pytest.fixture(autouse=True)
def reference_kernels() -> Iterator[None]:
    with kernels.use("reference"):
        yield


def images(*shape: int, seed: int = 0, dtype: type = np.float32) -> Tensor:
    return Tensor(np.random.default_rng(seed).standard_normal(shape).astype(dtype))


def test_a_convolution_passes_every_argument_on() -> None:
    layer = nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=((1, 0), (2, 1)), dilation=(1, 2), groups=2)
    x = images(2, 4, 9, 8)
    expected = F.conv2d(x, layer.weight, layer.bias, (2, 1), ((1, 0), (2, 1)), (1, 2), 2)
    assert layer(x).shape == expected.shape == (2, 6, 4, 9)
    assert np.array_equal(layer(x).detach().numpy(), expected.detach().numpy())
    assert "padding=((1, 0), (2, 1)), dilation=(1, 2), groups=2" in repr(layer)


def test_same_and_valid_padding_give_the_sizes_they_promise() -> None:
    x = images(1, 2, 7, 6)
    assert nn.Conv2d(2, 3, (4, 3), padding="same", dilation=2)(x).shape == (1, 3, 7, 6)
    assert nn.Conv2d(2, 3, 3, padding="valid")(x).shape == (1, 3, 5, 4)


def test_pooling_layers_pass_every_argument_on() -> None:
    x = images(2, 3, 9, 10)
    pairs: list[tuple[nn.Module, Tensor]] = [
        (nn.MaxPool2d(3, 2, 1, ceil_mode=True), F.max_pool2d(x, 3, 2, 1, 1, True)),
        (nn.MaxPool2d((2, 3), dilation=2), F.max_pool2d(x, (2, 3), (2, 3), 0, 2, False)),
        (nn.AvgPool2d(3, 2, 1, True, False), F.avg_pool2d(x, 3, 2, 1, True, False)),
        (nn.AvgPool2d(2), F.avg_pool2d(x, 2, 2)),
        (nn.AdaptiveAvgPool2d((2, 3)), F.adaptive_avg_pool2d(x, (2, 3))),
    ]
    for layer, expected in pairs:
        assert np.array_equal(layer(x).numpy(), expected.numpy()), layer


def test_flatten_follows_the_channel_order_of_the_shape_not_of_memory() -> None:
    array = np.arange(24, dtype=np.float32).reshape(1, 2, 3, 4)
    last = np.ascontiguousarray(array.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    assert nn.Flatten()(Tensor(last)).numpy().tolist() == [list(range(24))]


def test_linear_relu_identity() -> None:
    layer, x = nn.Linear(3, 2), images(5, 3)
    assert layer.bias is not None
    np.testing.assert_allclose(
        layer(x).detach().numpy(), x.numpy() @ layer.weight.data.T + layer.bias.data, rtol=1e-5, atol=1e-6
    )
    assert nn.Linear(3, 2, bias=False).bias is None
    assert np.array_equal(nn.ReLU()(x).numpy(), np.maximum(x.numpy(), 0)) and nn.Identity()(x) is x


def test_dropout_acts_in_training_only_and_keeps_the_mean() -> None:
    minidl.manual_seed(3)
    layer, x = nn.Dropout(0.25), Tensor(np.ones((100, 100), dtype=np.float32))
    y = layer(x).numpy()
    assert set(np.unique(y)) == {np.float32(0), np.float32(1 / 0.75)}
    assert abs(y.mean() - 1) < 0.03
    assert layer.eval()(x) is x


def test_running_statistics_follow_pytorchs_rule() -> None:
    norm, batches = nn.BatchNorm2d(3, momentum=0.2), [images(4, 3, 2, 5, seed=s) for s in range(3)]
    mean, var = np.zeros(3), np.ones(3)
    for x in batches:
        values = x.numpy().transpose(1, 0, 2, 3).reshape(3, -1).astype(np.float64)
        mean = 0.8 * mean + 0.2 * values.mean(1)
        var = 0.8 * var + 0.2 * values.var(1, ddof=1)  # unbiased, though the biased one normalises
        norm(x)
    assert norm.running_mean is not None and norm.running_var is not None
    np.testing.assert_allclose(norm.running_mean.numpy(), mean, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(norm.running_var.numpy(), var, rtol=1e-5)
    assert norm.num_batches_tracked is not None and norm.num_batches_tracked.item() == 3
    expected = (batches[0].numpy() - mean[:, None, None]) / np.sqrt(var[:, None, None] + 1e-5)
    np.testing.assert_allclose(norm.eval()(batches[0]).detach().numpy(), expected, rtol=1e-4, atol=1e-5)


def test_momentum_none_averages_all_batches_alike() -> None:
    norm, batches = nn.BatchNorm2d(2, momentum=None), [images(4, 2, 3, 3, seed=s) for s in range(4)]
    for x in batches:
        norm(x)
    assert norm.running_mean is not None
    expected = np.mean([x.numpy().mean((0, 2, 3)) for x in batches], axis=0)
    np.testing.assert_allclose(norm.running_mean.numpy(), expected, rtol=1e-5, atol=1e-7)
    norm.reset_running_stats()
    assert norm.running_mean.numpy().tolist() == [0, 0]


def test_the_fused_batch_norm_equals_its_parts() -> None:
    norm, x, residual = nn.BatchNorm2d(3), images(2, 3, 4, 4), images(2, 3, 4, 4, seed=1)
    norm.eval()
    parts = F.relu(norm(x) + residual)
    np.testing.assert_allclose(
        norm(x, residual=residual, relu=True).detach().numpy(), parts.detach().numpy(), atol=1e-6
    )


def test_batch_norm_without_statistics_normalises_by_the_batch_in_eval_too() -> None:
    norm, x = nn.BatchNorm2d(3, affine=False, track_running_stats=False).eval(), images(4, 3, 5, 5)
    assert not norm.state_dict() and not list(norm.parameters())
    y = norm(x).numpy()
    np.testing.assert_allclose(y.mean((0, 2, 3)), 0, atol=1e-6)
    np.testing.assert_allclose(y.std((0, 2, 3)), 1, atol=1e-4)


def test_one_value_per_channel_is_an_error_in_training_only() -> None:
    norm, x = nn.BatchNorm2d(3), images(1, 3, 1, 1)
    with pytest.raises(ValueError, match="more than one value per channel"):
        norm(x)
    assert norm.num_batches_tracked is not None and norm.num_batches_tracked.item() == 0
    assert norm.eval()(x).shape == (1, 3, 1, 1)
    with pytest.raises(ValueError, match=r"x must be \(N, 3, H, W\), got shape \(1, 4, 1, 1\)"):
        norm(images(1, 4, 1, 1))


def test_cross_entropy_layer_equals_the_function() -> None:
    logits, target = images(6, 4), np.array([0, 3, 1, 2, 1, 0])
    weight = np.array([1.0, 2.0, 0.5, 1.0], dtype=np.float32)
    layer = nn.CrossEntropyLoss(weight, ignore_index=2, reduction="sum", label_smoothing=0.1)
    expected = F.cross_entropy(logits, target, Tensor(weight), 2, "sum", 0.1)
    assert layer(logits, target).item() == expected.item()
    assert not list(layer.parameters()) and list(dict(layer.named_buffers())) == ["weight"]


def test_initial_weights_depend_on_the_seed_alone_and_have_pytorchs_ranges() -> None:
    def start() -> list[np.ndarray]:
        minidl.manual_seed(5)
        return [*nn.Conv2d(8, 64, 3).state_dict().values(), *nn.Linear(100, 50).state_dict().values()]

    first, second = start(), start()
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    for array, fan_in in zip(first, (72, 72, 100, 100), strict=True):
        bound = 1 / math.sqrt(fan_in)
        assert array.dtype == np.float32 and 0.9 * bound < np.abs(array).max() <= bound


def test_skipped_initialisation_touches_no_weights_and_draws_no_numbers() -> None:
    weight = Tensor(np.full((4, 4), 7.0, dtype=np.float32))
    minidl.manual_seed(3)
    expected = minidl.rand(2).numpy()
    minidl.manual_seed(3)
    with init.skipped():
        for fill in (
            init.uniform_,
            init.normal_,
            init.kaiming_normal_,
            init.xavier_uniform_,
            init.orthogonal_,
        ):
            assert fill(weight) is weight
        nn.Linear(8, 8)
    np.testing.assert_array_equal(weight.data, np.float32(7))
    np.testing.assert_array_equal(minidl.rand(2).numpy(), expected)
    assert (init.uniform_(weight).data != 7).all()


def test_initialisers_have_the_spread_of_their_formulas() -> None:
    minidl.manual_seed(0)
    weight = Tensor(np.empty((64, 32, 3, 3), dtype=np.float32))
    assert init.fans(weight) == (288, 576)
    cases: list[tuple[Callable[[], Tensor], float]] = [
        (lambda: init.kaiming_normal_(weight, mode="fan_out", nonlinearity="relu"), math.sqrt(2 / 576)),
        (lambda: init.kaiming_uniform_(weight, a=math.sqrt(5)), math.sqrt(1 / 3 / 288)),
        (lambda: init.xavier_normal_(weight, gain=2.0), 2 * math.sqrt(2 / 864)),
        (lambda: init.xavier_uniform_(weight), math.sqrt(2 / 864)),
        (lambda: init.normal_(weight, 0, 0.3), 0.3),
    ]
    for fill, std in cases:
        fill()
        assert abs(weight.numpy().std() / std - 1) < 0.02 and abs(weight.numpy().mean()) < 0.02 * std
    with pytest.raises(ValueError, match="at least 2 dimensions"):
        init.kaiming_normal_(Tensor(np.ones(3)))
    with pytest.raises(ValueError, match="mode must be"):
        init.kaiming_normal_(weight, mode="fan")
    with pytest.raises(ValueError, match="nonlinearity must be one of"):
        init.calculate_gain("cubic")


REFUSED: list[tuple[Callable[[], object], type[Exception], str]] = [
    (lambda: nn.Conv2d(0, 3, 3), ValueError, "Conv2d: in_channels must be at least 1, got 0"),
    (lambda: nn.Conv2d(3, 3.0, 3), TypeError, "Conv2d: out_channels must be an integer, got 3.0"),
    (lambda: nn.Conv2d(3, 3, (3, 3, 3)), ValueError, "Conv2d: kernel_size must be an int or a pair"),
    (lambda: nn.Conv2d(3, 3, 3, stride=0), ValueError, "Conv2d: stride must be at least 1"),
    (lambda: nn.Conv2d(3, 3, 3, padding=-1), ValueError, "Conv2d: padding must be at least 0"),
    (lambda: nn.Conv2d(3, 3, 3, padding="full"), ValueError, "'same', 'valid' or integers, got 'full'"),
    (lambda: nn.Conv2d(3, 3, 3, padding=((1, 1), 2)), ValueError, "top, bottom"),
    (lambda: nn.Conv2d(3, 3, 3, stride=2, padding="same"), ValueError, "padding='same' needs stride 1"),
    (lambda: nn.Conv2d(3, 4, 3, groups=2), ValueError, "in_channels 3 is not divisible by groups 2"),
    (lambda: nn.Conv2d(4, 3, 3, groups=2), ValueError, "out_channels 3 is not divisible by groups 2"),
    (lambda: nn.BatchNorm2d(True), TypeError, "BatchNorm2d: num_features must be an integer, got True"),
    (lambda: nn.BatchNorm2d(3, eps=-1), ValueError, "BatchNorm2d: eps must be finite and at least 0"),
    (lambda: nn.BatchNorm2d(3, momentum=1.5), ValueError, r"BatchNorm2d: momentum must lie in \[0, 1\]"),
    (lambda: nn.MaxPool2d(3, padding=2), ValueError, "MaxPool2d: padding .2, 2. must be at most half"),
    (lambda: nn.AvgPool2d(0), ValueError, "AvgPool2d: kernel_size must be at least 1"),
    (lambda: nn.AdaptiveAvgPool2d(0), ValueError, "AdaptiveAvgPool2d: output_size must be at least 1"),
    (lambda: nn.Linear(3, -1), ValueError, "Linear: out_features must be at least 1, got -1"),
    (lambda: nn.Dropout(1.1), ValueError, r"Dropout: p must lie in \[0, 1\], got 1.1"),
    (lambda: nn.Dropout("a"), TypeError, "Dropout: p must be a number, got 'a'"),
    (lambda: nn.CrossEntropyLoss(reduction="avg"), ValueError, "reduction must be 'mean', 'sum' or 'none'"),
    (lambda: nn.CrossEntropyLoss(np.ones((2, 2))), ValueError, r"weight must be \(classes,\), got shape"),
    (lambda: nn.CrossEntropyLoss(label_smoothing=2), ValueError, "label_smoothing must lie in"),
]


@pytest.mark.parametrize(("build", "kind", "message"), REFUSED)
def test_a_wrong_constructor_argument_is_named(
    build: Callable[[], object], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        build()
