"""Thirteen defects that engines of this kind have shipped: each check below passes, and fails once the defect is
planted. ``docs/trust.md`` lists them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import minidl.nn.functional as F
from minidl import Tensor, nn
from minidl.autograd import Function
from minidl.testing import gradcheck
from minidl.testing.operators import check
from tests.minidl.trust.test_negative_controls import ENTRIES, stored
from tests.planting import outcome, planted

REF = "minidl.kernels.reference."


def entries_pass(
    names: Sequence[str], backend: str = "reference", pytorch: bool = False
) -> Callable[[], None]:
    """The table's checks on some entries."""

    def run() -> None:
        for name in names:
            failed = check(ENTRIES[name], backend, stored() if pytorch else None)
            assert not failed, failed

    return run


def wrong_values_of_the_right_shape_are_told() -> None:
    class Shapely(Function):
        def forward(self, x: np.ndarray) -> np.ndarray:
            return x * x

        def backward(self, grad: Tensor) -> Tensor:
            return grad

    told = outcome(
        lambda: gradcheck(lambda x: Shapely()(x), [Tensor(np.array([0.3, 0.7]), requires_grad=True)])
    )
    assert told is not None and "the gradient is wrong" in told


def maps_of_an_odd_stem_have_pytorchs_size() -> None:
    x = Tensor(np.zeros((1, 1, 224, 224), np.float32))
    h = F.conv2d(x, Tensor(np.zeros((1, 1, 7, 7), np.float32)), stride=2, padding=3)
    assert h.shape[2:] == (112, 112)
    assert F.max_pool2d(h, 3, 2, 1).shape[2:] == (56, 56)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        for name in "zeta", "alpha", "mu", "beta", "omega", "eta":
            setattr(self, name, nn.Linear(2, 2))


def parameters_come_in_the_order_of_assignment() -> None:
    names = [name.split(".")[0] for name, _ in Net().named_parameters()][::2]
    assert names == ["zeta", "alpha", "mu", "beta", "omega", "eta"]


def softmax_of_rows_far_apart_is_finite() -> None:
    x = Tensor(np.array([[0.0, 1.0], [-2000.0, -2001.0], [3000.0, 3000.0]]))
    expected = 1 / (1 + np.exp(1.0))
    np.testing.assert_allclose(
        F.softmax(x, 1).data, [[expected, 1 - expected], [1 - expected, expected], [0.5, 0.5]]
    )


def batch_norm_of_large_half_numbers_is_finite() -> None:
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((8, 3, 4, 4)) * 900).astype(np.float16)  # their squares exceed 65504
    y = F.batch_norm(Tensor(x), None, None, training=True)
    assert y.dtype == np.float16 and np.isfinite(y.data).all()
    np.testing.assert_allclose(y.data.astype(np.float64).std((0, 2, 3)), 1, atol=0.01)


def statistics_of_a_frozen_layer_stay() -> None:
    net = nn.Sequential(nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)), nn.ReLU())
    net[0].freeze()
    net.train()
    before = net.state_dict()["0.1.running_mean"]
    net(Tensor(np.full((2, 1, 5, 5), 3.0, np.float32)))
    np.testing.assert_array_equal(net.state_dict()["0.1.running_mean"], before)


def float32_stays_float32() -> None:
    x = Tensor(np.ones(3, np.float32), requires_grad=True)
    y = F.hardswish((x * 2.5 + 1).sigmoid()).mean() / 3
    y.backward()
    assert y.dtype == np.float32 and x.grad is not None and x.grad.dtype == np.float32


@dataclass(frozen=True)
class Defect:
    """What was wrong elsewhere, how it is planted here, and the check that must notice."""

    name: str
    path: str
    old: str
    new: str
    passes: Callable[[], Any]


