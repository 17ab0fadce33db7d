"""Every entry of the operator table gives the CPU's output and gradients on a device."""

from __future__ import annotations

import numpy as np
import pytest

from minidl.testing.cases import TABLE
from minidl.testing.operators import same_on_device


@pytest.mark.parametrize("entry", TABLE, ids=lambda entry: entry.name)
def test_an_operator_gives_the_same_on_the_device(entry: object, device: str) -> None:
    with np.errstate(all="ignore"):
        same_on_device(entry, device)
