"""The first minute: what a command costs before and after the kernels are compiled, each in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

WARM_RUNS = 3


def _seconds(command: list[str], environment: dict[str, str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - started


def checkpoint_and_image(folder: Path, model: str) -> tuple[Path, Path]:
    """A checkpoint of the named network with random weights, and a photo's worth of noise as a JPEG file."""
    from PIL import Image

    import minidl
    from minidl import models
    from minidl.training import Checkpoint, save_checkpoint

    minidl.manual_seed(0)
    network = models.create(model)
    path = folder / f"{model}.safetensors"
    checkpoint = Checkpoint(
        state=network.state_dict(),
        model=model,
        options={},
        classes=[f"class {n}" for n in range(network.num_classes)],
        preprocessing=network.pretrained_cfg.to_dict(),
    )
    save_checkpoint(checkpoint, path)
    image = folder / "noise.jpg"
    noise = np.random.default_rng(0).integers(0, 256, (375, 500, 3), dtype=np.uint8)
    Image.fromarray(noise).save(image)
    return path, image


def rows(quick: bool) -> Iterator[dict[str, Any]]:
    """`import minidl`, and `minidl predict` of one image with an empty and with a warm cache."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        environment = {**os.environ, "MINIDL_CACHE_DIR": str(folder / "cache")}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed package has its byte code
        importing = [sys.executable, "-c", "import minidl"]
        yield {
            "what": "import minidl",
            "seconds": [_seconds(importing, environment) for _ in range(WARM_RUNS)],
        }
        for model in ("resnet18",) if quick else ("resnet18", "resnet50"):
            checkpoint, image = checkpoint_and_image(folder, model)
            environment["MINIDL_CACHE_DIR"] = str(folder / f"cache-{model}")
            command = [sys.executable, "-m", "minidl", "predict", str(image), "--checkpoint", str(checkpoint)]
            yield {
                "what": f"minidl predict, {model}, empty cache",
                "seconds": [_seconds(command, environment)],
            }
            warm = [_seconds(command, environment) for _ in range(WARM_RUNS)]
            yield {"what": f"minidl predict, {model}, warm cache", "seconds": warm}
