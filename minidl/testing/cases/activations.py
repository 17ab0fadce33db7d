"""Activation functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from minidl.testing.cases.entry import Entry

A = (3, 8)


def _call(name: str, **options: Any) -> Callable[..., Any]:
    """F.name(*inputs, **options)."""
    return lambda m, F, *inputs: getattr(F, name)(*inputs, **options)


def _wide(name: str, factor: float, **options: Any) -> Callable[..., Any]:
    """The same on inputs stretched by a factor, for functions whose pieces lie further apart."""
    return lambda m, F, x: getattr(F, name)(x * factor, **options)


def _hardsigmoid(m: Any, F: Any, x: Any) -> Any:
    """PyTorch's own backward rounds its 1/6 to float32."""
    return F.hardsigmoid(x * 3) if m.__name__ == "minidl" else F.relu6(x * 3 + 3) / 6


TABLE = [
    Entry("leaky_relu", _call("leaky_relu"), (A,), spread=True),
    Entry("leaky_relu_slope", _call("leaky_relu", negative_slope=0.3), (A,), spread=True),
    Entry("prelu", _call("prelu"), ((2, 3, 4, 2), (3,)), spread=True),
    Entry("prelu_one_weight", _call("prelu"), (A, (1,)), spread=True),
    Entry("prelu_vector", _call("prelu"), ((6,), (1,)), spread=True),
    Entry("elu", _call("elu"), (A,), spread=True),
    Entry("elu_alpha", _call("elu", alpha=1.7), (A,), spread=True),
    Entry("celu", _call("celu", alpha=0.5), (A,), spread=True),
    Entry("selu", _call("selu"), (A,), spread=True),
    Entry("gelu", _call("gelu"), (A,)),
    Entry("gelu_tanh", _call("gelu", approximate="tanh"), (A,)),
    Entry("silu", _call("silu"), (A,)),
    Entry("silu_wide", _wide("silu", 20.0), (A,)),
    Entry("mish", _call("mish"), (A,)),
    Entry("hardswish", _wide("hardswish", 3.0), (A,), spread=True),
    Entry("hardsigmoid", _hardsigmoid, (A,), spread=True),
    Entry("hardtanh", _call("hardtanh"), (A,), spread=True),
    Entry("hardtanh_limits", _call("hardtanh", min_val=-0.5, max_val=1.7), (A,), spread=True),
    Entry("relu6", _wide("relu6", 5.0), (A,), spread=True),
    Entry("softplus", _call("softplus"), (A,)),
    Entry("softplus_options", _wide("softplus", 3.0, beta=2.0, threshold=5.0), (A,), spread=True),
    Entry("logsigmoid", _call("logsigmoid"), (A,)),
    Entry("logsigmoid_wide", _wide("logsigmoid", 20.0), (A,)),
    Entry("softsign", _call("softsign"), (A,), spread=True),
    Entry("softmin", _call("softmin", dim=1), (A,)),
    Entry("glu", _call("glu", dim=1), ((2, 6, 3),)),
]
