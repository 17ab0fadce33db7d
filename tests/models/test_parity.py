"""Logits and gradients of whole networks beside PyTorch's numbers, on real weights and images where there are any."""

from __future__ import annotations

import functools
import os
from pathlib import Path

import numpy as np
import pytest

import minidl
import minidl.nn.functional as F
from minidl import models, weights
from tests.models.parity_cases import CASES, Case, images_of, labels_of, project, relative_error, seeded_state

FIXTURES = Path(__file__).parents[1] / "fixtures" / "models.npz"
DATA = Path(os.environ["MINIDL_TEST_DATA"]) if os.environ.get("MINIDL_TEST_DATA") else None


def results(case: Case, dtype: np.dtype, data: Path | None) -> dict[str, np.ndarray]:
    """Logits in eval and train mode, and the gradients of one training step, under flat names."""
    model = models.create(case.model)
    if case.weights is None:
        state = seeded_state({k: v.shape for k, v in model.state_dict().items()}, case.name)
    else:
        assert data is not None
        state = dict(weights.load(data / case.weights))
    model.load_state_dict(state)
    model.to(dtype)
    x = minidl.Tensor(images_of(case, data).astype(dtype))
    with minidl.no_grad():
        out = {"eval": model.eval()(x).data}
    logits = model.train()(x)
    F.cross_entropy(logits, labels_of(case)).backward()
    out["train"] = logits.data
    return out | {f"grad/{n}": p.grad.numpy() for n, p in model.named_parameters()}


@functools.cache
def fixtures() -> dict[str, np.ndarray]:
    with np.load(FIXTURES) as stored:
        return dict(stored)


@pytest.mark.parametrize("short", ["f32", "f64"])
@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_logits_and_gradients_equal_pytorchs(case: Case, short: str) -> None:
    if case.images is not None and DATA is None:
        pytest.skip("MINIDL_TEST_DATA is not set: no real weights and images")
    ours = results(case, np.dtype(np.float32 if short == "f32" else np.float64), DATA)
    for mode in ("eval", "train"):
        theirs = fixtures()[f"{case.name}/{short}/{mode}"]
        assert np.abs(ours[mode] - theirs).max() <= 1e-5 * np.abs(theirs).max(), mode
    gradients = [k for k in ours if k.startswith("grad/")]
    assert gradients
    expected = {k: fixtures()[f"{case.name}/{short}/{k}"] for k in gradients}
    # In float32 a rounding error anywhere turns some ReLU on or off, and PyTorch's gradients move as much as
    # ours: by up to `rounding` between its own float32 and float64. Two such results may differ by twice that.
    rounding = max(relative_error(expected[k], fixtures()[f"{case.name}/f64/{k}"]) for k in gradients)
    for key in gradients:
        assert ours[key].dtype == (np.float32 if short == "f32" else np.float64)
        error = relative_error(project(f"{case.name}/{key}", ours[key]), expected[key])
        assert error <= (1e-3 + 2 * rounding if short == "f32" else 1e-9), (
            f"{key}: {error}, rounding {rounding}"
        )
