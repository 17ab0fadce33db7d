"""Modules: names, buffers, modes, hooks, dtypes and what is refused."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

from minidl import nn
from minidl.nn import Parameter
from minidl.tensor import Tensor


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x), relu=True)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = Parameter(np.ones(3, dtype=np.float32))
        self.blocks = nn.ModuleList([Block(), Block()])
        self.register_buffer("offset", np.zeros(3, dtype=np.float32))
        self.register_buffer("cache", np.zeros(2, dtype=np.float32), persistent=False)
        self.head = nn.Linear(4, 2)


NORM_STATE = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]


def test_the_state_has_pytorchs_names_in_pytorchs_order() -> None:
    blocks = [
        name
        for i in (0, 1)
        for name in (f"blocks.{i}.conv.weight", *(f"blocks.{i}.bn.{part}" for part in NORM_STATE))
    ]
    assert list(Net().state_dict()) == ["scale", "offset", *blocks, "head.weight", "head.bias"]


def test_parameters_and_buffers_are_kept_apart() -> None:
    net = Net()
    parameters, buffers = dict(net.named_parameters()), dict(net.named_buffers())
    assert not set(parameters) & set(buffers)
    assert "blocks.0.bn.weight" in parameters and "blocks.0.bn.running_mean" in buffers
    assert "cache" in buffers and "cache" not in net.state_dict()
    assert all(p.requires_grad for p in parameters.values())
    assert not any(b.requires_grad for b in buffers.values())


def test_an_attribute_assigned_again_keeps_its_place() -> None:
    net = Net()
    before = [name for name, _ in net.named_parameters()]
    net.scale = Parameter(np.zeros(3, dtype=np.float32))
    net.blocks = nn.ModuleList([Block(), Block()])
    assert [name for name, _ in net.named_parameters()] == before


def test_a_shared_parameter_is_listed_once_and_saved_under_both_names() -> None:
    net = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    net[1].weight = net[0].weight
    assert [name for name, _ in net.named_parameters()] == ["0.weight"]
    assert list(net.state_dict()) == ["0.weight", "1.weight"]


def test_a_missing_attribute_is_an_error_that_names_it() -> None:
    with pytest.raises(AttributeError, match="no_such_layer"):
        _ = Net().no_such_layer


def test_a_list_of_modules_is_refused_with_the_remedy() -> None:
    net = Net()
    for value in ([nn.ReLU()], {"a": nn.ReLU()}, (nn.ReLU(),), [Parameter(np.ones(1))]):
        with pytest.raises(TypeError, match="ModuleList"):
            net.layers = value


def test_registering_before_the_base_constructor_is_refused() -> None:
    class Wrong(nn.Module):
        def __init__(self) -> None:
            self.layer = nn.ReLU()

    with pytest.raises(AttributeError, match="super"):
        Wrong()


def test_parameters_and_buffers_cannot_be_overwritten_by_other_things() -> None:
    net = Net()
    with pytest.raises(TypeError, match=r"scale is a Parameter"):
        net.scale = Tensor(np.ones(3))
    with pytest.raises(TypeError, match=r"offset is a buffer"):
        net.offset = np.ones(3)
    net.offset = Tensor(np.ones(3, dtype=np.float32))
    assert net.state_dict()["offset"].tolist() == [1, 1, 1]
    del net.offset
    assert "offset" not in net.state_dict()


@pytest.mark.parametrize("name", ["", "a.b", "head", "forward"])
def test_a_buffer_name_that_is_taken_or_dotted_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="register_buffer"):
        Net().register_buffer(name, np.zeros(1))


def test_a_buffer_must_be_a_tensor_or_an_array() -> None:
    with pytest.raises(TypeError, match="'steps' must be a Tensor or array, got int"):
        Net().register_buffer("steps", 3)


def test_get_submodule_finds_by_dotted_name() -> None:
    net = Net()
    assert net.get_submodule("blocks.1.bn") is net.blocks[1].bn
    assert net.get_submodule("") is net
    with pytest.raises(AttributeError, match="'norm' is missing"):
        net.get_submodule("blocks.1.norm")


def test_forward_hooks_see_and_may_replace_the_output_until_removed() -> None:
    layer, seen = nn.ReLU(), []
    x = Tensor(np.array([-1.0, 2.0], dtype=np.float32))
    watch = layer.register_forward_hook(lambda module, args, output: seen.append((module, args[0], output)))
    y = layer(x)
    assert seen[0][0] is layer and seen[0][1] is x and seen[0][2] is y
    watch.remove()
    with layer.register_forward_hook(lambda module, args, output: output * 3.0):
        assert layer(x).numpy().tolist() == [0, 6]
    assert layer(x).numpy().tolist() == [0, 2]
    assert len(seen) == 1
    with pytest.raises(TypeError, match="hook must be callable"):
        layer.register_forward_hook("print")


def test_apply_visits_children_before_their_parent() -> None:
    order: list[str] = []
    Block().apply(lambda module: order.append(type(module).__name__))
    assert order == ["Conv2d", "BatchNorm2d", "Block"]


def test_double_and_float_convert_floats_and_leave_integers() -> None:
    net = Net()
    net.scale.grad = Tensor(np.ones(3, dtype=np.float32))
    parameter = net.scale
    net.double()
    dtypes = {name: array.dtype for name, array in net.state_dict().items()}
    assert [dtypes.pop(f"blocks.{i}.bn.num_batches_tracked") for i in (0, 1)] == [np.int64, np.int64]
    assert set(dtypes.values()) == {np.dtype(np.float64)}
    assert net.scale is parameter and net.scale.grad is not None and net.scale.grad.dtype == np.float64
    assert {p.dtype for p in net.float().parameters()} == {np.dtype(np.float32)}
    with pytest.raises(TypeError, match="float32 or float64, got int32"):
        net.to(np.int32)


def test_a_copy_is_independent_and_a_pickle_is_equal() -> None:
    net = Net().eval()
    twin, read = copy.deepcopy(net), pickle.loads(pickle.dumps(net))
    net.scale.data[...] = 7
    assert twin.scale.data.tolist() == [1, 1, 1]
    assert list(read.state_dict()) == list(net.state_dict()) and not read.blocks[0].training


def test_the_representation_shows_the_tree_and_the_arguments() -> None:
    assert repr(Block()) == (
        "Block(\n"
        "  (conv): Conv2d(2, 4, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1), bias=False)\n"
        "  (bn): BatchNorm2d(4, eps=1e-05, momentum=0.1, affine=True, bias=True, track_running_stats=True)\n"
        ")"
    )
    assert repr(nn.Sequential(nn.ReLU(), nn.Flatten())) == (
        "Sequential(\n  (0): ReLU()\n  (1): Flatten(start_dim=1, end_dim=-1)\n)"
    )


def test_sequences_index_iterate_and_refuse_wrong_items() -> None:
    layers = nn.Sequential(nn.ReLU(), nn.Identity())
    layers.append(nn.Flatten())
    assert len(layers) == 3 and isinstance(layers[-1], nn.Flatten) and next(iter(layers)) is layers[0]
    layers[1] = nn.ReLU()
    assert isinstance(layers[1], nn.ReLU)
    for wrong in (3, -4):
        with pytest.raises(IndexError, match="out of range for 3"):
            _ = layers[wrong]
    with pytest.raises(TypeError, match="must be a Module, got function"):
        nn.Sequential(lambda x: x)
    with pytest.raises(TypeError, match="cannot be called"):
        nn.ModuleList([nn.ReLU()])(1)
