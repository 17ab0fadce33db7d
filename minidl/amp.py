"""Mixed precision: the heavy operators in 16 bits, the delicate ones in float32, master weights in float32.

    scaler = minidl.GradScaler()                     # float16 only
    for images, labels in loader:
        optimizer.zero_grad()
        with minidl.autocast("bf16"):                # or "f16", with the scaler
            loss = F.cross_entropy(model(images), labels)
        scaler.scale(loss).backward()                # bf16: loss.backward()
        scaler.step(optimizer)                       #       optimizer.step()
        scaler.update()

Micikevicius et al., "Mixed Precision Training" (2018), arXiv:1710.03740.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from minidl.autograd.mode import Setting
from minidl.dtypes import as_dtype, is_half
from minidl.tensor import Tensor

__all__ = ["GradScaler", "autocast"]

NAMES = {"bf16": "bfloat16", "f16": "float16", "fp16": "float16"}


class autocast(Setting):
    """Context manager and decorator: inside, convolutions and matrix products take float32 tensors as 16-bit ones.

    Softmax, layer and group norms, losses, means, variances, norms, running sums, products, and activations that are
    made of several operators (gelu, silu, softplus, ...) compute in float32 and give float32. Batch norm and prelu
    have parameters in float32 and give what they got; ``sum`` adds up in float32 and gives what it got.
    Everything else follows its inputs, a float32 and a 16-bit operand giving float32. Parameters stay float32, and so
    do their gradients. float64 is left alone. The choice is the thread's; ``backward`` uses that of the forward pass,
    wherever it is called.

    Args:
        dtype: "bf16" (float32's range: needs no scaler) or "f16" (more digits, a small range: use
            :class:`GradScaler`); or such a dtype.
        enabled: False leaves everything as it is.

    Raises:
        TypeError: another dtype.
        ImportError: bfloat16 without the package ``ml_dtypes``.
    """

    def __init__(self, dtype: Any = "bf16", enabled: bool = True) -> None:
        found = as_dtype(NAMES.get(dtype, dtype) if isinstance(dtype, str) else dtype)
        if not is_half(found):
            raise TypeError(f"autocast: dtype expects 'bf16' or 'f16', got {dtype!r}")
        self.dtype = found if enabled else None
        super().__init__("autocast", self.dtype)


class GradScaler:
    """Multiplies the loss, so that small gradients do not vanish in float16, and divides the gradients before the step.

    The factor grows by ``growth_factor`` after ``growth_interval`` steps whose gradients were all finite. Where one is
    not, the step is left out and the factor is multiplied by ``backoff_factor``. Arguments and defaults are PyTorch's.
    A step asks the device whether they are, which a captured one (:func:`minidl.compile_step`) cannot.

    Raises:
        ValueError: a factor that would not grow, or not shrink.
    """

    def __init__(
        self,
        init_scale: float = 2.0**16,
        growth_factor: float = 2.0,
        backoff_factor: float = 0.5,
        growth_interval: int = 2000,
        enabled: bool = True,
    ) -> None:
        if not (init_scale > 0 and growth_factor > 1 and 0 < backoff_factor < 1 and growth_interval >= 1):
            raise ValueError(
                "GradScaler: expects init_scale > 0, growth_factor > 1, 0 < backoff_factor < 1, growth_interval >= 1, "
                f"got {init_scale}, {growth_factor}, {backoff_factor}, {growth_interval}"
            )
        self.growth_factor, self.backoff_factor = float(growth_factor), float(backoff_factor)
        self.growth_interval, self.enabled = int(growth_interval), bool(enabled)
        self._scale = float(init_scale)
        self._good_steps = 0
        self._finite: dict[int, bool] = {}  # by optimizer: unscaled since the last update

    def get_scale(self) -> float:
        """The present factor; 1 when not enabled."""
        return self._scale if self.enabled else 1.0

    def scale(self, loss: Tensor) -> Tensor:
        """The loss times the factor; call ``backward`` on it."""
        return loss * self.get_scale()

    def unscale_(self, optimizer: Any) -> None:
        """Divide the optimizer's gradients by the factor, in place, once before clipping them.

        Raises:
            RuntimeError: they have been divided since the last :meth:`update`.
        """
        if not self.enabled:
            return
        if id(optimizer) in self._finite:
            raise RuntimeError("GradScaler: unscale_ was called already since the last update")
        finite: Any = None
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                gradient = parameter.grad.data
                gradient *= gradient.dtype.type(1.0 / self._scale)
                parameter.grad.mark_changed()
                flag = np.isfinite(gradient).all()
                finite = flag if finite is None else finite & flag  # one question to the device, at the end
        self._finite[id(optimizer)] = finite is None or bool(finite)

    def step(self, optimizer: Any) -> bool:
        """``optimizer.step()`` if all gradients are finite; returns whether it was done."""
        if not self.enabled:
            optimizer.step()
            return True
        if id(optimizer) not in self._finite:
            self.unscale_(optimizer)
        if self._finite[id(optimizer)]:
            optimizer.step()
        return self._finite[id(optimizer)]

    def update(self) -> None:
        """Adapt the factor to what the steps since the last call found."""
        if not self.enabled:
            return
        if not self._finite:
            raise RuntimeError("GradScaler: update without a step before it")
        if all(self._finite.values()):
            self._good_steps += 1
            if self._good_steps == self.growth_interval:
                grown = self._scale * self.growth_factor
                self._scale = grown if math.isfinite(grown) else self._scale
                self._good_steps = 0
        else:
            self._scale *= self.backoff_factor
            self._good_steps = 0
        self._finite.clear()

    def state_dict(self) -> dict[str, Any]:
        """Factor and count, JSON-able."""
        return {"scale": self._scale, "good_steps": self._good_steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` gave."""
        scale, steps = float(state["scale"]), int(state["good_steps"])
        if not (scale > 0 and math.isfinite(scale) and steps >= 0):
            raise ValueError(f"GradScaler: expects a scale above 0 and a count of steps, got {dict(state)}")
        self._scale, self._good_steps = scale, steps
