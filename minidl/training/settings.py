"""What decides the result of a fine-tuning run, with defaults that depend on one another."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from minidl.training.freezing import check_mode

OPTIMIZERS = ("sgd", "adam", "adamw", "rmsprop")
SCHEDULES = ("cosine", "onecycle", "step", "constant")
AUGMENTATIONS = ("none", "light", "basic", "strong")

_RATES = {"sgd": 0.01, "adam": 1e-3, "adamw": 1e-3, "rmsprop": 1e-4}
_DECAYS = {"sgd": 1e-4, "adam": 0.0, "adamw": 0.01, "rmsprop": 0.0}
EPOCHS, EPOCHS_OF_A_HEAD = 10, 100


@dataclass
class Settings:
    """The settings of a run. A None is filled in by `__post_init__`:

    - `augment`: "none" with a frozen trunk, whose features are then computed once; else "light".
    - `epochs`: 100 for a frozen trunk without augmentation (an epoch on kept features takes milliseconds),
      else 10.
    - `lr`: 0.01 for SGD, 0.001 for Adam and AdamW, 0.0001 for RMSprop. `weight_decay`: 0.0001 for SGD, 0.01
      for AdamW, else 0.

    `warmup` is the share of all steps in which the learning rate rises (cosine and constant schedules);
    "step" divides the rate by ten after half and after three quarters of the steps. `layer_decay`
    multiplies the rate of each layer group by this factor for every group that lies between it and the
    classifier. `clip_norm` scales all gradients down to this norm where theirs is larger. `preprocess`
    replaces fields of the model's `pretrained_cfg`. Norms and biases have no weight decay. `val_split`
    counts only where the data has no validation part.

    Raises ValueError naming the setting that is wrong.
    """

    model: str
    weights: str | None = None
    model_options: dict[str, Any] = field(default_factory=dict)
    preprocess: dict[str, Any] = field(default_factory=dict)
    new_classifier: bool = False
    freeze: str = "none"
    augment: str | None = None
    epochs: int | None = None
    batch_size: int = 32
    optimizer: str = "sgd"
    lr: float | None = None
    momentum: float = 0.9
    weight_decay: float | None = None
    schedule: str = "cosine"
    warmup: float = 0.05
    layer_decay: float | None = None
    label_smoothing: float = 0.0
    clip_norm: float | None = None
    seed: int = 0
    val_split: float = 0.2

    def __post_init__(self) -> None:
        check_mode(self.freeze)
        _choice("optimizer", self.optimizer, OPTIMIZERS)
        _choice("schedule", self.schedule, SCHEDULES)
        if self.augment is None:
            self.augment = "none" if self.freeze == "trunk" else "light"
        _choice("augment", self.augment, AUGMENTATIONS)
        if self.epochs is None:
            self.epochs = EPOCHS_OF_A_HEAD if self.trains_on_features else EPOCHS
        if self.lr is None:
            self.lr = _RATES[self.optimizer]
        if self.weight_decay is None:
            self.weight_decay = _DECAYS[self.optimizer]
        for name, low, high in (
            ("epochs", 1, 10**6),
            ("batch_size", 1, 10**6),
            ("lr", 0.0, math.inf),
            ("momentum", 0.0, 1.0),
            ("weight_decay", 0.0, math.inf),
            ("warmup", 0.0, 0.99),
            ("label_smoothing", 0.0, 0.99),
            ("seed", 0, 2**63 - 1),
            ("val_split", 0.0, 0.99),
        ):
            value = getattr(self, name)
            if not low <= value <= high or not math.isfinite(value):
                raise ValueError(f"{name} must lie between {low} and {high}, got {value}")
        if self.clip_norm is not None and not 0.0 < self.clip_norm < math.inf:
            raise ValueError(f"clip_norm must be above 0, got {self.clip_norm}")
        if self.layer_decay is not None and not 0.0 < self.layer_decay <= 1.0:
            raise ValueError(f"layer_decay must lie above 0 and at most at 1, got {self.layer_decay}")

    @property
    def trains_on_features(self) -> bool:
        """Whether every epoch sees the same features, so that they are computed once."""
        return self.freeze == "trunk" and self.augment == "none"

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def _choice(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")
