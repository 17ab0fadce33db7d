"""Using a checkpoint on image files."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

import minidl
from minidl.errors import MinidlError
from minidl.replays import Replays
from minidl.training.checkpoint import Checkpoint, load_checkpoint
from minidl.training.metrics import log_softmax

BATCH = 16
REPLAYED_AFTER = 32
"""Batches of one size before the network is recorded and replayed, which takes the time of some six of them."""


class Predictor:
    """A network with its preprocessing and class names; `fused`: made faster by :func:`minidl.fuse`."""

    def __init__(self, checkpoint: Checkpoint, fused: bool = True, device: str = "cpu") -> None:
        from minidl.data import eval_transform

        self.classes = checkpoint.classes
        model = checkpoint.build_model().to(device)
        self.model = minidl.fuse(model) if fused else model
        self._replays = Replays(self.model, REPLAYED_AFTER, quiet=True)
        self.device = device
        self.transform = eval_transform(checkpoint.preprocessing)

    @classmethod
    def load(cls, path: str | os.PathLike[str], fused: bool = True, device: str = "cpu") -> Predictor:
        """From a checkpoint file or a run folder; MinidlError when there is none or it is damaged."""
        return cls(load_checkpoint(path), fused, device)

    def predict(self, images: Sequence[Any]) -> np.ndarray:
        """Probabilities float64 (N, classes) of Pillow images or uint8 arrays (H, W, C)."""
        rng = np.random.default_rng(0)  # the transform draws nothing from it
        pixels = np.stack([self.transform(image, rng) for image in images])
        with minidl.no_grad():
            logits = self._logits(minidl.Tensor(pixels).to(self.device)).cpu().numpy()
        return np.exp(log_softmax(logits))

    def _logits(self, images: minidl.Tensor) -> minidl.Tensor:
        """The network's, on the CPU by replays for who asks again and again."""
        if self._replays.function is not self.model:
            self._replays = Replays(self.model, REPLAYED_AFTER, quiet=True)
        logits: minidl.Tensor = self._replays((images,), {}, [images])
        return logits

    def predict_files(
        self, paths: Sequence[str]
    ) -> Iterator[tuple[str, list[tuple[str, float]] | MinidlError]]:
        """For each path, in order: (path, [(class, probability), most probable first]), or (path, what is
        wrong).
        """
        from minidl.data import decode_file

        for start in range(0, len(paths), BATCH):
            part = paths[start : start + BATCH]
            images: list[Any] = []
            for path in part:
                try:
                    images.append(decode_file(path))
                except MinidlError as error:
                    images.append(error)
            readable = [image for image in images if not isinstance(image, MinidlError)]
            rows = iter(self.predict(readable)) if readable else iter(())
            for path, image in zip(part, images, strict=True):
                yield path, (image if isinstance(image, MinidlError) else self._ranked(next(rows)))

    def _ranked(self, probabilities: np.ndarray) -> list[tuple[str, float]]:
        order = np.argsort(-probabilities, kind="stable")
        return [(self.classes[i], float(probabilities[i])) for i in order]
