"""ResNets: names and shapes, the variants' geometry, heads, starts, and training one for a few steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import minidl
from minidl import kernels, models, nn, optim
from minidl.autograd import no_grad
from minidl.nn import functional as F
from minidl.tensor import Tensor
from tests.models.expected_names import Shapes, cifar_resnet, imagenet_resnet

FULL = [64, 128, 256, 512]
EXPECTED: dict[str, Callable[[], Shapes]] = {
    "resnet18": lambda: imagenet_resnet("basic", [2, 2, 2, 2], FULL, 1000),
    "resnet34": lambda: imagenet_resnet("basic", [3, 4, 6, 3], FULL, 1000),
    "resnet50": lambda: imagenet_resnet("bottleneck", [3, 4, 6, 3], FULL, 1000),
    "resnet101": lambda: imagenet_resnet("bottleneck", [3, 4, 23, 3], FULL, 1000),
    "resnet152": lambda: imagenet_resnet("bottleneck", [3, 8, 36, 3], FULL, 1000),
    "resnet50_thin": lambda: imagenet_resnet("bottleneck", [3, 4, 6, 3], [32, 64, 128, 256], 2),
    "resnet20": lambda: cifar_resnet(3),
    "resnet32": lambda: cifar_resnet(5),
    "resnet44": lambda: cifar_resnet(7),
    "resnet56": lambda: cifar_resnet(9),
    "resnet110": lambda: cifar_resnet(18),
}
TINY: dict[str, Any] = {"layers": [1, 1, 1, 1], "widths": [4, 6, 8, 10], "stem_width": 5, "num_classes": 3}


@pytest.fixture(autouse=True)
def reference_kernels() -> Iterator[None]:
    with kernels.use("reference"):
        yield


def images(*shape: int) -> Tensor:
    return Tensor(np.random.default_rng(0).standard_normal(shape).astype(np.float32))


def test_the_expected_list_covers_every_registered_resnet() -> None:
    assert set(EXPECTED) == set(models.list_models("resnet", "classifier"))


@pytest.mark.parametrize("name", EXPECTED)
def test_names_and_shapes_are_those_of_the_published_networks(name: str) -> None:
    state = models.create(name).state_dict()
    expected = EXPECTED[name]()
    assert {key: array.shape for key, array in state.items()} == expected
    assert list(state) == list(expected), "the order counts: optimizers number parameters by it"


def test_the_imagenet_stem_pools_to_56_and_caffes_too() -> None:
    for options in ({}, {"pool_padding": 0, "pool_ceil_mode": True}):
        model = models.ResNet(**TINY, **options).eval()
        with no_grad():
            stem = model.maxpool(model.conv1(images(1, 3, 224, 224)))
        assert stem.shape == (1, 5, 56, 56), options
    model = models.ResNet(**TINY, pool_padding=0)
    assert model.maxpool(model.conv1(images(1, 3, 224, 224))).shape[-1] == 55


def test_every_stage_but_the_first_halves_the_resolution() -> None:
    model = models.ResNet(**TINY, block="basic").eval()
    seen: list[tuple[int, ...]] = []
    for name in ("layer1", "layer2", "layer3", "layer4"):
        getattr(model, name).register_forward_hook(lambda m, args, out: seen.append(out.shape))
    model(images(1, 3, 64, 64))
    assert seen == [(1, 4, 16, 16), (1, 6, 8, 8), (1, 8, 4, 4), (1, 10, 2, 2)]


@pytest.mark.parametrize(("stride_in", "strides"), [("3x3", [(1, 1), (2, 2)]), ("1x1", [(2, 2), (1, 1)])])
def test_the_stride_sits_where_the_option_says(stride_in: str, strides: list[tuple[int, int]]) -> None:
    block = models.ResNet(**TINY, stride_in=stride_in).layer2[0]
    assert [block.conv1.stride, block.conv2.stride] == strides
    assert block.conv3.stride == (1, 1) and block.downsample[0].stride == (2, 2)


def test_the_padded_shortcut_takes_every_second_pixel_and_centres_the_channels() -> None:
    shortcut = models.create("resnet20").layer2[0].downsample
    x = images(2, 16, 6, 6)
    y = shortcut(x).numpy()
    assert y.shape == (2, 32, 3, 3)
    assert np.array_equal(y[:, 8:24], x.numpy()[:, :, ::2, ::2])
    assert not y[:, :8].any() and not y[:, 24:].any()


def test_shortcuts_of_the_paper_give_the_paper_networks_parameter_counts() -> None:
    # Option B adds a 1x1 convolution and a batch norm to two blocks: 16*32 + 2*32 + 32*64 + 2*64.
    for shortcut, count in (("pad", 269_722), ("projection", 272_474)):
        model = models.create("resnet20", shortcut=shortcut)
        assert sum(p.size for p in model.parameters()) == count


def test_features_and_head_compose_to_the_forward() -> None:
    model, x = models.ResNet(**TINY).eval(), images(2, 3, 64, 64)
    features = model.forward_features(x)
    assert features.shape == (2, model.num_features, 2, 2) == (2, 40, 2, 2)
    assert np.array_equal(model.forward_head(features).detach().numpy(), model(x).detach().numpy())


def test_the_classifier_can_be_replaced_or_left_out() -> None:
    model = models.ResNet(**TINY, classifier_name="head").eval()
    names, x = list(model.state_dict()), images(1, 3, 64, 64)
    model.freeze()
    model.reset_classifier(7)
    assert model(x).shape == (1, 7) and model.num_classes == 7 and list(model.state_dict()) == names
    assert [n for n, p in model.named_parameters() if p.requires_grad] == ["head.weight", "head.bias"]
    assert model.classifier is model.head and not model.classifier.training
    model.reset_classifier(0)
    assert model(x).shape == (1, 40) and "head.weight" not in model.state_dict()
    model.double().reset_classifier(2)
    assert model.classifier.weight.dtype == np.float64
    with pytest.raises(ValueError, match="num_classes must be a positive integer, got -1"):
        model.reset_classifier(-1)


def test_layer_groups_hold_every_parameter_once_from_input_to_output() -> None:
    model = models.create("resnet20")
    groups = model.layer_groups()
    assert [name for name, _ in groups] == ["stem", "layer1", "layer2", "layer3", "linear"]
    flat = [p for _, members in groups for p in members]
    assert [id(p) for p in flat] == [id(p) for p in model.parameters()]
    rates = {g["name"]: g["lr_scale"] for g in optim.param_groups(model, 1e-4, layer_decay=0.5)}
    assert list(rates.values()) == [1 / 16, 1 / 8, 1 / 4, 1 / 2, 1]


def test_the_start_follows_the_seed_and_he_et_al() -> None:
    minidl.manual_seed(4)
    first = models.create("resnet20")
    minidl.manual_seed(4)
    second = models.create("resnet20").state_dict()
    assert all(np.array_equal(a, second[n]) for n, a in first.state_dict().items())
    weight = first.layer3[2].conv2.weight
    assert abs(weight.data.std() / np.sqrt(2 / (64 * 9)) - 1) < 0.05
    assert np.abs(models.create("resnet20", init="uniform").conv1.weight.data).max() <= 1 / np.sqrt(27)
    zero = models.create("resnet20", zero_init_residual=True)
    assert not zero.layer1[0].bn2.weight.data.any() and zero.layer1[0].bn1.weight.data.all()


def test_a_small_network_learns() -> None:
    minidl.manual_seed(0)
    rng = np.random.default_rng(0)
    labels = np.arange(16) % 2
    x = rng.standard_normal((16, 1, 8, 8)).astype(np.float32) * 0.3
    x[labels == 1, :, ::2] += 1.0
    model = models.create("resnet20", 2, in_channels=1, layers=[1, 1], widths=[4, 8])
    optimizer = optim.SGD(optim.param_groups(model, 1e-4), lr=0.1, momentum=0.9)
    losses = []
    for _ in range(8):
        loss = F.cross_entropy(model(Tensor(x)), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 < losses[0]


def test_only_the_classifier_of_a_frozen_trunk_learns() -> None:
    model = models.create("resnet20", 3, layers=[1, 1], widths=[4, 8])
    for part in model.trunk():
        part.freeze()
    model.train()
    before = {n: a for n, a in model.state_dict().items() if not n.startswith("linear")}
    optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    F.cross_entropy(model(images(4, 3, 8, 8)), np.array([0, 1, 2, 0])).backward()
    optimizer.step()
    after = model.state_dict()
    assert all(np.array_equal(after[n], a) for n, a in before.items())
    assert isinstance(model.classifier, nn.Linear) and model.classifier.weight.grad is not None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"block": "wide"}, "block must be one of basic, bottleneck, got 'wide'"),
        ({"stem": "7x7"}, "stem must be one of imagenet, cifar"),
        ({"stride_in": 3}, "stride_in must be one of 3x3, 1x1, got 3"),
        ({"shortcut": "A"}, "shortcut must be one of projection, pad"),
        ({"layers": [2, 2]}, "one number per stage"),
        ({"layers": 18}, "layers must be a list of positive integers, got 18"),
        ({"widths": [4, 0, 8, 8]}, "widths must be a positive integer, got 0"),
        ({"stem_width": 2.5}, "stem_width must be a positive integer, got 2.5"),
        ({"classifier_name": "a.b"}, "classifier_name must be a Python name"),
        ({"classifier_name": "classifier"}, "'classifier' is taken"),
        ({"shortcut": "pad", "widths": [8, 4, 4, 4], "block": "basic"}, "cannot pad 8 channels to 4"),
        ({"in_channels": 0}, "in_channels"),
        ({"dropout": 2}, "Dropout: p must lie in"),
    ],
)
def test_a_wrong_option_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        models.ResNet(**{**TINY, **options})
