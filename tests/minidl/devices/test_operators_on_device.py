"""Every entry of the operator table gives the CPU's output and gradients on a device."""

from __future__ import annotations

import numpy as np
import pytest

import minidl
from minidl.nn import functional as F
from minidl.testing.cases import TABLE
from minidl.testing.operators import same_on_device


@pytest.mark.parametrize("entry", TABLE, ids=lambda entry: entry.name)
def test_an_operator_gives_the_same_on_the_device(entry: object, device: str) -> None:
    with np.errstate(all="ignore"):
        same_on_device(entry, device)


@pytest.mark.parametrize("order", [1.0, 2.0, np.inf])
def test_rows_of_an_embedding_are_shortened_on_the_device(order: float, device: str) -> None:
    here = minidl.arange(12.0).reshape(4, 3)
    there = here.to(device)
    for weight in (here, there):
        F.embedding(np.array([[1, 3], [1, 1]]), weight, max_norm=2.0, norm_type=order)
    assert here[2].tolist() == [6.0, 7.0, 8.0] and here[3].abs().max().item() <= 2.0
    np.testing.assert_allclose(there.cpu().numpy(), here.numpy(), rtol=1e-6)
