"""A frozen trunk gives the same features in every epoch: compute them once and train the classifier on them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

import minidl
from minidl.nn import Module
from minidl.training.reporting import Reporter
from minidl.training.trainer import Loader, device_of


def compute_features(
    model: Module, classifier: str, loader: Loader, reporter: Reporter, title: str
) -> tuple[np.ndarray, np.ndarray]:
    """What enters the module named `classifier`, over all batches of `loader`, in evaluation mode.

    Returns features float32 (N, F) and labels int64 (N,).
    """
    features: list[np.ndarray] = []
    labels: list[np.ndarray] = []
    head = model.get_submodule(classifier)
    handle = head.register_forward_hook(
        lambda module, inputs, output: features.append(np.array(inputs[0].cpu().numpy()))
    )
    device = device_of(model)
    was_training = model.training
    model.eval()
    reporter.begin(title, len(loader))
    try:
        with minidl.no_grad():
            for number, (images, truth) in enumerate(loader.iterate(), 1):
                model(images.to(device))
                labels.append(np.asarray(truth))
                reporter.advance(number)
    finally:
        reporter.end()
        handle.remove()
        model.train(was_training)
    return np.concatenate(features), np.concatenate(labels)


class FeatureLoader:
    """Batches of rows of an array; the order depends on (seed, epoch) alone."""

    def __init__(
        self,
        features: np.ndarray,
        labels: np.ndarray,
        batch_size: int,
        *,
        shuffle: bool = False,
        seed: int = 0,
    ) -> None:
        self.features, self.labels, self.batch_size = features, labels, batch_size
        self.shuffle, self.seed, self.epoch = shuffle, seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-len(self.labels) // self.batch_size)

    def iterate(self, start: int = 0) -> Iterator[tuple[minidl.Tensor, np.ndarray]]:
        """The batches of the epoch from number `start` on."""
        order = np.arange(len(self.labels))
        if self.shuffle:
            order = np.random.default_rng([self.seed, self.epoch]).permutation(len(order))
        for first in range(start * self.batch_size, len(order), self.batch_size):
            rows = order[first : first + self.batch_size]
            yield minidl.Tensor(self.features[rows]), self.labels[rows]
