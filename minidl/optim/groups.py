"""Parameter groups for fine-tuning, and clipping of gradients."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from minidl.tensor import Tensor

__all__ = ["clip_grad_norm_", "param_groups"]


def param_groups(
    model: Any,
    weight_decay: float = 0.0,
    no_decay_norm_bias: bool = True,
    layer_decay: float | None = None,
) -> list[dict[str, Any]]:
    """Groups for an optimizer: no weight decay on norms and biases, smaller rates for earlier layers.

    Args:
        model: has `named_parameters()`; with layer_decay also `layer_groups()`: [(name, parameters)], input
            first.
        weight_decay: of the parameters that decay.
        no_decay_norm_bias: parameters of at most one dimension (biases, the scales and shifts of norms) get
            0.
        layer_decay: in (0, 1]: the last layer group has lr_scale 1, each earlier one this factor of the one
            after it (discriminative rates: Howard & Ruder 2018). The optimizer multiplies its lr by lr_scale.

    Frozen parameters are included: they have no gradient, so they stay, and need no new optimizer when
        unfrozen.
    """
    if layer_decay is None:
        layers = [("all", list(model.parameters()))]
    else:
        if not 0 < layer_decay <= 1:
            raise ValueError(f"param_groups: layer_decay must lie in (0, 1], got {layer_decay!r}")
        layers = [(name, list(members)) for name, members in model.layer_groups()]
    groups: list[dict[str, Any]] = []
    for i, (name, members) in enumerate(layers):
        split: dict[float, list[Tensor]] = {}
        for parameter in members:
            decay = 0.0 if no_decay_norm_bias and parameter.ndim <= 1 else weight_decay
            split.setdefault(decay, []).append(parameter)
        for decay, chosen in split.items():
            group: dict[str, Any] = {"params": chosen, "weight_decay": decay, "name": name}
            if layer_decay is not None:
                group["lr_scale"] = layer_decay ** (len(layers) - 1 - i)
            groups.append(group)
    return groups


def clip_grad_norm_(parameters: Iterable[Tensor] | Tensor, max_norm: float) -> Any:
    """Scales all gradients in place so that their joint 2-norm is at most max_norm; returns the norm before: a float,
    or on a device a tensor there, which nobody waits for.

    The factor is max_norm / (norm + 1e-6), as PyTorch's, and 1 at most. The squares are summed in float64.
    With a norm that is not finite nothing is scaled: the caller sees the returned value. No gradients: 0.
    """
    if not max_norm >= 0:
        raise ValueError(f"clip_grad_norm_: max_norm must be at least 0, got {max_norm!r}")
    tensors = [parameters] if isinstance(parameters, Tensor) else parameters
    gradients = [p.grad for p in tensors if p.grad is not None]
    if gradients and gradients[0].device != "cpu":
        return _clip_on_device(gradients, max_norm)
    norm = math.sqrt(sum(float(np.sum(np.square(g.data, dtype=np.float64))) for g in gradients))
    factor = max_norm / (norm + 1e-6)
    if math.isfinite(norm) and factor < 1:
        for gradient in gradients:
            gradient.copy_(gradient.data * gradient.dtype.type(factor))
    return norm


def _clip_on_device(gradients: list[Tensor], max_norm: float) -> Tensor:
    norm = np.sqrt(sum(np.sum(np.square(g.data, dtype=np.float64)) for g in gradients))
    factor = np.minimum(max_norm / (norm + 1e-6), 1.0)
    factor = np.where(np.isfinite(norm), factor, 1.0)
    for gradient in gradients:
        gradient.copy_(gradient.data * factor.astype(gradient.dtype))
    return Tensor._wrap(norm.astype(np.float32))
