"""The networks whose logits and gradients are compared with PyTorch's: weights, inputs and the projections
that stand for gradients.

A gradient of 25 million numbers is stored as a few inner products with random signs: for a difference d and
random signs s the mean of <s, d>^2 is |d|^2, so the products tell the norm of the difference. Weights and
inputs are made again from a seed.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

PROJECTIONS = 8


@dataclass(frozen=True)
class Case:
    """A network, where its weights come from, and its input."""

    name: str
    model: str
    weights: str | None = None  # below MINIDL_TEST_DATA; None: drawn from a seed
    images: str | None = None  # below MINIDL_TEST_DATA; None: normal numbers
    shape: tuple[int, ...] = ()
    classes: int = 1000


CASES = [
    Case(
        "cifar_resnet20",
        "resnet20",
        "weights/cifar_resnet/resnet20-12fca82f.th",
        "cifar-10-batches-py",
        (16, 3, 32, 32),
        10,
    ),
    Case(
        "resnet50_thin",
        "resnet50_thin",
        "weights/resnet50_thin/resnet50_thin.pth",
        "images/hymenoptera",
        (4, 3, 224, 224),
        2,
    ),
    Case("resnet18", "resnet18", shape=(4, 3, 96, 96)),
    Case("resnet50", "resnet50", shape=(4, 3, 96, 96)),
]


def rng_of(*names: str) -> np.random.Generator:
    """One generator for a list of names, the same everywhere."""
    return np.random.default_rng([zlib.crc32(n.encode()) for n in names])


def seeded_state(shapes: Mapping[str, tuple[int, ...]], case: str) -> dict[str, np.ndarray]:
    """Weights of sensible size for each name of a ResNet's state dict, float64."""
    state = {}
    for name, shape in shapes.items():
        rng = rng_of(case, name)
        if name.endswith("num_batches_tracked"):
            state[name] = np.zeros(shape, np.int64)
        elif name.endswith("running_var"):
            state[name] = rng.uniform(0.5, 1.5, shape)
        elif len(shape) == 1 and name.endswith("weight"):
            # Small last batch norms of the blocks, as training starts from (Goyal et al. 2017, section 5.1):
            # with large ones
            # fifty layers in training mode multiply PyTorch's own float32 rounding to 2e-5 of the logits.
            last = name.endswith("bn3.weight") or (case == "resnet18" and name.endswith("bn2.weight"))
            state[name] = rng.uniform(0.5, 1.0, shape) * (0.2 if last else 1.0)
        elif len(shape) == 1:
            state[name] = rng.normal(0, 0.1, shape)
        else:
            state[name] = rng.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape)
        state[name] = state[name].astype(np.float32) if state[name].dtype == np.float64 else state[name]
    return state


def images_of(case: Case, data: Path | None) -> np.ndarray:
    """The input, float32 (N, C, H, W), prepared as the weights expect."""
    if case.images is None:
        return rng_of(case.name, "input").standard_normal(case.shape).astype(np.float32)
    from minidl import models
    from minidl.data import eval_transform, open_dataset

    assert data is not None
    cfg = models.create(case.model).pretrained_cfg
    transform = eval_transform(cfg.to_dict())
    samples = open_dataset(data / case.images, "val").val
    step = len(samples) // case.shape[0]
    rng = np.random.default_rng(0)
    return np.stack([np.asarray(transform(samples[i * step][0], rng)) for i in range(case.shape[0])])


def labels_of(case: Case) -> np.ndarray:
    """Targets of the training step."""
    return rng_of(case.name, "labels").integers(0, case.classes, case.shape[0])


def project(name: str, gradient: np.ndarray) -> np.ndarray:
    """Inner products of a gradient with PROJECTIONS random sign patterns, then its norm."""
    flat = np.ascontiguousarray(gradient, np.float64).reshape(-1)
    out = np.empty(PROJECTIONS + 1)
    for k in range(PROJECTIONS):
        signs = rng_of(name, str(k)).integers(0, 2, flat.size, np.int8)
        out[k] = 2.0 * flat[signs == 1].sum() - flat.sum()
    out[-1] = np.linalg.norm(flat)
    return out


def relative_error(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Estimated |difference| / |gradient| from two outputs of `project`."""
    return float(np.sqrt(np.mean((ours[:-1] - theirs[:-1]) ** 2)) / max(theirs[-1], 1e-30))
