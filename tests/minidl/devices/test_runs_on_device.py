"""Whole runs on a device leave the CPU's weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from minidl.data import ArrayDataset, Splits
from minidl.training import PretrainSettings, Settings, fine_tune, load_checkpoint, pretrain
from tests.minidl.training.tiny import OPTIONS


def images(count: int, seed: int) -> ArrayDataset:
    pixels = np.random.default_rng(seed).integers(0, 200, (count, 8, 8, 3)).astype(np.uint8)
    labels = np.arange(count) % 2
    pixels[np.arange(count), ..., labels] += 40
    return ArrayDataset(pixels, labels, ["red", "green"])


DATA = Splits(images(8, 0), images(4, 1), ["red", "green"], "arrays")


def tuned(out: Path, device: str, capture: bool = False, **options: object) -> None:
    settings = Settings("resnet20", model_options=OPTIONS, batch_size=4, **options)  # type: ignore[arg-type]
    fine_tune(DATA, settings, out, device=device, capture=capture, draw=False, workers=0)


def autoencoder(out: Path, device: str) -> None:
    options = {"channels": [4], "hidden": 8, "latent": 2}
    settings = PretrainSettings("variational_autoencoder", model_options=options, epochs=1, batch_size=4)
    pretrain(DATA, settings, out, device=device, draw=False, workers=0)


RUNS: dict[str, Callable[[Path, str], None]] = {
    "captured": lambda out, device: tuned(out, device, capture=True, epochs=2, clip_norm=1.0),
    "classifier on features": lambda out, device: tuned(
        out, device, epochs=1, freeze="trunk", augment="none"
    ),
    "fixmatch": lambda out, device: tuned(out, device, epochs=1, semi="fixmatch", labels_per_class=2),
    "autoencoder": autoencoder,
}


@pytest.mark.parametrize("name", RUNS)
def test_a_run_gives_the_cpus_weights(name: str, device: str, tmp_path: Path) -> None:
    for place in ("cpu", device):
        RUNS[name](tmp_path / place.replace(":", "-"), place)
    here, there = (load_checkpoint(tmp_path / p.replace(":", "-")).state for p in ("cpu", device))
    for key, array in here.items():
        scale = float(np.abs(array).max())
        np.testing.assert_allclose(there[key], array, rtol=1e-3, atol=1e-4 * scale, err_msg=key)
