"""SGD, Adam, AdamW and RMSprop by PyTorch's rules and names; the arithmetic is one fused kernel per
parameter.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from minidl import kernels
from minidl.optim.optimizer import Group, Optimizer, zeros_like

__all__ = ["SGD", "Adam", "AdamW", "RMSprop"]


class SGD(Optimizer):
    """Stochastic gradient descent with momentum (Sutskever et al. 2013), as in PyTorch.

        g = grad + weight_decay * p
        b = momentum * b + (1 - dampening) * g        (b = g at a parameter's first step)
        p = p - lr * (g + momentum * b if nesterov else b)

    `weight_decay` is the L2 penalty inside the gradient. Nesterov needs momentum above 0 and dampening 0.
    """

    settings = ("lr", "momentum", "dampening", "weight_decay", "nesterov")
    array_names = ("momentum_buffer",)

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "momentum": momentum,
                "dampening": dampening,
                "weight_decay": weight_decay,
                "nesterov": nesterov,
            },
        )

    def _update(self, parameter: Any, gradient: Any, state: dict[str, Any], group: Group) -> None:
        buffer, dampening = None, group["dampening"]
        if group["momentum"]:
            if "momentum_buffer" not in state:
                state["momentum_buffer"] = zeros_like(parameter)
                dampening = 0.0  # a zero buffer without dampening starts at b = g
            buffer = state["momentum_buffer"]
        kernels.backend(parameter).sgd_step(
            parameter,
            gradient,
            buffer,
            group["lr"],
            group["momentum"],
            dampening,
            group["weight_decay"],
            group["nesterov"],
        )

    def _needs(self, name: str, index: int) -> bool:
        return False  # without momentum there is no buffer, and momentum may be switched on between steps


class Adam(Optimizer):
    """Adam (Kingma & Ba 2015), as in PyTorch: bias-corrected moments, eps added outside the square root.

    `weight_decay` is the L2 penalty inside the gradient; AdamW decays the parameter itself.
    """

    settings = ("lr", "betas", "eps", "weight_decay")
    array_names = ("exp_avg", "exp_avg_sq")
    decoupled = False

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    def _update(self, parameter: Any, gradient: Any, state: dict[str, Any], group: Group) -> None:
        if "exp_avg" not in state:
            state["exp_avg"], state["exp_avg_sq"] = zeros_like(parameter), zeros_like(parameter)
        kernels.backend(parameter).adam_step(
            parameter,
            gradient,
            state["exp_avg"],
            state["exp_avg_sq"],
            state["step"],
            group["lr"],
            *group["betas"],
            group["eps"],
            group["weight_decay"],
            self.decoupled,
        )


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019): p shrinks by lr * weight_decay before the
    step.
    """

    decoupled = True

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay)


class RMSprop(Optimizer):
    """RMSprop (Hinton, lecture 6e), as in PyTorch: g / (sqrt(mean square) + eps), then momentum on that."""

    settings = ("lr", "alpha", "eps", "weight_decay", "momentum")
    array_names = ("square_avg", "momentum_buffer")

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
    ) -> None:
        super().__init__(
            params,
            {"lr": lr, "alpha": alpha, "eps": eps, "weight_decay": weight_decay, "momentum": momentum},
        )

    def _update(self, parameter: Any, gradient: Any, state: dict[str, Any], group: Group) -> None:
        if "square_avg" not in state:
            state["square_avg"] = zeros_like(parameter)
        buffer = None
        if group["momentum"]:
            if "momentum_buffer" not in state:
                state["momentum_buffer"] = zeros_like(parameter)
            buffer = state["momentum_buffer"]
        kernels.backend(parameter).rmsprop_step(
            parameter,
            gradient,
            state["square_avg"],
            buffer,
            group["lr"],
            group["alpha"],
            group["eps"],
            group["weight_decay"],
            group["momentum"],
        )

    def _needs(self, name: str, index: int) -> bool:
        return name == "square_avg"
