"""Modules beyond the ResNets': containers, state, randomness, initialisers, refused arguments."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import minidl
from minidl import Tensor, nn
from minidl.nn import init


def zeros(*shape: int) -> Tensor:
    return Tensor(np.zeros(shape, np.float32))


def test_module_dicts_keep_names_and_order() -> None:
    layers = nn.ModuleDict({"b": nn.Linear(2, 3), "a": nn.ReLU()})
    layers["c"] = nn.Linear(3, 1)
    layers.update({"a": nn.Sigmoid()})
    assert list(layers) == ["b", "a", "c"] and len(layers) == 3 and "a" in layers and "x" not in layers
    assert list(layers.state_dict()) == ["b.weight", "b.bias", "c.weight", "c.bias"]
    assert isinstance(layers.pop("a"), nn.Sigmoid) and list(layers.keys()) == ["b", "c"]
    with pytest.raises(KeyError, match="no item 'a'; there are b, c"):
        layers["a"]
    with pytest.raises(TypeError, match="cannot be called"):
        layers(zeros(1))
    with pytest.raises(KeyError, match="is a method"):
        layers["keys"] = nn.ReLU()
    layers.clear()
    assert len(layers) == 0


def test_lists_insert_extend_slice_and_delete_and_number_anew() -> None:
    layers = nn.ModuleList([nn.ReLU(), nn.Linear(2, 2)])
    layers.insert(1, nn.Tanh())
    layers.extend([nn.Sigmoid(), nn.Identity()])
    assert [type(m).__name__ for m in layers] == ["ReLU", "Tanh", "Linear", "Sigmoid", "Identity"]
    assert list(layers.state_dict()) == ["2.weight", "2.bias"]
    assert isinstance(layers[1:3], nn.ModuleList) and layers[1:3][1] is layers[2]
    del layers[0], layers[-2:]
    assert [name for name, _ in layers.named_children()] == ["0", "1"] and isinstance(layers[1], nn.Linear)


def test_named_sequences_keep_their_names_when_sliced() -> None:
    net = nn.Sequential({"first": nn.Linear(2, 3), "second": nn.ReLU()})
    net.append(nn.Linear(3, 1))
    assert [name for name, _ in net.named_children()] == ["first", "second", "2"]
    assert [name for name, _ in net[1:].named_children()] == ["second", "2"] and net[-1] is net[2]
    assert net(zeros(4, 2)).shape == (4, 1)


def test_parameters_in_lists_and_dicts_are_found() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scales = nn.ParameterList([zeros(2), np.ones(3)])
            self.named = nn.ParameterDict({"gate": zeros(1)})

    model = Model()
    assert list(model.state_dict()) == ["scales.0", "scales.1", "named.gate"]
    assert all(p.requires_grad for p in model.parameters()) and len(model.scales) == 2
    assert "(0): Parameter containing: [float32 of size 2]" in repr(model.scales)
    with pytest.raises(TypeError, match="must be a Tensor or array, got int"):
        model.scales.append(3)


def test_batch_norm_1d_takes_rows_and_signals_and_names_other_shapes() -> None:
    norm = nn.BatchNorm1d(3)
    assert norm(zeros(4, 3)).shape == (4, 3) and norm(zeros(4, 3, 5)).shape == (4, 3, 5)
    with pytest.raises(
        ValueError, match=r"BatchNorm1d: x must be \(N, 3\) or \(N, 3, L\), got shape \(4, 2\)"
    ):
        norm(zeros(4, 2))
    norm.freeze()
    assert not norm.training


def test_instance_norm_tracks_statistics_only_when_asked() -> None:
    x = Tensor(np.random.default_rng(0).standard_normal((2, 3, 4, 4)).astype(np.float32) + 5)
    plain, tracking = nn.InstanceNorm2d(3), nn.InstanceNorm2d(3, track_running_stats=True)
    assert not plain.state_dict() and np.array_equal(plain(x).data, plain.eval()(x).data)
    tracking(x)
    assert tracking.running_mean is not None and (tracking.running_mean.data > 0.4).all()
    assert not np.allclose(tracking(x).data, tracking.eval()(x).data)


def test_transposed_convolutions_reach_the_size_asked_for() -> None:
    down, up = nn.Conv2d(3, 5, 3, 2, 1), nn.ConvTranspose2d(5, 3, 3, 2, 1)
    for size in ((8, 8), (7, 8), (9, 7)):
        code = down(zeros(1, 3, *size))
        assert up(code, output_size=(1, 3, *size)).shape == (1, 3, *size)
    with pytest.raises(ValueError, match="axis 0 can be 7 to 8"):
        up(zeros(1, 5, 4, 4), output_size=(9, 8))


def test_pooling_with_indices_can_be_undone() -> None:
    x = Tensor(np.random.default_rng(0).standard_normal((1, 2, 4, 6)).astype(np.float32))
    pooled, indices = nn.MaxPool2d(2, return_indices=True)(x)
    back = nn.MaxUnpool2d(2)(pooled, indices)
    assert back.shape == x.shape and np.array_equal(back.data[back.data != 0], x.data[back.data != 0])


def test_embeddings_start_with_a_zero_padding_row_and_load_given_ones() -> None:
    layer = nn.Embedding(5, 3, padding_idx=-1)
    assert (layer.weight.data[4] == 0).all() and (layer.weight.data[:4] != 0).all()
    rows = np.arange(6, dtype=np.float32).reshape(3, 2)
    given = nn.Embedding.from_pretrained(rows)
    assert not given.weight.requires_grad and given(np.array([2])).data.tolist() == [[4, 5]]
    rows[:] = 0
    assert given.weight.data[2, 1] == 5


def test_dropping_modules_act_in_training_only() -> None:
    minidl.manual_seed(0)
    x = Tensor(np.ones((8, 6, 3, 3), np.float32))
    for layer in (nn.Dropout2d(0.5), nn.StochasticDepth(0.5), nn.Dropout(0.5)):
        assert set(np.unique(layer(x).data)) == {0, 2}
        assert layer.eval()(x) is x
    assert repr(nn.StochasticDepth(0.2)) == "StochasticDepth(p=0.2, mode=row)"


def test_orthogonal_matrices_are() -> None:
    minidl.manual_seed(0)
    for shape in ((5, 3), (3, 5), (4, 2, 3, 3)):
        w = init.orthogonal_(Tensor(np.empty(shape, np.float64)), gain=2.0).data.reshape(shape[0], -1)
        gram = w @ w.T if w.shape[0] <= w.shape[1] else w.T @ w
        np.testing.assert_allclose(gram, 4 * np.eye(len(gram)), atol=1e-12)


def test_truncated_normal_numbers_stay_inside_and_keep_the_shape_of_the_bell() -> None:
    minidl.manual_seed(0)
    values = init.trunc_normal_(zeros(200, 100), mean=1.0, std=2.0, a=0.0, b=3.0).data
    assert values.min() >= 0 and values.max() <= 3
    assert abs(values.mean() - 1.42) < 0.03  # mean of N(1, 4) inside [0, 3]
    with pytest.raises(ValueError, match="must hold normal numbers"):
        init.trunc_normal_(zeros(3), a=20.0, b=30.0)


def test_identities_pass_their_input_on() -> None:
    assert np.array_equal(init.eye_(zeros(2, 3)).data, np.eye(2, 3))
    layer, x = nn.Conv2d(4, 4, 3, padding=1, groups=2, bias=False), np.random.default_rng(0)
    init.dirac_(layer.weight, groups=2)
    image = Tensor(x.standard_normal((1, 4, 5, 5)).astype(np.float32))
    assert np.array_equal(layer(image).data, image.data)


def test_sparse_columns_hold_their_share_of_zeros() -> None:
    values = init.sparse_(zeros(10, 7), sparsity=0.25).data
    assert ((values == 0).sum(0) == 3).all()


def test_gains_are_pytorchs() -> None:
    gains = {name: init.calculate_gain(name) for name in ("linear", "conv2d", "tanh", "relu", "selu")}
    assert gains == {"linear": 1, "conv2d": 1, "tanh": 5 / 3, "relu": 2**0.5, "selu": 0.75}
    assert init.calculate_gain("leaky_relu", 0.2) == (2 / 1.04) ** 0.5


def test_a_generator_of_ones_own_replaces_the_librarys() -> None:
    a, b = (init.normal_(zeros(4), generator=np.random.default_rng(3)).data for _ in range(2))
    assert np.array_equal(a, b)


REFUSED: list[tuple[Callable[[], object], type[Exception], str]] = [
    (lambda: nn.Conv1d(2, 3, (3, 3)), ValueError, "Conv1d: kernel_size must be an int"),
    (
        lambda: nn.Conv2d(2, 3, 3, padding_mode="mirror"),
        ValueError,
        "padding_mode must be 'zeros', 'reflect'",
    ),
    (lambda: nn.ConvTranspose2d(2, 3, 3, padding_mode="reflect"), ValueError, "padding_mode must be 'zeros'"),
    (lambda: nn.ConvTranspose1d(2, 3, 3, padding="same"), ValueError, "padding must be integers"),
    (lambda: nn.LayerNorm(()), ValueError, "must name at least one dimension"),
    (lambda: nn.GroupNorm(3, 4), ValueError, "num_channels 4 is not divisible by num_groups 3"),
    (lambda: nn.Hardtanh(1, 0), ValueError, "max_val 0 must be greater than min_val 1"),
    (lambda: nn.GELU("erf"), ValueError, "GELU: approximate must be 'none' or 'tanh', got 'erf'"),
    (lambda: nn.Softmax(None), TypeError, "Softmax: dim must be an integer"),  # type: ignore[arg-type]
    (lambda: nn.KLDivLoss("batch"), ValueError, "reduction must be 'mean', 'sum', 'none' or 'batchmean'"),
    (lambda: nn.HuberLoss(delta=-1), ValueError, "delta must be greater than 0"),
    (lambda: nn.SmoothL1Loss(beta=-1), ValueError, "beta must be at least 0"),
    (lambda: nn.TripletMarginLoss(0), ValueError, "margin must be greater than 0"),
    (lambda: nn.Upsample(), ValueError, "exactly one of size and scale_factor"),
    (lambda: nn.Upsample(2, mode="cubic"), ValueError, "mode must be 'nearest'"),
    (lambda: nn.ZeroPad2d((1, 2, 3)), ValueError, "must be an int or 4 ints"),
    (lambda: nn.Embedding(3, 2, 3), ValueError, "padding_idx must be a row of the 3"),
    (lambda: nn.StochasticDepth(0.1, "column"), ValueError, "mode must be 'row' or 'batch'"),
    (lambda: nn.Unflatten(1, (2, 2))(zeros(1, 6)), ValueError, r"does not split into \(2, 2\)"),
    (lambda: nn.AdaptiveAvgPool2d((1, 2, 3)), ValueError, "an int or a pair of ints"),
    (lambda: nn.MaxUnpool2d(2, padding=2), ValueError, "must be at most half"),
    (lambda: init.eye_(zeros(3)), ValueError, "2 dimensions"),
    (lambda: init.dirac_(zeros(3, 3)), ValueError, "a convolution's weight"),
    (lambda: init.sparse_(zeros(3, 3), 2), ValueError, r"sparsity must lie in \[0, 1\]"),
]


@pytest.mark.parametrize(("build", "kind", "message"), REFUSED)
def test_a_wrong_argument_is_named(build: Callable[[], object], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        build()
