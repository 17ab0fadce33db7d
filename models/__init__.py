"""Networks by name: `create("resnet50", num_classes=2)`, `list_models()`, `summarize(model)`."""

from minidl.models import resnet as _resnet  # registers its architectures
from minidl.models.base import Model
from minidl.models.config import ConfigError, PretrainedConfig
from minidl.models.registry import Architecture, architecture, create, list_models, parse_options, register
from minidl.models.summary import Summary, SummaryRow, summarize

ResNet = _resnet.ResNet

__all__ = [
    "Architecture",
    "ConfigError",
    "Model",
    "PretrainedConfig",
    "ResNet",
    "Summary",
    "SummaryRow",
    "architecture",
    "create",
    "list_models",
    "parse_options",
    "register",
    "summarize",
]
