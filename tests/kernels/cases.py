"""The kernel cases that are compared with PyTorch, and what the kernel tests share.

`tests/fixtures/make_kernel_fixtures.py` runs every case in PyTorch and stores inputs and results in
`kernels.npz`; the tests read them back under "case.name" keys. Shapes are the kernels' own: images N,H,W,C
and weights O,KH,KW,C/groups.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from minidl.kernels.cpu import CPUBackend
from minidl.kernels.reference import ReferenceBackend

Array = npt.NDArray[Any]

FIXTURES = Path(__file__).parents[1] / "fixtures" / "kernels.npz"
BACKENDS = {"reference": ReferenceBackend(), "cpu": CPUBackend()}
TOLERANCE = {"float32": 2e-5, "float64": 1e-12}
DTYPES = tuple(TOLERANCE)


def conv(
    x: Any, w: Any, *, stride: Any = (1, 1), pad: Any = 0, dilation: Any = (1, 1), groups: int = 1
) -> dict[str, Any]:
    sides = ((pad, pad), (pad, pad)) if isinstance(pad, int) else pad
    return {"x": x, "w": w, "stride": stride, "pad": sides, "dilation": dilation, "groups": groups}


CONV = {
    "conv_1x1": conv((2, 4, 5, 3), (6, 1, 1, 3)),
    "conv_3x3": conv((2, 6, 5, 4), (5, 3, 3, 4), pad=1),
    "conv_3x3_s2": conv((2, 7, 8, 4), (6, 3, 3, 4), stride=(2, 2), pad=1),
    "conv_7x7_s2": conv((1, 15, 14, 3), (4, 7, 7, 3), stride=(2, 2), pad=3),
    "conv_1x1_s2": conv((2, 5, 6, 4), (3, 1, 1, 4), stride=(2, 2)),
    "conv_uneven": conv((2, 8, 9, 2), (3, 2, 3, 2), stride=(3, 2), pad=((2, 0), (1, 3)), dilation=(2, 1)),
    "conv_dilated": conv((1, 9, 9, 3), (4, 3, 3, 3), pad=2, dilation=(2, 2)),
    "conv_groups": conv((2, 5, 6, 6), (4, 3, 3, 3), pad=1, groups=2),
    "conv_depthwise": conv((2, 6, 5, 5), (5, 3, 3, 1), stride=(2, 1), pad=1, groups=5),
    "conv_multiplier": conv((1, 5, 5, 3), (6, 3, 2, 1), pad=((1, 1), (0, 0)), groups=3),
}

_LINES = ((1, 1), (1, 1))
MAX_POOL: dict[str, dict[str, Any]] = {
    "max_stem": {
        "x": (2, 9, 8, 17),
        "kernel": (3, 3),
        "stride": (2, 2),
        "pad": _LINES,
        "dilation": (1, 1),
        "ceil": False,
    },
    "max_ceil": {
        "x": (2, 8, 8, 3),
        "kernel": (3, 3),
        "stride": (2, 2),
        "pad": ((0, 0), (0, 0)),
        "dilation": (1, 1),
        "ceil": True,
    },
    "max_ceil_pad": {
        "x": (1, 6, 7, 16),
        "kernel": (3, 2),
        "stride": (2, 3),
        "pad": _LINES,
        "dilation": (1, 1),
        "ceil": True,
    },
    "max_dilated": {
        "x": (2, 9, 10, 4),
        "kernel": (3, 2),
        "stride": (1, 2),
        "pad": _LINES,
        "dilation": (2, 3),
        "ceil": False,
    },
    "max_2x2": {
        "x": (2, 6, 6, 20),
        "kernel": (2, 2),
        "stride": (2, 2),
        "pad": ((0, 0), (0, 0)),
        "dilation": (1, 1),
        "ceil": False,
    },
}
AVG_POOL: dict[str, dict[str, Any]] = {
    f"{name}_{'with' if count else 'without'}_pad": {**case, "count_include_pad": count}
    for name, case in {
        "avg_3x3": {"x": (2, 7, 8, 17), "kernel": (3, 3), "stride": (2, 2), "pad": _LINES, "ceil": False},
        "avg_ceil": {
            "x": (2, 8, 6, 3),
            "kernel": (3, 2),
            "stride": (2, 3),
            "pad": ((1, 1), (0, 0)),
            "ceil": True,
        },
        "avg_2x2": {
            "x": (2, 6, 7, 16),
            "kernel": (2, 2),
            "stride": (2, 2),
            "pad": ((0, 0), (0, 0)),
            "ceil": False,
        },
    }.items()
    for count in (True, False)
}
ADAPTIVE: dict[str, dict[str, Any]] = {
    "adaptive_global": {"x": (2, 7, 6, 17), "out_hw": (1, 1)},
    "adaptive_overlap": {"x": (2, 7, 5, 3), "out_hw": (3, 4)},
    "adaptive_larger": {"x": (1, 3, 4, 16), "out_hw": (5, 4)},
}
NORM: dict[str, dict[str, Any]] = {
    f"norm_{'train' if training else 'eval'}{'_residual' if residual else ''}{'_relu' if relu else ''}": {
        "x": (3, 4, 3, 7),
        "training": training,
        "residual": residual,
        "relu": relu,
    }
    for training in (True, False)
    for residual, relu in ((False, False), (False, True), (True, True))
}
LOSS: dict[str, dict[str, Any]] = {
    f"loss{'_weighted' if weighted else ''}{'_ignore' if ignore else ''}_{smoothing}": {
        "rows": 6,
        "classes": 5,
        "weighted": weighted,
        "ignore": ignore,
        "smoothing": smoothing,
    }
    for weighted in (False, True)
    for ignore in (False, True)
    for smoothing in (0.0, 0.2)
}
OPTIM_STEPS = 4
SGD: dict[str, dict[str, Any]] = {
    "sgd_plain": {"lr": 0.1},
    "sgd_decay": {"lr": 0.1, "weight_decay": 0.05},
    "sgd_momentum": {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.05},
    "sgd_dampening": {"lr": 0.1, "momentum": 0.8, "dampening": 0.3},
    "sgd_nesterov": {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
}
ADAM: dict[str, dict[str, Any]] = {
    "adam_plain": {"lr": 0.01},
    "adam_decay": {"lr": 0.02, "betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.1},
    "adamw": {"lr": 0.02, "betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.1, "decoupled": True},
}
RMSPROP: dict[str, dict[str, Any]] = {
    "rmsprop_plain": {"lr": 0.01},
    "rmsprop_momentum": {"lr": 0.01, "alpha": 0.9, "eps": 1e-3, "weight_decay": 0.1, "momentum": 0.8},
}


@cache
def _stored() -> dict[str, Array]:
    with np.load(FIXTURES) as file:
        return {key: file[key] for key in file.files}


def stored(case: str, dtype: str) -> dict[str, Array]:
    """Inputs and PyTorch's results of one case, floating-point arrays in the given type."""
    arrays = {key.rpartition(".")[2]: a for key, a in _stored().items() if key.rpartition(".")[0] == case}
    return {key: a.astype(dtype) if a.dtype.kind == "f" else a for key, a in arrays.items()}


def assert_near(actual: Array, expected: Array, tolerance: float, dtype: Any = None) -> None:
    """Largest difference over largest value, and exact shape and type."""
    assert actual.shape == expected.shape
    assert actual.dtype == (expected.dtype if dtype is None else np.dtype(dtype))
    if not actual.size:
        return
    worst = np.abs(actual.astype(np.float64) - expected).max() / max(np.abs(expected).max(), 1e-3)
    assert worst <= tolerance, f"off by {worst:.3g} of the largest value, {tolerance:.3g} allowed"


def quantised(rng: np.random.Generator, shape: Any, scale: int = 16) -> Array:
    """Normal numbers rounded to 1/scale, which compress well and are exact in float32."""
    return np.round(rng.normal(size=shape) * scale) / scale
