"""Every optimizer and schedule beside PyTorch's numbers (tests/fixtures/make_optim_fixtures.py)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from minidl import kernels, optim
from minidl.tensor import Parameter, Tensor
from tests.minidl.optim.optim_cases import BASE_LR, OPTIMIZERS, SCHEDULE_STEPS, SCHEDULES, STEPS

FIXTURE = Path(__file__).parents[2] / "fixtures" / "optim.npz"


@pytest.fixture(scope="module")
def recorded() -> dict[str, np.ndarray]:
    with np.load(FIXTURE) as file:
        return dict(file)


def run(name: str, recorded: dict[str, np.ndarray], dtype: type) -> tuple[list[np.ndarray], list[np.ndarray]]:
    kind, settings = OPTIMIZERS[name]
    params = [Parameter(recorded[f"start.{i}"].astype(dtype)) for i in range(2)]
    optimizer = getattr(optim, kind)(params, **settings)
    path: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for step in range(STEPS):
        for i, param in enumerate(params):
            skipped = i == 1 and step % 3 == 2
            param.grad = None if skipped else Tensor(recorded[f"grads.{i}"][step].astype(dtype))
        optimizer.step()
        for i, param in enumerate(params):
            path[i].append(param.data.copy())
    return path


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_walks_the_same_path_as_in_pytorch(
    name: str, backend: str, recorded: dict[str, np.ndarray]
) -> None:
    with kernels.use(backend):
        exact, rounded = run(name, recorded, np.float64), run(name, recorded, np.float32)
    for i in range(2):
        np.testing.assert_allclose(np.stack(exact[i]), recorded[f"{name}.{i}"], rtol=1e-12, atol=1e-13)
        assert rounded[i][-1].dtype == np.float32
        np.testing.assert_allclose(np.stack(rounded[i]), recorded[f"{name}.{i}"], rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_gives_the_rates_and_momenta_of_pytorch(
    name: str, recorded: dict[str, np.ndarray]
) -> None:
    kind, settings = SCHEDULES[name]
    optimizer = optim.SGD([Parameter(np.zeros(1))], lr=BASE_LR, momentum=0.9)
    schedule = getattr(optim, kind)(optimizer, **settings)
    rates = []
    for step in range(SCHEDULE_STEPS):
        rates.append((optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["momentum"]))
        if step + 1 < SCHEDULE_STEPS:
            schedule.step()
    np.testing.assert_allclose(rates, recorded[f"schedule.{name}"], rtol=1e-12)
