"""Networks this small are slower on several threads, and much slower on a busy machine."""

from __future__ import annotations

import pytest

from minidl.kernels import set_num_threads


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    set_num_threads(1)
