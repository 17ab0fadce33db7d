"""Learning-rate schedules, under PyTorch's names: each is a formula of the step count, so a resumed run is
exact.

A schedule multiplies or replaces the learning rate that each group started with (`initial_lr` in the group).
Call `step()` once per optimizer step, or once per epoch: the unit of every count below is "calls of step()".
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from minidl.optim.optimizer import Group, Optimizer, OptimizerStateError

__all__ = [
    "CosineAnnealingLR",
    "LRScheduler",
    "LinearLR",
    "LinearWarmup",
    "MultiStepLR",
    "OneCycle",
    "OneCycleLR",
    "SequentialLR",
    "StepLR",
    "WarmupCosine",
]


class LRScheduler:
    """Base: subclasses define `rate(step, group)`, a pure function. Step 0 is applied by the constructor.

    A group added to the optimizer later joins with its own lr as the initial one.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"{type(self).__name__}: optimizer must be an Optimizer, got {optimizer!r}")
        self.optimizer = optimizer
        self.last_epoch = 0  # PyTorch's name for the number of calls of step()
        self._apply()

    def rate(self, step: int, group: Group) -> float:
        """The learning rate of a group after `step` calls."""
        raise NotImplementedError(f"{type(self).__name__} does not define rate")

    def _apply(self) -> None:
        for group in self.optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])
            group["lr"] = float(self.rate(self.last_epoch, group))

    def step(self) -> None:
        """One step further."""
        self.last_epoch += 1
        self._apply()

    def get_last_lr(self) -> list[float]:
        """The current learning rate of each group."""
        return [group["lr"] for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """JSON-able: the count of steps (the formula's settings belong to the constructor)."""
        return {"scheduler": type(self).__name__, "last_epoch": self.last_epoch}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues at a saved count; OptimizerStateError when the state is of another schedule."""
        name, count = state.get("scheduler"), state.get("last_epoch")
        if name != type(self).__name__ or isinstance(count, bool) or not isinstance(count, int) or count < 0:
            raise OptimizerStateError(
                f"the saved schedule is {name} at step {count!r}, expected {type(self).__name__} at a count"
            )
        self.last_epoch = count
        self._apply()


def _count(owner: str, name: str, value: int, minimum: int = 1) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{owner}: {name} must be an integer, got {value!r}")
    if value < minimum:
        raise ValueError(f"{owner}: {name} must be at least {minimum}, got {value}")
    return value


class StepLR(LRScheduler):
    """lr0 * gamma^(step // step_size)."""

    def __init__(self, optimizer: Optimizer, step_size: int, gamma: float = 0.1) -> None:
        self.step_size = _count("StepLR", "step_size", step_size)
        self.gamma = gamma
        super().__init__(optimizer)

    def rate(self, step: int, group: Group) -> float:
        return float(group["initial_lr"] * self.gamma ** (step // self.step_size))


class MultiStepLR(LRScheduler):
    """lr0 * gamma^(number of milestones reached); milestones in any order."""

    def __init__(self, optimizer: Optimizer, milestones: Iterable[int], gamma: float = 0.1) -> None:
        self.milestones = sorted(_count("MultiStepLR", "milestones", m, 0) for m in milestones)
        self.gamma = gamma
        super().__init__(optimizer)

    def rate(self, step: int, group: Group) -> float:
        return float(group["initial_lr"] * self.gamma ** bisect_right(self.milestones, step))


class CosineAnnealingLR(LRScheduler):
    """Half a cosine from lr0 to eta_min over T_max steps (Loshchilov & Hutter 2017), periodic beyond like
    PyTorch's.
    """

    def __init__(self, optimizer: Optimizer, T_max: int, eta_min: float = 0.0) -> None:
        self.T_max = _count("CosineAnnealingLR", "T_max", T_max)
        self.eta_min = eta_min
        super().__init__(optimizer)

    def rate(self, step: int, group: Group) -> float:
        share = (1 + math.cos(math.pi * step / self.T_max)) / 2
        return float(self.eta_min + (group["initial_lr"] - self.eta_min) * share)


class LinearLR(LRScheduler):
    """lr0 times a factor that goes linearly from start_factor to end_factor over total_iters steps, then
    stays.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        start_factor: float = 1.0 / 3,
        end_factor: float = 1.0,
        total_iters: int = 5,
    ) -> None:
        for name, factor in (("start_factor", start_factor), ("end_factor", end_factor)):
            if not 0 <= factor <= 1:
                raise ValueError(f"LinearLR: {name} must lie in [0, 1], got {factor!r}")
        self.start_factor, self.end_factor = start_factor, end_factor
        self.total_iters = _count("LinearLR", "total_iters", total_iters)
        super().__init__(optimizer)

    def rate(self, step: int, group: Group) -> float:
        share = min(step, self.total_iters) / self.total_iters
        return float(
            group["initial_lr"] * (self.start_factor + (self.end_factor - self.start_factor) * share)
        )


class SequentialLR(LRScheduler):
    """One schedule after the other: schedule i + 1 starts, at its own step 0, when milestones[i] steps are
    done.
    """

    def __init__(
        self, optimizer: Optimizer, schedulers: Sequence[LRScheduler], milestones: Sequence[int]
    ) -> None:
        if not schedulers or len(milestones) != len(schedulers) - 1:
            raise ValueError(
                f"SequentialLR: {len(schedulers)} schedulers need one milestone fewer, got {len(milestones)}"
            )
        if any(s.optimizer is not optimizer for s in schedulers):
            raise ValueError("SequentialLR: every schedule must belong to the same optimizer")
        if list(milestones) != sorted(set(milestones)):
            raise ValueError(f"SequentialLR: milestones must increase, got {list(milestones)}")
        self.schedulers, self.milestones = list(schedulers), list(milestones)
        super().__init__(optimizer)

    def rate(self, step: int, group: Group) -> float:
        i = bisect_right(self.milestones, step)
        return self.schedulers[i].rate(step - (self.milestones[i - 1] if i else 0), group)


class LinearWarmup(LRScheduler):
    """Rises from start_factor times the first rate over `warmup_steps`, then follows `after` (or stays).

    `after` is a schedule of the same optimizer and starts at its step 0 when the warm-up ends. After
    k < warmup_steps steps the rate is (start_factor + (1 - start_factor) * k / warmup_steps) times lr0.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        warmup_steps: int,
        after: LRScheduler | None = None,
        start_factor: float = 0.01,
    ) -> None:
        self.warmup_steps = _count("LinearWarmup", "warmup_steps", warmup_steps, 0)
        if not 0 <= start_factor <= 1:
            raise ValueError(f"LinearWarmup: start_factor must lie in [0, 1], got {start_factor!r}")
        if after is not None and after.optimizer is not optimizer:
            raise ValueError("LinearWarmup: the schedule after it must belong to the same optimizer")
        self.after, self.start_factor = after, start_factor
        super().__init__(optimizer)

    def rate(self, step: int, group: Group) -> float:
        if step < self.warmup_steps:
            share = self.start_factor + (1 - self.start_factor) * step / self.warmup_steps
            return float(group["initial_lr"] * share)
        if self.after is None:
            return float(group["initial_lr"])
        return self.after.rate(step - self.warmup_steps, group)


class WarmupCosine(LinearWarmup):
    """Linear warm-up over `warmup_steps`, then half a cosine down to min_factor * lr0 at `total_steps`."""

    def __init__(
        self,
        optimizer: Optimizer,
        warmup_steps: int,
        total_steps: int,
        min_factor: float = 0.0,
        start_factor: float = 0.01,
    ) -> None:
        self.total_steps = _count("WarmupCosine", "total_steps", total_steps)
        self.min_factor = min_factor
        if not 0 <= min_factor <= 1:
            raise ValueError(f"WarmupCosine: min_factor must lie in [0, 1], got {min_factor!r}")
        if warmup_steps >= total_steps:
            raise ValueError(
                f"WarmupCosine: warmup_steps {warmup_steps} must be below total_steps {total_steps}"
            )
        super().__init__(optimizer, warmup_steps, None, start_factor)

    def rate(self, step: int, group: Group) -> float:
        if step < self.warmup_steps:
            return super().rate(step, group)
        done = min((step - self.warmup_steps) / (self.total_steps - self.warmup_steps), 1.0)
        share = self.min_factor + (1 - self.min_factor) * (1 + math.cos(math.pi * done)) / 2
        return float(group["initial_lr"] * share)


class OneCycleLR(LRScheduler):
    """Up to max_lr and down to nearly nothing within total_steps (Smith & Topin 2018), PyTorch's two-phase
    form.

    Args:
        max_lr: the peak: a number, one per group, or None for each group's own lr. A single number is
            multiplied by a group's lr_scale.
        total_steps: at most total_steps - 1 calls of `step()`; beyond, the last rate stays.
        pct_start: share of the steps that rise.
        anneal_strategy: "cos" or "linear".
        div_factor: the first rate is max_lr / div_factor.
        final_div_factor: the last rate is the first one divided by this.
        cycle_momentum: momentum (or Adam's first beta) runs from max_momentum to base_momentum at the peak
            and back.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        max_lr: float | Sequence[float] | None = None,
        total_steps: int = 1,
        pct_start: float = 0.3,
        anneal_strategy: str = "cos",
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
        cycle_momentum: bool = True,
        base_momentum: float = 0.85,
        max_momentum: float = 0.95,
    ) -> None:
        self.total_steps = _count("OneCycleLR", "total_steps", total_steps)
        if not 0 <= pct_start <= 1:
            raise ValueError(f"OneCycleLR: pct_start must lie in [0, 1], got {pct_start!r}")
        if anneal_strategy not in ("cos", "linear"):
            raise ValueError(
                f"OneCycleLR: anneal_strategy must be 'cos' or 'linear', got {anneal_strategy!r}"
            )
        if not (div_factor > 0 and final_div_factor > 0):
            raise ValueError("OneCycleLR: div_factor and final_div_factor must be above 0")
        self.pct_start, self.anneal_strategy = pct_start, anneal_strategy
        self.div_factor, self.final_div_factor = div_factor, final_div_factor
        self.cycle_momentum = cycle_momentum
        self.base_momentum, self.max_momentum = base_momentum, max_momentum
        groups = optimizer.param_groups
        if isinstance(max_lr, Sequence) and len(max_lr) != len(groups):
            raise ValueError(f"OneCycleLR: max_lr has {len(max_lr)} numbers for {len(groups)} groups")
        for i, group in enumerate(groups):
            if isinstance(max_lr, Sequence):
                group["initial_lr"] = float(max_lr[i])
            elif max_lr is not None:
                group["initial_lr"] = float(max_lr) * group.get("lr_scale", 1.0)
        super().__init__(optimizer)

    def _between(self, step: int, ends: tuple[float, float, float]) -> float:
        """The value at a step, from ends[0] to ends[1] at the peak to ends[2] at the last step."""
        peak, last = self.pct_start * self.total_steps - 1, self.total_steps - 1
        step = min(step, last)
        if step <= peak:
            first, second, share = ends[0], ends[1], step / peak if peak else 1.0
        else:
            first, second, share = ends[1], ends[2], (step - peak) / (last - peak)
        if self.anneal_strategy == "linear":
            return first + (second - first) * share
        return second + (first - second) / 2 * (1 + math.cos(math.pi * share))

    def rate(self, step: int, group: Group) -> float:
        top = group["initial_lr"]
        low = top / self.div_factor
        return self._between(step, (low, top, low / self.final_div_factor))

    def _apply(self) -> None:
        super()._apply()
        if not self.cycle_momentum:
            return
        value = self._between(self.last_epoch, (self.max_momentum, self.base_momentum, self.max_momentum))
        for group in self.optimizer.param_groups:
            if "betas" in group:
                group["betas"] = (value, group["betas"][1])
            elif "momentum" in group:
                group["momentum"] = value


OneCycle = OneCycleLR
