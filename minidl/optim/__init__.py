"""Optimizers and learning-rate schedules, by PyTorch's rules and under its names."""

from minidl.optim.groups import clip_grad_norm_, param_groups
from minidl.optim.optimizer import Optimizer, OptimizerStateError
from minidl.optim.rules import SGD, Adam, AdamW, RMSprop
from minidl.optim.schedules import (
    CosineAnnealingLR,
    LinearLR,
    LinearWarmup,
    LRScheduler,
    MultiStepLR,
    OneCycle,
    OneCycleLR,
    SequentialLR,
    StepLR,
    WarmupCosine,
)

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "CosineAnnealingLR",
    "LRScheduler",
    "LinearLR",
    "LinearWarmup",
    "MultiStepLR",
    "OneCycle",
    "OneCycleLR",
    "Optimizer",
    "OptimizerStateError",
    "RMSprop",
    "SequentialLR",
    "StepLR",
    "WarmupCosine",
    "clip_grad_norm_",
    "param_groups",
]
