"""Fine-tune a CIFAR-10 ResNet-20 on a few photos of clothes, beside the same training from random weights."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from minidl.data import MNIST, DataLoader, Dataset, Splits, Subset, eval_transform
from minidl.errors import UsageError
from minidl.training import (
    Evaluation,
    Reporter,
    Settings,
    fine_tune,
    load_checkpoint,
    plots,
    predict_logits,
    score,
)
from minidl.training.checkpoint import write_text

ASSETS = Path(__file__).parent / "assets"
WEIGHTS = ASSETS / "resnet20_cifar10.safetensors"
MARKER = "quickstart.json"
"""The file by which a folder of an earlier quickstart is known, which may be replaced."""

TRAIN_PER_CLASS, VAL_PER_CLASS = 20, 20
EPOCHS = 20


@dataclass(frozen=True)
class Comparison:
    """What one quickstart measured: the figures on the test images and the seconds of training, by start."""

    evaluations: dict[str, Evaluation]
    seconds: dict[str, float]
    path: Path


def quickstart(
    out: str | Path,
    reporter: Reporter,
    *,
    seed: int = 0,
    epochs: int | None = None,
    weights: Path = WEIGHTS,
    train_per_class: int | None = None,
    device: str = "cpu",
) -> Comparison:
    """Train twice under one budget, from the embedded weights and from random ones, and compare on the test
    images.

    `out` gets the two run folders "pretrained" and "random", confusion.png, predictions.png and
    quickstart.json; the folder of an earlier quickstart is replaced. `seed` draws the training images, the
    new classifier, the random weights and the order. The epoch is chosen on validation images, the figures
    are of test images that nothing was chosen by. Raises UsageError when `out` is something else than such
    a folder.
    """
    out = Path(out)
    train_per_class = train_per_class or TRAIN_PER_CLASS
    _clear(out)
    train, val, test = open_assets(train_per_class, seed)
    splits = Splits(train, val, test.classes, "Fashion-MNIST")
    reporter.log(
        f"{len(train)} labelled training images ({train_per_class} of each of {len(test.classes)} classes of clothes), "
        f"{len(val)} to choose the epoch by, {len(test):,} to test"
    )
    evaluations: dict[str, Evaluation] = {}
    seconds: dict[str, float] = {}
    logits = np.zeros((0, 0))
    # random first, so that the pretrained network's predictions are the ones that are drawn
    for name, start in (("random", None), ("pretrained", str(weights))):
        reporter.log("")
        reporter.log(f"=== {name} weights ===")
        settings = Settings(
            "resnet20",
            weights=start,
            epochs=epochs or EPOCHS,
            lr=0.05,
            weight_decay=5e-4,
            warmup=0.1,
            augment="basic",
            new_classifier=start is not None,
            seed=seed,
        )
        began = time.perf_counter()
        done = fine_tune(splits, settings, out / name, draw=False, device=device, reporter=reporter)
        seconds[name] = time.perf_counter() - began
        checkpoint = load_checkpoint(done.path)
        model = checkpoint.build_model().to(device)
        loader = DataLoader(test, 125, transform=eval_transform(checkpoint.preprocessing))
        reporter.begin("testing", len(loader))
        try:
            logits, labels = predict_logits(model, loader, reporter)
        finally:
            reporter.end()
        evaluations[name] = score(logits, labels, test.classes)
    result = Comparison(evaluations, seconds, out)
    _draw(result, test, logits, reporter)
    figures = {
        name: {**evaluations[name].to_dict(), "seconds": round(seconds[name], 2)}
        for name in ("pretrained", "random")
    }
    write_text(out / MARKER, json.dumps({"seed": seed, **figures}, indent=2) + "\n")
    return result


def open_assets(train_per_class: int, seed: int) -> tuple[Dataset, Dataset, Dataset]:
    """(training, validation, test) images: the first two are drawn by `seed` from the embedded training
    images.
    """
    images = MNIST(ASSETS, train=True)
    rng = np.random.default_rng(seed)
    train: list[int] = []
    val: list[int] = []
    for label in range(len(images.classes)):
        members = rng.permutation(np.flatnonzero(images.targets == label)).tolist()
        if train_per_class + VAL_PER_CLASS > len(members):
            raise ValueError(
                f"train_per_class must be at most {len(members) - VAL_PER_CLASS}, got {train_per_class}"
            )
        train += members[:train_per_class]
        val += members[train_per_class : train_per_class + VAL_PER_CLASS]
    return Subset(images, train), Subset(images, val), MNIST(ASSETS, train=False)


def _clear(out: Path) -> None:
    """Make room for the result: remove what an earlier quickstart left, refuse anything else."""
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out}: is a file; choose another --out")
    names = {entry.name for entry in out.iterdir()} if out.exists() else set()
    if names and MARKER not in names:
        raise UsageError(f"{out}: exists and was not written by quickstart; choose another --out")
    for name in ("pretrained", "random"):
        if name in names:
            shutil.rmtree(out / name)
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / MARKER, "{}\n")


def _draw(result: Comparison, test: Dataset, logits: np.ndarray, reporter: Reporter) -> None:
    from minidl.training.finetune import draw_sheet

    evaluation = result.evaluations["pretrained"]
    title = f"fine-tuned from CIFAR-10: {100 * evaluation.accuracy:.1f} % of {evaluation.total:,} test images"
    if not plots.draw_confusion(evaluation, result.path / "confusion.png", title):
        reporter.log(plots.NO_MATPLOTLIB)
    draw_sheet(test, logits, test.targets, test.classes, result.path / "predictions.png")
