"""Keeping decoded images in memory."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np

DEFAULT_CACHE_BYTES = 2**30


class ImageCache:
    """Gives `(prepare(image), label)` of a data set and keeps what it gave, up to `max_bytes`.

    `prepare` must give the same image every time, so it does not matter which images are kept. What is kept
    stays until the cache goes: under training every image is asked for once per epoch, where replacing one
    by another would never find anything. Safe to call from several threads.
    """

    def __init__(self, dataset: Any, prepare: Callable[[Any], Any], max_bytes: int) -> None:
        self._dataset = dataset
        self._prepare = prepare
        self._lock = threading.Lock()
        self._kept: dict[int, tuple[Any, int]] = {}
        self.max_bytes = max_bytes
        self.bytes = 0

    def __len__(self) -> int:
        """The number of images kept."""
        return len(self._kept)

    def __call__(self, index: int) -> tuple[Any, int]:
        found = self._kept.get(index)
        if found is not None:
            return found
        image, label = self._dataset[index]
        image = self._prepare(image)
        size = _bytes_of(image)
        with self._lock:
            if index not in self._kept and self.bytes + size <= self.max_bytes:
                self._kept[index] = image, label
                self.bytes += size
        return image, label


def _bytes_of(image: Any) -> int:
    if isinstance(image, np.ndarray):
        return image.nbytes
    width, height = image.size
    return int(width * height * (1 if image.mode == "L" else 4))  # Pillow stores RGB in 4 bytes a pixel
