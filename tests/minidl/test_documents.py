"""The code in the documents runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import minidl

ROOT = Path(__file__).parents[2]


def blocks(name: str) -> str:
    """The Python blocks of a document, one after the other."""
    text = (ROOT / name).read_text(encoding="utf8")
    found = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert found
    return "\n".join(found)


@pytest.mark.parametrize("name", ["docs/custom-operators.md", "docs/domain-adaptation.md"])
def test_the_code_runs(name: str) -> None:
    scope: dict[str, Any] = {}
    exec(compile(blocks(name), name, "exec"), scope)


def test_the_code_of_the_readme_runs(capsys: pytest.CaptureFixture[str]) -> None:
    code = blocks("README.md").replace('"cuda"', '"cpu"').replace('"emulated"', '"cpu"')
    scope: dict[str, Any] = {}
    exec(compile(code, "README.md", "exec"), scope)
    assert capsys.readouterr().out == "tensor([ 6., 12.])\n"  # as its comment says
    assert np.isfinite(scope["loss"].item())


def test_the_operators_of_the_document_are_right() -> None:
    name, scope = "docs/custom-operators.md", dict[str, Any]()
    exec(compile(blocks(name), name, "exec"), scope)
    x = minidl.Tensor(np.array([-800.0, -1.0, 0.0, 2.0]), requires_grad=True)
    y = scope["log_cosh"](x)
    np.testing.assert_allclose(y.data[1:], np.log(np.cosh(x.data[1:])), atol=1e-15)
    np.testing.assert_allclose(y.data[0], 800 - np.log(2))
    y.sum().backward()
    assert x.grad is not None
    np.testing.assert_allclose(x.grad.data, np.tanh(x.data))
    assert scope["log_cosh"](minidl.ones(2)).dtype == np.float32
