"""An array where a tensor belongs is named, with the operator and the argument."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import minidl
import minidl.nn.functional as F

ARRAY = np.ones((1, 2, 4, 4), np.float32)
WEIGHT = np.ones((2, 2, 1, 1), np.float32)
ROW = np.ones(4, np.float32)
T = minidl.tensor

CALLS: dict[str, Callable[[], Any]] = {
    "conv2d: x": lambda: F.conv2d(ARRAY, T(WEIGHT)),  # type: ignore[arg-type]
    "conv2d: weight": lambda: F.conv2d(T(ARRAY), WEIGHT),  # type: ignore[arg-type]
    "conv2d: bias": lambda: F.conv2d(T(ARRAY), T(WEIGHT), ROW[:2]),  # type: ignore[arg-type]
    "max_pool2d: x": lambda: F.max_pool2d(ARRAY, 2),  # type: ignore[call-overload]
    "avg_pool1d: x": lambda: F.avg_pool1d(ARRAY[0], 2),  # type: ignore[arg-type]
    "layer_norm: x": lambda: F.layer_norm(ARRAY, (4,)),  # type: ignore[arg-type]
    "layer_norm: weight": lambda: F.layer_norm(T(ARRAY), (4,), ROW),  # type: ignore[arg-type]
    "batch_norm: x": lambda: F.batch_norm(ARRAY, None, None, training=True),  # type: ignore[arg-type]
    "linear: x": lambda: F.linear(ARRAY, T(WEIGHT)),  # type: ignore[arg-type]
    "linear: weight": lambda: F.linear(T(ARRAY), ARRAY),  # type: ignore[arg-type]
    "cross_entropy: logits": lambda: F.cross_entropy(ARRAY[0, 0], [0, 1, 2, 3]),  # type: ignore[arg-type]
    "gelu: x": lambda: F.gelu(ARRAY),  # type: ignore[arg-type]
    "mse_loss: x": lambda: F.mse_loss(ARRAY, ARRAY),  # type: ignore[arg-type]
    "dropout: x": lambda: F.dropout(ARRAY),  # type: ignore[arg-type]
    "embedding: weight": lambda: F.embedding([0], ARRAY[0, 0]),  # type: ignore[arg-type]
    "scaled_dot_product_attention: query": lambda: F.scaled_dot_product_attention(ARRAY, ARRAY, ARRAY),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("named", CALLS)
def test_an_array_in_the_place_of_a_tensor_is_named(named: str) -> None:
    with pytest.raises(TypeError, match=f"{named} expects a Tensor, got ndarray"):
        CALLS[named]()
