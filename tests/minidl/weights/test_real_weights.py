"""Published weights are read whole: names, shapes, and figures as PyTorch counts them."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from minidl import weights

DATA = os.environ.get("MINIDL_TEST_DATA")
pytestmark = pytest.mark.skipif(not DATA, reason="MINIDL_TEST_DATA is not set: real weights are needed")


@pytest.mark.parametrize(
    ("file", "format", "tensors", "elements", "first", "last"),
    [
        ("cifar_resnet/resnet20-12fca82f.th", "stream", 97, 269_722 + 1_376, "conv1.weight", "linear.bias"),
        ("cifar_resnet/resnet56-4bfd9763.th", "stream", 277, 853_018 + 4_064, "conv1.weight", "linear.bias"),
        ("resnet50_thin/resnet50_thin.pth", "zip", 267, 5_931_202, "conv1.weight", "fc.bias"),
    ],
)
def test_published_weights_are_read(
    file: str, format: str, tensors: int, elements: int, first: str, last: str, tmp_path: Path
) -> None:
    assert DATA
    state = weights.load(Path(DATA, "weights", file))
    assert state.format == format
    assert (len(state), sum(array.size for array in state.values())) == (tensors, elements)
    assert (next(iter(state)), list(state)[-1]) == (first, last)
    assert {array.dtype for array in state.values()} == {np.dtype(np.float32)}
    assert all(np.isfinite(array).all() for array in state.values())
    weights.save(state, tmp_path / "w.safetensors")
    back = weights.load(tmp_path / "w.safetensors")
    assert list(back) == list(state)
    assert all(back[name].tobytes() == state[name].tobytes() for name in state)
