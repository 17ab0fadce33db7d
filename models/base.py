"""Registered, Model: what every registered network, and every classifier, offers beside `forward`."""

from __future__ import annotations

from typing import Any

from minidl import nn
from minidl.models.config import PretrainedConfig
from minidl.tensor import Parameter, Tensor

__all__ = ["Model", "Registered"]


class Registered(nn.Module):
    """A network that is built by its name.

    Attributes:
        name: the registered architecture it was created from.
        options: JSON-able; `create(model.name, num_classes=model.num_classes, **model.options)`, or
            `create_autoencoder(model.name, pretrained_cfg=model.pretrained_cfg, **model.options)`, builds it
            again.
        pretrained_cfg: preprocessing that the weights expect.
    """

    name: str = ""
    options: dict[str, Any]
    pretrained_cfg: PretrainedConfig


class Model(Registered):
    """An image classifier: a trunk that gives features and a head that pools and classifies them.

    Attributes:
        num_classes: outputs of the classifier; 0 when there is none.
        num_features: channels of the features.
        replaced_classifier: (classes in the weights file, classes now) when `create` put a new classifier in.
    """

    num_classes: int
    num_features: int
    classifier_name: str
    replaced_classifier: tuple[int, int] | None = None

    def forward_features(self, x: Tensor) -> Tensor:
        """The trunk: images (N, C, H, W) to features (N, num_features, h, w)."""
        raise NotImplementedError(f"{type(self).__name__} does not define forward_features")

    def forward_head(self, x: Tensor) -> Tensor:
        """Features to logits (N, num_classes); pooled features (N, num_features) without a classifier."""
        raise NotImplementedError(f"{type(self).__name__} does not define forward_head")

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    @property
    def classifier(self) -> nn.Module:
        """The last layer (Linear, or Identity without classes)."""
        return self.get_submodule(self.classifier_name)

    def reset_classifier(self, num_classes: int) -> None:
        """A new, untrained classifier for num_classes classes; 0 leaves the pooled features as the output."""
        raise NotImplementedError(f"{type(self).__name__} does not define reset_classifier")

    def trunk(self) -> list[nn.Module]:
        """The children that are not the classifier: what feature extraction freezes."""
        return [child for name, child in self.named_children() if name != self.classifier_name]

    def layer_groups(self) -> list[tuple[str, list[Parameter]]]:
        """(name, parameters) from input to output, each parameter once: for learning rates by depth."""
        raise NotImplementedError(f"{type(self).__name__} does not define layer_groups")
