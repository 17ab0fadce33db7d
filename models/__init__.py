"""Networks by name: `create("resnet50", num_classes=2)`, `list_models()`, `summarize(model)`."""

from minidl.models import autoencoder as _autoencoder  # each registers its architectures
from minidl.models import encoder as _encoder
from minidl.models import resnet as _resnet
from minidl.models.base import Model, Registered
from minidl.models.config import ConfigError, PretrainedConfig
from minidl.models.registry import (
    Architecture,
    architecture,
    create,
    create_autoencoder,
    list_models,
    parse_options,
    register,
)
from minidl.models.summary import Summary, SummaryRow, summarize

Autoencoder = _autoencoder.Autoencoder
ConvAutoencoder = _autoencoder.ConvAutoencoder
ConvEncoder = _encoder.ConvEncoder
DenseAutoencoder = _autoencoder.DenseAutoencoder
DenseEncoder = _encoder.DenseEncoder
ResNet = _resnet.ResNet
ResNetAutoencoder = _autoencoder.ResNetAutoencoder
VariationalAutoencoder = _autoencoder.VariationalAutoencoder

__all__ = [
    "Architecture",
    "Autoencoder",
    "ConfigError",
    "ConvAutoencoder",
    "ConvEncoder",
    "DenseAutoencoder",
    "DenseEncoder",
    "Model",
    "PretrainedConfig",
    "Registered",
    "ResNet",
    "ResNetAutoencoder",
    "Summary",
    "SummaryRow",
    "VariationalAutoencoder",
    "architecture",
    "create",
    "create_autoencoder",
    "list_models",
    "parse_options",
    "register",
    "summarize",
]
