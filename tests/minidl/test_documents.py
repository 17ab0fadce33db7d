"""The code in the documents runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import minidl

DOCS = Path(__file__).parents[2] / "docs"


def blocks(name: str) -> str:
    """The Python blocks of a document, one after the other."""
    text = (DOCS / name).read_text(encoding="utf8")
    found = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert found
    return "\n".join(found)


@pytest.mark.parametrize("name", ["custom-operators.md", "domain-adaptation.md"])
def test_the_code_runs(name: str) -> None:
    scope: dict[str, Any] = {}
    exec(compile(blocks(name), name, "exec"), scope)


def test_the_operators_of_the_document_are_right() -> None:
    scope: dict[str, Any] = {}
    exec(compile(blocks("custom-operators.md"), "custom-operators.md", "exec"), scope)
    x = minidl.Tensor(np.array([-800.0, -1.0, 0.0, 2.0]), requires_grad=True)
    y = scope["log_cosh"](x)
    np.testing.assert_allclose(y.data[1:], np.log(np.cosh(x.data[1:])), atol=1e-15)
    np.testing.assert_allclose(y.data[0], 800 - np.log(2))
    y.sum().backward()
    assert x.grad is not None
    np.testing.assert_allclose(x.grad.data, np.tanh(x.data))
    assert scope["log_cosh"](minidl.ones(2)).dtype == np.float32
