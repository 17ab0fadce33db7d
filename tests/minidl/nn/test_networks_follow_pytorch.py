"""Networks in user code beside PyTorch's: outputs and the gradient of every parameter."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pytest

import minidl
import minidl.nn.functional as F
from minidl import kernels, nn
from minidl.tensor import Tensor
from tests.minidl.nn import network_cases as cases
from tests.minidl.nn.module_cases import build, state

FIXTURE = Path(__file__).parents[2] / "fixtures" / "networks.npz"


@functools.cache
def fixture() -> dict[str, np.ndarray]:
    with np.load(FIXTURE) as stored:
        return dict(stored)


def prepared(name: str, module: nn.Module) -> nn.Module:
    shapes = {n: a.shape for n, a in module.state_dict().items()}
    module = module.double()
    module.load_state_dict(state(name, shapes), strict=False)
    return module


def close(ours: np.ndarray, theirs: np.ndarray) -> None:
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-11 * max(1.0, np.abs(theirs).max()))


@pytest.mark.parametrize("name", cases.NETWORKS)
def test_a_network_and_its_gradients_are_pytorchs(name: str) -> None:
    network = prepared(name, cases.NETWORKS[name](minidl, nn))
    x = Tensor(cases.image())
    with kernels.use("reference"):
        y = network(x)
        cases.loss(name, F, y, x, Tensor(cases.LABELS)).backward()
    close(y.detach().numpy(), fixture()[name])
    for parameter_name, parameter in network.named_parameters():
        assert parameter.grad is not None, parameter_name
        close(parameter.grad.numpy(), fixture()[f"{name}/{parameter_name}"])


@pytest.mark.parametrize("name", cases.ATTENTION)
def test_multi_head_attention_and_its_gradients_are_pytorchs(name: str) -> None:
    text, options = cases.ATTENTION[name]
    layer = prepared(name, build(text, nn))
    inputs = [Tensor(a, requires_grad=True) for a in cases.attention_inputs(name)]
    output, weights = layer(*(inputs * 3 if len(inputs) == 1 else inputs), **options)
    ((output * output).sum() + (weights * weights).sum()).backward()
    close(output.detach().numpy(), fixture()[f"{name}/output"])
    close(weights.detach().numpy(), fixture()[f"{name}/weights"])
    for i, t in enumerate(inputs):
        assert t.grad is not None
        close(t.grad.numpy(), fixture()[f"{name}/input{i}"])
    for parameter_name, parameter in layer.named_parameters():
        assert parameter.grad is not None, parameter_name
        close(parameter.grad.numpy(), fixture()[f"{name}/{parameter_name}"])


def test_attention_without_weights_gives_the_same_output() -> None:
    layer, x = nn.MultiheadAttention(8, 2), Tensor(np.ones((3, 1, 8), np.float32))
    output, weights = layer(x, x, x, need_weights=False)
    assert weights is None and np.array_equal(output.data, layer(x, x, x)[0].data)


def test_causal_attention_is_the_triangular_mask() -> None:
    layer = nn.MultiheadAttention(4, 2)
    x = Tensor(np.random.default_rng(0).standard_normal((5, 2, 4)).astype(np.float32))
    later = ~np.tri(5, dtype=bool)
    causal, masked = layer(x, x, x, is_causal=True), layer(x, x, x, attn_mask=later)
    assert all(np.array_equal(a.data, b.data) for a, b in zip(causal, masked, strict=True))
    assert (causal[1].data[:, later] == 0).all()


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda m, x: m(x[0, 0], x, x), ValueError, "must be three-dimensional"),
        (lambda m, x: m(x, x[:, :, :3], x), ValueError, "must have 4, 4 and 4 channels"),
        (lambda m, x: m(x, x, x[:2]), ValueError, "do not fit together"),
        (lambda m, x: m(x, x, x, attn_mask=np.ones((2, 2), bool)), ValueError, "attn_mask must have shape"),
        (lambda m, x: m(x, x, x, key_padding_mask=np.ones((2, 5))), TypeError, "must be bool or float32"),
        (lambda m, x: nn.MultiheadAttention(5, 2), ValueError, "embed_dim 5 is not divisible by num_heads 2"),
    ],
)
def test_wrong_use_of_attention_is_named(call, kind, message) -> None:  # type: ignore[no-untyped-def]
    x = Tensor(np.zeros((5, 2, 4), np.float32))
    with pytest.raises(kind, match=message):
        call(nn.MultiheadAttention(4, 2), x)
