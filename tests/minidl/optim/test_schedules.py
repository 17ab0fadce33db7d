"""Schedules that PyTorch has no single name for, their composition, and saving them."""

from __future__ import annotations

import math

import numpy as np
import pytest

from minidl import optim
from minidl.tensor import Parameter


def optimizer(*rates: float) -> optim.SGD:
    groups = [{"params": [Parameter(np.zeros(1))], "lr": rate} for rate in rates or (1.0,)]
    return optim.SGD(groups, lr=1.0, momentum=0.9)


def walk(schedule: optim.LRScheduler, steps: int, group: int = 0) -> list[float]:
    rates = [schedule.get_last_lr()[group]]
    for _ in range(steps):
        schedule.step()
        rates.append(schedule.get_last_lr()[group])
    return rates


def test_warmup_rises_to_the_first_rate_and_the_cosine_falls_to_its_minimum() -> None:
    rates = walk(optim.WarmupCosine(optimizer(2.0), 4, 12, min_factor=0.1, start_factor=0.0), 14)
    np.testing.assert_allclose(rates[:5], [0, 0.5, 1.0, 1.5, 2.0])
    assert rates[8] == pytest.approx(2 * (0.1 + 0.9 * (1 + math.cos(math.pi / 2)) / 2))
    np.testing.assert_allclose(rates[12:], 0.2)
    assert np.all(np.diff(rates[4:13]) < 0)


def test_warmup_goes_before_any_schedule() -> None:
    opt = optimizer(1.0, 0.5)
    schedule = optim.LinearWarmup(opt, 2, optim.StepLR(opt, 3, 0.1), start_factor=0.5)
    expected = [0.25, 0.375, 0.5, 0.5, 0.5, 0.05, 0.05, 0.05, 0.005]
    np.testing.assert_allclose(walk(schedule, 8, group=1), expected)
    np.testing.assert_allclose(walk(optim.LinearWarmup(optimizer(), 0), 2), [1, 1, 1])


def test_schedules_follow_each_other_each_from_its_own_start() -> None:
    opt = optimizer()
    parts = [optim.LinearLR(opt, 0.5, 1.0, 2), optim.StepLR(opt, 2, 0.1)]
    np.testing.assert_allclose(walk(optim.SequentialLR(opt, parts, [2]), 5), [0.5, 0.75, 1, 1, 0.1, 0.1])
    with pytest.raises(ValueError, match="one milestone fewer"):
        optim.SequentialLR(opt, parts, [1, 2])
    with pytest.raises(ValueError, match="the same optimizer"):
        optim.SequentialLR(optimizer(), parts, [2])


def test_one_cycle_peaks_at_each_groups_rate_and_stays_at_its_end() -> None:
    rates = walk(optim.OneCycle(optimizer(3.0), total_steps=10, cycle_momentum=False), 12)
    assert rates[2] == 3.0 and rates[0] == pytest.approx(3 / 25)
    np.testing.assert_allclose(rates[9:], 3 / 25 / 1e4)


def test_one_cycle_moves_adams_first_beta() -> None:
    adam = optim.Adam([Parameter(np.zeros(1))])
    optim.OneCycleLR(adam, 0.1, 10)
    assert adam.param_groups[0]["betas"] == (0.95, 0.999)


def test_a_schedule_continues_from_its_saved_count() -> None:
    straight = walk(optim.CosineAnnealingLR(optimizer(), 10), 9)
    first = optim.CosineAnnealingLR(optimizer(), 10)
    walk(first, 4)
    second = optim.CosineAnnealingLR(optimizer(), 10)
    second.load_state_dict(first.state_dict())
    assert walk(second, 5) == straight[4:]
    name = "CosineAnnealingLR"
    for state in ({}, {"scheduler": "StepLR", "last_epoch": 1}, {"scheduler": name, "last_epoch": -1}):
        with pytest.raises(optim.OptimizerStateError, match="the saved schedule is"):
            second.load_state_dict(state)


def test_a_group_added_later_joins_the_schedule_with_its_own_rate() -> None:
    opt = optimizer(1.0)
    schedule = optim.StepLR(opt, 2, 0.1)
    walk(schedule, 2)
    opt.add_param_group({"params": [Parameter(np.zeros(1))], "lr": 5.0})
    schedule.step()
    np.testing.assert_allclose(schedule.get_last_lr(), [0.1, 0.5])