DEFECTS = [
    Defect(
        "convolution's input gradient assigns where windows overlap",
        REF + "conv:Convolution.conv2d_input_grad",
        "gpadded[window] +=",
        "gpadded[window] =",
        entries_pass(["conv2d"]),
    ),
    Defect(
        "class-weighted cross-entropy's gradient is weighted by column instead of by label",
        REF + "loss:Losses.softmax_cross_entropy_backward",
        "p * row_weight[:, None]",
        "p * weights",
        entries_pass(["cross_entropy_ignore_weight"]),
    ),
    Defect(
        "gradient tests look at shapes only",
        "minidl.testing.check:gradcheck",
        "if not abs(analytic - found.value) <= atol + rtol * scale:",
        "if any(g.shape != t.shape for g, t in zip(grads, leaves)):",
        wrong_values_of_the_right_shape_are_told,
    ),
    Defect(
        "the gradient check compares the forward with itself",
        "minidl.testing.check:gradcheck",
        "analytic = float(sum(np.vdot(g, d) for g, d in zip(grads, ds, strict=True)))",
        "analytic = slope(value, leaves, ds, STEPS[0]).value",
        wrong_values_of_the_right_shape_are_told,
    ),
    Defect(
        "no backward through batch norm in eval mode",
        "minidl.ops.norm:BatchNorm.backward",
        "x, weight = self.saved()",
        "x, weight = self.saved()\n    assert self.training",
        entries_pass(["batch_norm_eval"], "cpu"),
    ),
    Defect(
        "the stem pools to 55 where the original has 56",
        "minidl.ops.pool:pooled_size",
        "// s) + 1",
        "// s)",
        maps_of_an_odd_stem_have_pytorchs_size,
    ),
    Defect(
        "the order of parameters changes from run to run",
        "minidl.nn.module:Module.named_children",
        "list(self.__dict__.items())",
        "sorted(self.__dict__.items(), key=lambda item: hash(str(item[0])))",
        parameters_come_in_the_order_of_assignment,
    ),
    Defect(
        "max pooling pads with 0 instead of minus infinity",
        REF + "pool:Pooling.max_pool2d",
        "dilation, out_hw, -xp.inf)",
        "dilation, out_hw, 0)",
        entries_pass(["max_pool2d"], pytorch=True),
    ),
    Defect(
        "softmax subtracts the maximum of all rows",
        "minidl.ops.reduce:Softmax.forward",
        "_peak(x, self.dim)",
        "x.max()",
        softmax_of_rows_far_apart_is_finite,
    ),
    Defect(
        "layer norm runs over the wrong axes",
        "minidl.ops.norms:layer_norm",
        "tuple(range(x.ndim - len(shape), x.ndim))",
        "tuple(range(len(shape)))",
        entries_pass(["layer_norm"], "cpu", pytorch=True),
    ),
    Defect(
        "batch norm in half precision makes NaN",
        "minidl.ops.norm:batch_norm",
        "if half:",
        "if False:",
        batch_norm_of_large_half_numbers_is_finite,
    ),
    Defect(
        "running statistics of a frozen layer move",
        "minidl.nn.module:Module.train",
        "mode and not module._held_in_eval",
        "mode",
        statistics_of_a_frozen_layer_stay,
    ),
    Defect(
        "float32 becomes float64 in silence",
        "minidl.ops.activations:Hardswish.forward",
        "x.dtype.type(1 / 6)",
        "np.float64(1 / 6)",
        float32_stays_float32,
    ),
]
defects = pytest.mark.parametrize("defect", DEFECTS, ids=lambda d: d.name)


@defects
def test_the_check_passes_without_the_defect(defect: Defect) -> None:
    defect.passes()


@defects
def test_the_check_notices_the_defect(defect: Defect) -> None:
    with planted(defect.path, defect.old, defect.new), np.errstate(all="ignore"):
        told = outcome(defect.passes)
    assert told is not None


def test_the_document_lists_every_defect() -> None:
    text = (Path(__file__).parents[3] / "docs" / "trust.md").read_text(encoding="utf8")
    assert [d.name for d in DEFECTS if d.name not in text] == []
