"""How the embedded weights were made: a CIFAR-10 ResNet-20 (He et al. 2015, section 4.2) trained by minidl
itself.

    python -m minidl.quickstart.train_resnet20 --jpeg cifar10-jpeg.zip --cifar cifar-10-batches-py --out RUN

Training images: the 50,000 of ``train/`` in a zip of CIFAR-10 as JPEG files, and the lossless training images
of a (partial) original CIFAR-10 folder, each of the latter used ``--lossless-copies`` times an epoch. The
lossless test images are evaluated once, after the last epoch, and chosen by nothing. The log of the run that
made the weights is kept beside this file.

Recipe: SGD with Nesterov momentum, one cycle of learning rate, random 4-pixel shifts and mirror images, weight
decay on weights only. Every epoch ends in a checkpoint; the same command goes on from it.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import minidl
from minidl import kernels, models, nn, optim, weights
from minidl.data import CIFAR10, ZipImageFolder
from minidl.nn import Module
from minidl.nn import functional as F
from minidl.weights.files import atomic_write


def load_images(
    jpeg: Path, cifar: Path, copies: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(training images, labels, test images, labels): uint8 (N, 32, 32, 3) and int64 (N,)."""
    train, test = CIFAR10(cifar, train=True), CIFAR10(cifar, train=False)
    lossless = np.stack([np.asarray(train[i][0]) for i in range(len(train))])
    held_out = np.stack([np.asarray(test[i][0]) for i in range(len(test))])
    zipped = ZipImageFolder(jpeg, prefix="train")
    if zipped.classes != train.classes:
        raise SystemExit(f"{jpeg} has classes {zipped.classes}, {cifar} has {train.classes}")
    decoded = np.stack([np.asarray(zipped[i][0]) for i in range(len(zipped))])
    images = np.concatenate([decoded] + [lossless] * copies)
    labels = np.concatenate([zipped.targets] + [train.targets] * copies)
    return images, labels, held_out, test.targets


def normalise(pixels: np.ndarray) -> minidl.Tensor:
    """uint8 (N, 32, 32, 3) to the network's input: (N, 3, 32, 32), channels-last in memory."""
    cfg = models.create("resnet20").pretrained_cfg
    scale = (cfg.scale / np.asarray(cfg.std)).astype(np.float32)
    shift = (np.asarray(cfg.mean) / np.asarray(cfg.std)).astype(np.float32)
    return minidl.Tensor((pixels * scale - shift).transpose(0, 3, 1, 2))


def batches(
    images: np.ndarray, labels: np.ndarray, size: int, rng: np.random.Generator
) -> Iterator[tuple[minidl.Tensor, np.ndarray]]:
    """Shuffled whole batches, each image shifted by up to 4 pixels (zeros move in) and mirrored with
    probability 1/2."""
    order = rng.permutation(len(images))
    grid = np.arange(32)
    for start in range(0, len(order) - size + 1, size):
        pick = order[start : start + size]
        padded = np.pad(images[pick], ((0, 0), (4, 4), (4, 4), (0, 0)))
        rows = rng.integers(0, 9, size)[:, None] + grid
        columns = rng.integers(0, 9, size)[:, None] + np.where(
            rng.random(size)[:, None] < 0.5, grid, grid[::-1]
        )
        crops = padded[np.arange(size)[:, None, None], rows[:, :, None], columns[:, None, :]]
        yield normalise(crops), labels[pick]


def accuracy(model: Module, images: np.ndarray, labels: np.ndarray) -> float:
    """Share of images whose highest logit is their label's."""
    model.eval()
    hits = 0
    with minidl.no_grad():
        for start in range(0, len(images), 256):
            logits = model(normalise(images[start : start + 256]))
            hits += int((logits.data.argmax(1) == labels[start : start + 256]).sum())
    model.train()
    return hits / len(images)


