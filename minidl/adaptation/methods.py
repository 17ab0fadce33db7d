"""The methods by name, and the settings of a run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from minidl.adaptation.adversarial import DomainAdversary
from minidl.adaptation.alignment import Alignment
from minidl.adaptation.coral import DeepCoral
from minidl.adaptation.information import InformationMaximisation
from minidl.adaptation.mmd import MaximumMeanDiscrepancy
from minidl.training.settings import AUGMENTATIONS, Settings

__all__ = ["ALIGNMENTS", "METHODS", "AdaptSettings"]

METHODS = {
    "source": "goes on with the source images alone (for comparison, or under --self-training)",
    "finetune": "learns from --labels-per-class labelled target images of each class",
    "adabn": "takes the batch norms' statistics from the target; trains nothing",
    "coral": "aligns the covariances of the features (deep CORAL)",
    "mmd": "aligns the distributions of the features (maximum mean discrepancy)",
    "dann": "learns features from which the domain cannot be told (domain-adversarial)",
    "mixup": "learns from source images through which target images shine (domain mixup)",
    "infomax": "makes target predictions sure and varied (information maximisation, as SHOT)",
}
"""Name and purpose of every method. Self-training can be added to each."""

ALIGNMENTS: dict[str, tuple[float, Callable[[float, int], Alignment]]] = {
    "coral": (1.0, lambda weight, features: DeepCoral(weight)),
    "mmd": (1.0, lambda weight, features: MaximumMeanDiscrepancy(weight)),
    "dann": (1.0, lambda weight, features: DomainAdversary(features, weight)),
    "infomax": (0.1, lambda weight, features: InformationMaximisation(weight)),
}
"""Default weight and constructor (weight, number of features) of the methods that add a term to the loss."""

STATISTICS = ("source", "batch")


@dataclass
class AdaptSettings(Settings):
    """The settings of an adaptation. Defaults: batches of 128 target and 64 source images, augmentation
    "basic", 10 epochs.

    `method` is a name of METHODS; `self_training` adds pseudo-labels by a running average of the network,
    with `threshold`, `average` and `balance` of `SelfTraining`; the student sees target images with the
    augmentation `student_augment`. `align_weight` is the factor on the method's
    term, `self_weight` that on the pseudo-labels'. An epoch has `steps_per_epoch` steps (None: as many as the
    target has batches).

    `mix_share` is the largest share of a target image in a source image (0: none; 0.5 for the method mixup,
    and open to every other), `mix_signs` also shows the negatives of source images.

    `statistics` is what batch norms do while the network is trained: "source" keeps the stored statistics
    (after `adabn`: the target's) and trains scales and shifts; "batch" normalises the joint batch of both
    domains and lets the statistics move. `prior` is the number of target images that the source's
    statistics count as in `adabn`. `labels_per_class` is how many target labels `finetune` may see.
    The other settings: see Settings.

    Raises ValueError naming the setting that is wrong.
    """

    batch_size: int = 128
    method: str = "coral"
    self_training: bool = False
    source_batch_size: int = 64
    steps_per_epoch: int | None = None
    align_weight: float | None = None
    self_weight: float = 1.0
    threshold: float = 0.9
    average: float = 0.99
    student_augment: str = "strong"
    balance: bool = False
    mix_share: float = 0.0
    mix_signs: bool = False
    statistics: str = "source"
    prior: float = 0.0

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"method must be one of {', '.join(METHODS)}, got {self.method!r}")
        if self.statistics not in STATISTICS:
            raise ValueError(f"statistics must be source or batch, got {self.statistics!r}")
        if self.student_augment not in AUGMENTATIONS:
            raise ValueError(
                f"student_augment must be one of {', '.join(AUGMENTATIONS)}, got {self.student_augment!r}"
            )
        if self.augment is None:
            self.augment = "basic"
        if self.method == "mixup" and not self.mix_share:
            self.mix_share = 0.5
        if self.align_weight is None:
            self.align_weight = ALIGNMENTS[self.method][0] if self.method in ALIGNMENTS else 0.0
        if self.method == "finetune" and self.labels_per_class is None:
            self.labels_per_class = 10
        elif self.method != "finetune" and self.labels_per_class is not None:
            raise ValueError("labels_per_class is for the method finetune: the others use no target labels")
        for name in ("semi", "unlabelled", "new_classifier"):
            if getattr(self, name):
                raise ValueError(f"{name} is a setting of fine-tuning, adaptation has none")
        super().__post_init__()
        self._check("source_batch_size", 1, 10**6)
        self._check("align_weight", 0.0, 1e9)
        self._check("self_weight", 0.0, 1e9)
        self._check("threshold", 0.0, 1.0)
        self._check("average", 0.0, 1.0)
        self._check("mix_share", 0.0, 1.0)
        self._check("prior", 0.0, 1e12)
        if self.steps_per_epoch is not None:
            self._check("steps_per_epoch", 1, 10**6)

    @property
    def trains(self) -> bool:
        """Whether there are steps of an optimizer at all."""
        return self.method != "adabn" or self.self_training

    @property
    def sees_target(self) -> bool:
        """Whether training takes target images without their labels."""
        return self.method in ALIGNMENTS or self.self_training or self.mix_share > 0

    def alignment(self, features: int) -> Alignment | None:
        """The method's term of the loss, for features of this size; None where it has none."""
        if self.method not in ALIGNMENTS:
            return None
        return ALIGNMENTS[self.method][1](float(self.align_weight or 0.0), features)
