"""Training on both domains at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

import minidl
from minidl.adaptation.alignment import Alignment, Both
from minidl.adaptation.domains import PairOfBatches
from minidl.adaptation.mixing import mix_domains
from minidl.adaptation.self_training import SelfTraining
from minidl.nn import Module
from minidl.tensor import Tensor
from minidl.training.trainer import Trainer, device_of, hits

__all__ = ["AdaptationTrainer", "Features", "Mixing", "Parts"]


class Features:
    """A network that also gives what enters its classifier: `features, logits = Features(model, "fc")(images)`."""

    def __init__(self, model: Module, classifier: str) -> None:
        self.model, self._head = model, model.get_submodule(classifier)

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Features (N, F) and logits (N, C) of images (N, C, H, W)."""
        seen: list[Tensor] = []
        with self._head.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0])):
            logits = self.model(images)
        return seen[0], logits


class Parts(Module):
    """All that a run has to save: the network, the alignment's own parameters, and the teacher."""

    def __init__(
        self, model: Module, alignment: Alignment | None, self_training: SelfTraining | None
    ) -> None:
        super().__init__()
        self.model = model
        if alignment is not None:
            self.alignment = alignment
        if self_training is not None:
            self.self_training = self_training


@dataclass(frozen=True)
class Mixing:
    """`mix_domains` with randomness of its own for each step, so that training can be continued at any."""

    share: float
    signs: bool
    seed: int

    def __call__(self, source: Tensor, target: Tensor, step: int) -> Tensor:
        return mix_domains(
            source, target, np.random.default_rng([self.seed, step]), self.share, signs=self.signs
        )


class AdaptationTrainer(Trainer):
    """A `Trainer` whose loss is cross-entropy on the labelled images, plus the alignment's term, plus that of
    self-training. Its batches are `PairOfBatches`; `steps` is the number of all steps. With `mixing` the
    labelled images are mixed with target images first.

    The network sees the images of both domains as one batch, so that batch norms in training mode share
    their statistics.
    """

    def __init__(
        self,
        parts: Parts,
        classifier: str,
        steps: int,
        *arguments: Any,
        alignment: Alignment | None = None,
        self_training: SelfTraining | None = None,
        mixing: Mixing | None = None,
        **options: Any,
    ) -> None:
        super().__init__(parts.model, *arguments, **options)
        self.features, self.mixing = Features(parts.model, classifier), mixing
        self.alignment, self.self_training, self.steps = alignment, self_training, steps

    @property
    def step(self) -> int:
        """How many steps are done."""
        return self.position.epoch * len(self.train_loader) + self.position.step

    @property
    def progress(self) -> float:
        """The share of all steps that are done."""
        return self.step / max(self.steps, 1)

    def train_step(self, inputs: Any, labels: np.ndarray) -> tuple[float, int]:
        """One step; the teacher follows."""
        done = super().train_step(inputs, labels)
        if self.self_training is not None:
            self.self_training.update(self.model)
        return done

    def loss(self, inputs: Any, labels: np.ndarray) -> tuple[Tensor, Any]:
        """The sum of the terms, and how many of the labelled images are predicted right."""
        batch: PairOfBatches = inputs
        images = batch.source
        if batch.target is not None:
            if self.mixing is not None:
                images = self.mixing(images, batch.target, self.step)
            if self.alignment is not None or self.self_training is not None:
                images = minidl.cat([images, batch.target])
        features, logits = self.features(images.to(device_of(self.model)))
        n = len(labels)
        loss = self.objective(logits[:n], labels)
        if self.alignment is not None:
            both = Both(features[:n], features[n:], logits[:n], logits[n:])
            loss = loss + self.alignment(both, self.progress)
        if self.self_training is not None and batch.weak is not None:
            loss = loss + self.self_training(batch.weak, logits[n:])
        return loss, hits(logits, labels)
