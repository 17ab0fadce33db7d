"""AdaBN: the batch norms take their statistics from the target.

Li et al.: Revisiting batch normalization for practical domain adaptation, 2016: mean and variance of every batch
norm are those of the target images, the weights stay. Schneider et al.: Improving robustness against common
corruptions by covariate shift adaptation, 2020 (eq. 3): with few target images the source's statistics are a
prior that counts as N images beside n of the target,

    mean = (N mean_S + n mean_T) / (N + n),     var = (N var_S + n var_T) / (N + n)

Here var_T is the variance over all images: the mean of the batches' variances plus the variance of their means.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

import minidl
from minidl.kernels import devices
from minidl.nn import BatchNorm1d, BatchNorm2d, Module
from minidl.tensor import Tensor

__all__ = ["adapt_batch_norms"]


def adapt_batch_norms(model: Module, batches: Iterable[Tensor], prior: float = 0.0) -> int:
    """Set the statistics of all batch norms of `model` from batches of target images; returns their number.

    Each batch is normalised by its own statistics on its way, so batches should be large (hundreds of
    images) and mixed: batches of one class each would spoil the result. `prior` is N above, in images; 0
    forgets the source. The model's mode is as before. Raises ValueError for no batch norm with statistics,
    no images or a negative prior.
    """
    norms = [
        m
        for m in model.modules()
        if isinstance(m, (BatchNorm1d, BatchNorm2d))
        and m.running_mean is not None
        and m.running_var is not None
    ]
    if not norms:
        raise ValueError("adapt_batch_norms: the model has no batch norm that keeps statistics")
    if prior < 0:
        raise ValueError(f"adapt_batch_norms: prior must be at least 0, got {prior}")
    source = [_statistics(norm) for norm in norms]
    modes = [(module, module.training) for module in model.modules()]
    momenta = [norm.momentum for norm in norms]
    total, sums = 0, [np.zeros((2, norm.num_features)) for norm in norms]
    model.eval()
    for norm in norms:
        norm.training, norm.momentum = True, 1.0  # the running statistics become those of the batch
    try:
        with minidl.no_grad():
            for images in batches:
                model(images)
                total += images.shape[0]
                for moments, norm in zip(sums, norms, strict=True):
                    mean, var = _statistics(norm)
                    moments += images.shape[0] * np.stack([mean, var + mean * mean])
    finally:
        for module, training in modes:
            module.training = training
        for norm, momentum, (mean, var), moments in zip(norms, momenta, source, sums, strict=True):
            norm.momentum = momentum
            if total:
                target_mean = moments[0] / total
                target_var = moments[1] / total - target_mean**2
                mean = (prior * mean + total * target_mean) / (prior + total)
                var = (prior * var + total * target_var) / (prior + total)
            _set_statistics(norm, mean, var)
    if not total:
        raise ValueError("adapt_batch_norms: there were no images")
    return len(norms)


def _statistics(norm: BatchNorm2d) -> tuple[np.ndarray, np.ndarray]:
    assert norm.running_mean is not None and norm.running_var is not None
    mean, var = devices.host(norm.running_mean.data), devices.host(norm.running_var.data)
    return mean.astype(np.float64), var.astype(np.float64)


def _set_statistics(norm: BatchNorm2d, mean: np.ndarray, var: np.ndarray) -> None:
    assert norm.running_mean is not None and norm.running_var is not None
    with minidl.no_grad():
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(np.maximum(var, 0.0))
