"""A use of gradients of gradients: training a critic whose own gradient is penalised, as in WGAN-GP."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import minidl
import minidl.nn.functional as F
from minidl import Tensor, kernels
from minidl.testing import gradcheck
from tests.minidl.autograd.critic import inputs, losses

FIXTURE = Path(__file__).parents[2] / "fixtures" / "gradient_penalty.npz"


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-10), (np.float32, 2e-4)])
def test_three_steps_equal_pytorchs(backend: str, dtype: type, tolerance: float) -> None:
    arrays, parameters = inputs()
    real, fake, mix = (Tensor(a.astype(dtype)) for a in arrays)
    weights = {k: Tensor(v.astype(dtype), requires_grad=True) for k, v in parameters.items()}
    with np.load(FIXTURE) as expected, kernels.use(backend):
        for step in range(3):
            loss, penalty = losses(minidl, F, weights, real, fake, mix)
            (loss + 10 * penalty).backward()
            np.testing.assert_allclose(loss.data, expected[f"{step}/loss"], rtol=tolerance, atol=tolerance)
            np.testing.assert_allclose(penalty.data, expected[f"{step}/penalty"], rtol=tolerance)
            for name, w in weights.items():
                assert w.grad is not None and w.grad.dtype == dtype
                theirs = expected[f"{step}/{name}"]
                scale = np.abs(theirs).max() + 1e-3
                np.testing.assert_allclose(w.grad.data, theirs, rtol=tolerance, atol=tolerance * scale)
                with minidl.no_grad():
                    w.copy_(w.data - dtype(0.05) * w.grad.data)
                w.grad = None


def test_the_penalty_alone_agrees_with_finite_differences() -> None:
    arrays, parameters = inputs()
    real, fake, mix = (Tensor(a) for a in arrays)
    names = list(parameters)
    weights = [Tensor(v, requires_grad=True) for v in parameters.values()]

    def penalty(*ws: Tensor) -> Tensor:
        with minidl.enable_grad():  # differences are taken without a graph, but this needs its own
            return losses(minidl, F, dict(zip(names, ws, strict=True)), real, fake, mix)[1]

    assert gradcheck(penalty, weights, directions=2, layouts=False)
