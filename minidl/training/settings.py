"""What decides the result of a run, with defaults that depend on one another."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from minidl.semi import METHODS, check_options
from minidl.training.freezing import check_mode

OPTIMIZERS = ("sgd", "adam", "adamw", "rmsprop")
SCHEDULES = ("cosine", "onecycle", "step", "constant")
AUGMENTATIONS = ("none", "light", "basic", "strong")

_RATES = {"sgd": 0.01, "adam": 1e-3, "adamw": 1e-3, "rmsprop": 1e-4}
_DECAYS = {"sgd": 1e-4, "adam": 0.0, "adamw": 0.01, "rmsprop": 0.0}
EPOCHS, EPOCHS_OF_A_HEAD = 10, 100


@dataclass
class TrainingSettings:
    """The settings that every kind of training has. A None is filled in by `__post_init__`:

    - `lr`: 0.01 for SGD, 0.001 for Adam and AdamW, 0.0001 for RMSprop. `weight_decay`: 0.0001 for SGD, 0.01
      for AdamW, else 0.
    - `augment`, `epochs`: see the subclasses.

    `warmup` is the share of all steps in which the learning rate rises (cosine and constant schedules);
    "step" divides the rate by ten after half and after three quarters of the steps. `clip_norm` scales all
    gradients down to this norm where theirs is larger. `preprocess` replaces fields of the model's
    `pretrained_cfg`. Norms and biases have no weight decay. `val_split` counts only where the data has no
    validation part.

    Raises ValueError naming the setting that is wrong.
    """

    model: str
    model_options: dict[str, Any] = field(default_factory=dict)
    preprocess: dict[str, Any] = field(default_factory=dict)
    augment: str | None = None
    epochs: int | None = None
    batch_size: int = 32
    optimizer: str = "sgd"
    lr: float | None = None
    momentum: float = 0.9
    weight_decay: float | None = None
    schedule: str = "cosine"
    warmup: float = 0.05
    clip_norm: float | None = None
    seed: int = 0
    val_split: float = 0.2

    def __post_init__(self) -> None:
        _choice("optimizer", self.optimizer, OPTIMIZERS)
        _choice("schedule", self.schedule, SCHEDULES)
        self._fill()
        _choice("augment", str(self.augment), AUGMENTATIONS)
        if self.lr is None:
            self.lr = _RATES[self.optimizer]
        if self.weight_decay is None:
            self.weight_decay = _DECAYS[self.optimizer]
        self._check("epochs", 1, 10**6)
        self._check("batch_size", 1, 10**6)
        self._check("lr", 0.0, math.inf)
        self._check("momentum", 0.0, 1.0)
        self._check("weight_decay", 0.0, math.inf)
        self._check("warmup", 0.0, 0.99)
        self._check("seed", 0, 2**63 - 1)
        self._check("val_split", 0.0, 0.99)
        if self.clip_norm is not None and not 0.0 < self.clip_norm < math.inf:
            raise ValueError(f"clip_norm must be above 0, got {self.clip_norm}")

    def _fill(self) -> None:
        """Fills in the defaults that depend on the kind of training."""
        self.augment = self.augment or "none"
        self.epochs = EPOCHS if self.epochs is None else self.epochs

    def _check(self, name: str, low: float, high: float) -> None:
        value = getattr(self, name)
        if not low <= value <= high or not math.isfinite(value):
            raise ValueError(f"{name} must lie between {low} and {high}, got {value}")

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass
class PretrainSettings(TrainingSettings):
    """The settings of a run without labels. Defaults: Adam, batches of 128, 10 epochs, images as they are
    (`augment` "none").
    """

    batch_size: int = 128
    optimizer: str = "adam"
    val_split: float = 0.1


@dataclass
class Settings(TrainingSettings):
    """The settings of a classifier's run. A None is filled in by `__post_init__`:

    - `augment`: "none" with a frozen trunk, whose features are then computed once; "basic" for fixmatch, whose
      weak augmentation it is; else "light".
    - `epochs`: 100 for a frozen trunk without augmentation (an epoch on kept features takes milliseconds),
      else 10.

    `layer_decay` multiplies the rate of each layer group by this factor for every group that lies between it
    and the classifier. `labels_per_class` uses the labels of so many training images of each class only,
    drawn by the seed. `semi` is the method that learns from images without labels as well, with its
    `semi_options`: see `minidl.semi`. `unlabelled` is the place of these images; None takes the training
    images whose labels are not used. The other settings: see TrainingSettings.
    """

    weights: str | None = None
    new_classifier: bool = False
    freeze: str = "none"
    layer_decay: float | None = None
    label_smoothing: float = 0.0
    labels_per_class: int | None = None
    semi: str | None = None
    semi_options: dict[str, Any] = field(default_factory=dict)
    unlabelled: str | None = None

    def __post_init__(self) -> None:
        check_mode(self.freeze)
        if self.freeze == "encoder":  # another name for it
            self.freeze = "trunk"
        super().__post_init__()
        self._check("label_smoothing", 0.0, 0.99)
        if self.layer_decay is not None and not 0.0 < self.layer_decay <= 1.0:
            raise ValueError(f"layer_decay must lie above 0 and at most at 1, got {self.layer_decay}")
        if self.labels_per_class is not None:
            self._check("labels_per_class", 1, 10**9)
        if self.semi is None and (self.semi_options or self.unlabelled):
            raise ValueError(
                f"unlabelled images are used by a method only: semi must be {' or '.join(METHODS)}"
            )
        if self.semi is not None:
            check_options(self.semi, self.semi_options)
            if self.unlabelled is None and self.labels_per_class is None:
                raise ValueError(
                    "semi-supervised training needs images without labels: give unlabelled or labels_per_class"
                )

    def _fill(self) -> None:
        if self.semi == "fixmatch":
            self.augment = self.augment or "basic"
        elif self.augment is None:
            self.augment = "none" if self.freeze == "trunk" else "light"
        if self.epochs is None:
            self.epochs = EPOCHS_OF_A_HEAD if self.trains_on_features else EPOCHS

    @property
    def trains_on_features(self) -> bool:
        """Whether every epoch sees the same features, so that they are computed once."""
        return self.freeze == "trunk" and self.augment == "none" and self.semi != "fixmatch"


def _choice(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")