def keep(checkpoint: Path, model: nn.Module, optimizer: optim.Optimizer, epochs: int) -> None:
    """Write what the training goes on from after so many epochs."""
    state = optimizer.state_dict()
    arrays: dict[str, Any] = {f"model.{name}": array for name, array in model.state_dict().items()}
    arrays |= {f"optim.{name}": array for name, array in state["arrays"].items()}
    with atomic_write(checkpoint) as file:
        np.savez(file, epoch=epochs, settings=json.dumps(state["settings"]), **arrays)


def take_up(checkpoint: Path, model: nn.Module, optimizer: optim.Optimizer) -> int:
    """Read what `keep` wrote; returns the number of finished epochs."""
    with np.load(checkpoint) as kept:
        arrays = {name: kept[name] for name in kept.files}
    model.load_state_dict({k.removeprefix("model."): v for k, v in arrays.items() if k.startswith("model.")})
    own = {k.removeprefix("optim."): v for k, v in arrays.items() if k.startswith("optim.")}
    optimizer.load_state_dict({"settings": json.loads(str(arrays["settings"])), "arrays": own})
    return int(arrays["epoch"])


def main() -> None:
    """Train, evaluate, write the weights."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jpeg", type=Path, required=True, help="zip of CIFAR-10 as train/CLASS/*.jpg")
    parser.add_argument("--cifar", type=Path, required=True, help="CIFAR-10 folder in its original layout")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=24)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--lr", type=float, default=0.2, help="peak of the cycle")
    parser.add_argument("--weight-decay", type=float, default=5e-4)
    parser.add_argument("--lossless-copies", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    args.out.mkdir(parents=True, exist_ok=True)
    log = (args.out / "train.log").open("a", buffering=1)

    def say(line: str) -> None:
        print(line, flush=True)
        log.write(line + "\n")

    minidl.manual_seed(args.seed)
    images, labels, test_images, test_labels = load_images(args.jpeg, args.cifar, args.lossless_copies)
    model = models.create("resnet20")
    groups = optim.param_groups(model, weight_decay=args.weight_decay)
    optimizer = optim.SGD(groups, lr=args.lr, momentum=0.9, nesterov=True)
    steps = len(images) // args.batch_size
    schedule = optim.OneCycleLR(
        optimizer,
        max_lr=args.lr,
        total_steps=steps * args.epochs,
        pct_start=0.2,
        div_factor=10,
        cycle_momentum=False,
    )
    first = 0
    checkpoint = args.out / "checkpoint.npz"
    if checkpoint.exists():
        first = take_up(checkpoint, model, optimizer)
        for _ in range(first * steps):
            schedule.step()
    say(
        f"minidl {minidl.__version__}, {kernels.get_num_threads()} threads, {len(images)} images an epoch, "
        f"epochs {args.epochs}, batch {args.batch_size}, lr {args.lr}, weight decay {args.weight_decay}, "
        f"lossless copies {args.lossless_copies}, seed {args.seed}"
    )
    for epoch in range(first, args.epochs):
        rng = np.random.default_rng([args.seed, epoch])
        started, total, hits, seen = time.perf_counter(), 0.0, 0, 0
        for x, y in batches(images, labels, args.batch_size, rng):
            logits = model(x)
            loss = F.cross_entropy(logits, y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item() * len(y)
            hits += int((logits.data.argmax(1) == y).sum())
            seen += len(y)
        keep(checkpoint, model, optimizer, epoch + 1)
        seconds = time.perf_counter() - started
        say(
            f"epoch {epoch + 1:2d}/{args.epochs}  loss {total / seen:.4f}  "
            f"training accuracy {hits / seen:.4f}  {seconds:.0f} s, {seen / seconds:.0f} images/s"
        )
    score = accuracy(model, test_images, test_labels)
    say(f"lossless test images: {round(score * len(test_images))} of {len(test_images)} correct, {score:.4f}")
    weights.save(
        model.state_dict(),
        args.out / "resnet20_cifar10.safetensors",
        metadata={"model": "resnet20", "data": "CIFAR-10", "accuracy": f"{score:.4f}"},
    )


if __name__ == "__main__":
    main()
