"""What pretraining without labels buys on Fashion-MNIST with few labels.

    python -m benchmarks.few_labels fashion-mnist/ --out benchmarks/results/few-labels      the whole table
    python -m benchmarks.few_labels fashion-mnist/ --out tuning --tune --seeds 0            on held-out training images
    python -m benchmarks.few_labels --out benchmarks/results/few-labels --report            table and plot only

A small convolutional network (16,000 weights before the classifier) learns from 10, 50 or 100 labels per class,
drawn by the seed, and is measured once, after its last step, on the 10,000 test images. Everything was tuned on
one seed with --tune, which takes 5,000 training images in place of the test images. Each result is a line of
runs.jsonl, written as it comes; what stands there is not run again.

The ways to learn, all with the same encoder:

    scratch             all weights, from random ones, on the labelled images
    frozen random       the classifier alone, on the features of a random encoder
    frozen pretrained   the same with the encoder of a convolutional autoencoder that saw all 60,000 images
    fine-tuned          all weights, from the pretrained encoder
    spread              frozen pretrained, with the surest 80 % of the labels that label spreading gave to 10,000 images
    cluster             the same with the labels of cluster-then-label
    fixmatch            all weights, from the pretrained encoder, with FixMatch on all 60,000 images
    fixmatch, scratch   the same from random weights
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import minidl
from minidl import models, optim
from minidl.data import ArrayDataset, FashionMNIST, Subset, few_per_class
from minidl.nn import Module
from minidl.nn import functional as F
from minidl.semi import FixMatchLoader, cluster_labels, fixmatch_loss, spread_labels
from minidl.semi.spread import standardised
from minidl.training import plots

LABELS = (10, 50, 100)
WAYS = (
    *("scratch", "frozen random", "frozen pretrained", "fine-tuned", "spread", "cluster", "fixmatch"),
    "fixmatch, scratch",
)
AUTOENCODER = {"channels": [32, 64], "mask": 0.9}
PRETRAINING = {"epochs": 5, "batch": 128, "lr": 2e-3}
TRAINING = {"steps": 600, "batch": 32, "lr": 1e-3}
HEAD = {"steps": 600, "batch": 32, "lr": 0.05, "decay": 1e-4}
FIXMATCH = {"steps": 600, "batch": 32, "ratio": 2, "threshold": 0.9, "lr": 1e-3, "augment": "light"}
UNLABELLED_GRAPH = 10_000
HELD_OUT = 5_000


@dataclass
class Images:
    """Pixels in 0..1, float32 (N, 28, 28, 1), and labels, for training and for testing."""

    train: np.ndarray
    train_labels: np.ndarray
    test: np.ndarray
    test_labels: np.ndarray

    @classmethod
    def read(cls, folder: str, tune: bool) -> Images:
        """Fashion-MNIST; for tuning the last training images stand for the test images."""
        parts = [FashionMNIST(folder, train) for train in (True, False)]
        pixels = [part.images.astype(np.float32) / 255 for part in parts]
        labels = [part.targets for part in parts]
        if tune:
            cut = len(labels[0]) - HELD_OUT
            return cls(pixels[0][:cut], labels[0][:cut], pixels[0][cut:], labels[0][cut:])
        return cls(pixels[0], labels[0], pixels[1], labels[1])


def tensor(images: np.ndarray) -> minidl.Tensor:
    """(N, H, W, C) in memory as (N, C, H, W)."""
    return minidl.Tensor(np.ascontiguousarray(images).transpose(0, 3, 1, 2))


def batched(function: Callable[[minidl.Tensor], minidl.Tensor], images: np.ndarray) -> np.ndarray:
    """The rows that a function gives for images, a few at a time, without gradients."""
    with minidl.no_grad():
        parts = [function(tensor(images[i : i + 500])).flatten(1).data for i in range(0, len(images), 500)]
    return np.concatenate(parts)


def minimise(
    loss: Callable[[int], minidl.Tensor], optimizer: optim.Optimizer, steps: int, warmup: float = 0.05
) -> None:
    """Takes `steps` steps, with a short warm-up and a cosine decay of the learning rate."""
    schedule = optim.WarmupCosine(optimizer, int(warmup * steps), steps)
    for step in range(steps):
        optimizer.zero_grad()
        loss(step).backward()
        optimizer.step()
        schedule.step()


def rows(count: int, batch: int, seed: int) -> Iterator[np.ndarray]:
    """Indices of batches, one permutation after the other."""
    rng = np.random.default_rng([seed, count])
    size = min(batch, count)
    while True:
        order = rng.permutation(count)
        for start in range(0, count - size + 1, size):
            yield order[start : start + size]


def pretrain(data: Images, seed: int) -> models.Autoencoder:
    """The autoencoder of all training images."""
    minidl.manual_seed(seed)
    network = models.create_autoencoder("conv_autoencoder", input_size=(1, 28, 28), **AUTOENCODER)
    batch = int(PRETRAINING["batch"])
    batches = rows(len(data.train), batch, seed)
    minimise(
        lambda step: network.losses(tensor(data.train[next(batches)]))["loss"],
        optim.Adam(network.parameters(), PRETRAINING["lr"]),
        int(PRETRAINING["epochs"]) * (len(data.train) // batch),
    )
    return network


def train_head(features: np.ndarray, labels: np.ndarray, seed: int) -> Module:
    """A linear classifier of features (N, F)."""
    minidl.manual_seed(seed)
    head = minidl.nn.Linear(features.shape[1], 10)
    batches = rows(len(labels), int(HEAD["batch"]), seed)
    optimizer = optim.SGD(head.parameters(), HEAD["lr"], momentum=0.9, weight_decay=HEAD["decay"])

    def loss(step: int) -> minidl.Tensor:
        chosen = next(batches)
        return F.cross_entropy(head(minidl.Tensor(features[chosen])), labels[chosen])

    minimise(loss, optimizer, int(HEAD["steps"]))
    return head


def train_all(model: Module, images: np.ndarray, labels: np.ndarray, seed: int) -> None:
    """All weights, on images as they are."""
    batches = rows(len(labels), int(TRAINING["batch"]), seed)

    def loss(step: int) -> minidl.Tensor:
        chosen = next(batches)
        return F.cross_entropy(model(tensor(images[chosen])), labels[chosen])

    minimise(loss, optim.Adam(model.parameters(), TRAINING["lr"]), int(TRAINING["steps"]))


def train_fixmatch(model: models.Model, data: Images, chosen: np.ndarray, seed: int) -> None:
    """All weights, with FixMatch on all training images."""
    pixels = np.round(data.train * 255).astype(np.uint8)
    everything = ArrayDataset(pixels, data.train_labels, [str(n) for n in range(10)])
    options: Any = FIXMATCH
    loader = FixMatchLoader(
        Subset(everything, chosen),
        everything,
        model.pretrained_cfg.to_dict(),
        options["batch"],
        options["ratio"],
        augment=options["augment"],
        seed=seed,
        workers=1,
    )

    def batches() -> Iterator[tuple[minidl.Tensor, np.ndarray]]:
        epoch = 0
        while True:
            loader.set_epoch(epoch)
            yield from loader.iterate()
            epoch += 1

    source = batches()

    def loss(step: int) -> minidl.Tensor:
        images, labels = next(source)
        return fixmatch_loss(model(images), labels, options["threshold"])

    minimise(loss, optim.Adam(model.parameters(), options["lr"]), options["steps"])
    source.close()


class Seed:
    """Everything of one seed: the two encoders and their features are made once, when first asked for."""

    def __init__(self, data: Images, seed: int, folder: Path) -> None:
        self.data, self.seed, self.folder = data, seed, folder
        self._networks: dict[bool, models.Autoencoder] = {}
        self._features: dict[bool, tuple[np.ndarray, np.ndarray]] = {}
        self._plane: np.ndarray | None = None

    def network(self, pretrained: bool) -> models.Autoencoder:
        """The autoencoder, pretrained (kept in a file) or with random weights."""
        if pretrained not in self._networks:
            minidl.manual_seed(self.seed)
            file = self.folder / f"encoder-{self.seed}.safetensors"
            if pretrained and not file.exists():
                minidl.weights.save(pretrain(self.data, self.seed).state_dict(), file)
            network = models.create_autoencoder(
                "conv_autoencoder", (1, 28, 28), file if pretrained else None, **AUTOENCODER
            )
            self._networks[pretrained] = network.eval()
        return self._networks[pretrained]

    def features(self, pretrained: bool) -> tuple[np.ndarray, np.ndarray]:
        """Codes of the first training images (those of the graph), and of the test images."""
        if pretrained not in self._features:
            encode = self.network(pretrained).encode
            known = self.data.train[:UNLABELLED_GRAPH]
            self._features = {pretrained: (batched(encode, known), batched(encode, self.data.test))}
        return self._features[pretrained]

    def run(self, way: str, count: int) -> float:
        """The share of the test images that is classified right."""
        data, seed = self.data, self.seed
        chosen, _ = few_per_class(data.train_labels, count, seed)
        images, labels = data.train[chosen], data.train_labels[chosen]
        if way in ("scratch", "fine-tuned") or way.startswith("fixmatch"):
            network = self.network(way in ("fine-tuned", "fixmatch"))
            minidl.manual_seed(seed)
            model = network.classifier(10).train()
            if way.startswith("fixmatch"):
                train_fixmatch(model, data, chosen, seed)
            else:
                train_all(model, images, labels, seed)
            logits = batched(model.eval(), data.test)
        else:
            pretrained = way != "frozen random"
            others, test = self.features(pretrained)
            codes = batched(self.network(pretrained).encode, images)
            if way in ("spread", "cluster"):
                codes, labels = self._labelled(way, codes, others, labels)
            head = train_head(codes, labels, seed)
            logits = head(minidl.Tensor(test)).data
        return float((logits.argmax(axis=1) == data.test_labels).mean())

    def _labelled(
        self, way: str, codes: np.ndarray, others: np.ndarray, labels: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """The labelled images, and those of the others whose given label is among the surest of its class."""
        features = standardised(np.concatenate([codes, others]))
        known = np.concatenate([labels, np.full(len(others), -1)])
        found, sure = (
            spread_labels(features, known) if way == "spread" else cluster_labels(features, known, seed=0)
        )
        found, sure = found[len(labels) :], sure[len(labels) :]
        keep = np.zeros(len(found), bool)
        for label in range(10):
            mine = np.flatnonzero((found == label) & (sure > 0))
            keep[mine[np.argsort(-sure[mine], kind="stable")][: round(0.8 * len(mine))]] = True
        return np.concatenate([codes, others[keep]]), np.concatenate([labels, found[keep]])


def report(folder: Path, runs: list[dict[str, Any]]) -> str:
    """The table, in Markdown, and the plot."""
    lines = ["| test accuracy, % | " + " | ".join(f"{n} labels per class" for n in LABELS) + " |"]
    lines.append("| --- " * (len(LABELS) + 1) + "|")
    means: dict[str, list[tuple[int, float, float]]] = {}
    for way in WAYS:
        cells = []
        for count in LABELS:
            values = [100 * r["accuracy"] for r in runs if r["way"] == way and r["labels"] == count]
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            cells.append(f"{statistics.mean(values):.1f} ± {spread:.1f} ({len(values)})" if values else "")
            if values:
                means.setdefault(way, []).append((count, statistics.mean(values), spread))
        lines.append(f"| {way} | " + " | ".join(cells) + " |")
    seconds = sum(r["cpu_seconds"] for r in runs)
    lines += [
        "",
        "Mean ± standard deviation (number of seeds). " + f"{seconds / 60:.0f} minutes of processor time.",
    ]
    _plot(means, folder / "few-labels.png")
    return "\n".join(lines)


def _plot(means: dict[str, list[tuple[int, float, float]]], path: Path) -> None:
    figure = plots.new_figure(8, 5)
    axes = figure.subplots()
    for number, (way, points) in enumerate(means.items()):
        counts, middle, spread = zip(*points, strict=True)
        shifted = [c * (1 + 0.015 * (number - len(means) / 2)) for c in counts]
        axes.errorbar(shifted, middle, spread, marker="o", markersize=4, capsize=3, label=way)
    axes.set_xscale("log")
    axes.set_xticks(LABELS, [str(n) for n in LABELS])
    axes.minorticks_off()
    axes.set_xlabel("labels per class")
    axes.set_ylabel("test accuracy, %")
    axes.set_title("Fashion-MNIST, the same small encoder, mean and standard deviation over the seeds")
    axes.grid(alpha=0.3)
    axes.legend()
    plots.save_figure(figure, path)


def main() -> None:
    """Runs what is missing, then writes the table and the plot."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", nargs="?", help="the folder of the idx files")
    parser.add_argument("--out", type=Path, required=True, help="folder for runs.jsonl, table and plot")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    parser.add_argument("--tune", action="store_true", help="test on held-out training images")
    parser.add_argument("--report", action="store_true", help="run nothing")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    file = args.out / "runs.jsonl"
    runs = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    done = {(r["way"], r["labels"], r["seed"]) for r in runs}
    wanted = [(seed, way, n) for seed in args.seeds for way in args.ways for n in LABELS]
    missing = [] if args.report else [w for w in wanted if (w[1], w[2], w[0]) not in done]
    data = Images.read(args.data, args.tune) if missing else None
    current: Seed | None = None
    for seed, way, count in missing:
        assert data is not None
        if current is None or current.seed != seed:
            current = Seed(data, seed, args.out)
        began = time.process_time()
        accuracy = current.run(way, count)
        spent = time.process_time() - began
        runs.append(
            {"way": way, "labels": count, "seed": seed, "accuracy": accuracy, "cpu_seconds": round(spent, 1)}
        )
        with file.open("a") as lines:
            lines.write(json.dumps(runs[-1]) + "\n")
        print(
            f"seed {seed}  {way}, {count} labels per class: {100 * accuracy:.2f} %  ({spent:.0f} s)",
            flush=True,
        )
    text = report(args.out, runs)
    (args.out / "results.md").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
