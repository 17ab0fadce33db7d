"""Layers and networks, under PyTorch's names. `nn.functional` holds the operators, `nn.init` the
initialisers.
"""

from minidl.nn import functional, init
from minidl.nn.containers import ModuleList, Sequential
from minidl.nn.conv import Conv2d
from minidl.nn.linear import Dropout, Flatten, Identity, Linear, ReLU
from minidl.nn.loss import CrossEntropyLoss
from minidl.nn.module import HookHandle, Module
from minidl.nn.norm import BatchNorm2d
from minidl.nn.pooling import AdaptiveAvgPool2d, AvgPool2d, MaxPool2d
from minidl.nn.state import StateDictError
from minidl.tensor import Parameter

__all__ = [
    "AdaptiveAvgPool2d",
    "AvgPool2d",
    "BatchNorm2d",
    "Conv2d",
    "CrossEntropyLoss",
    "Dropout",
    "Flatten",
    "HookHandle",
    "Identity",
    "Linear",
    "MaxPool2d",
    "Module",
    "ModuleList",
    "Parameter",
    "ReLU",
    "Sequential",
    "StateDictError",
    "functional",
    "init",
]
