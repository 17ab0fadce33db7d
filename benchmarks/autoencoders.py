"""Autoencoders beside the same networks in PyTorch: loss curves from the same start, and the time of a step.

    python -m benchmarks.autoencoders --fashion-mnist DIR --cifar10 DIR --out benchmarks/results/autoencoders
    python -m benchmarks.autoencoders --time --out benchmarks/results/autoencoders

Both sides begin with the same weights, see the same batches in the same order, and take Adam steps in float32; the
largest relative difference of the losses of 200 steps is printed and kept. --time lets both sides take turns on
equally many threads (see benchmarks.timing). PyTorch is installed by hand: pip install torch. Its networks are those
of tests/fixtures/make_autoencoder_fixtures.py.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import minidl
from benchmarks import machine
from benchmarks.timing import interleave
from minidl import kernels, models, optim
from minidl.data import CIFAR10, FashionMNIST

if TYPE_CHECKING:
    import torch

STEPS, BATCH, LR = 200, 128, 1e-3
NETWORKS: dict[str, dict[str, Any]] = {
    "conv_autoencoder": {"channels": [32, 64]},
    "variational_autoencoder": {"channels": [32, 64], "hidden": 128, "latent": 16},
}


def pytorch_loss(network: Any, x: torch.Tensor, noise: torch.Tensor | None) -> torch.Tensor:
    """The mean cross-entropy per value, and for the variational form (with noise) the divergence."""
    from torch.nn.functional import binary_cross_entropy_with_logits

    code = network.encoder(x)
    if noise is None:
        return binary_cross_entropy_with_logits(network.decoder(code), x)
    mean, log_variance = network.to_mean(code), network.to_log_variance(code)
    logits = network.decoder(mean + (0.5 * log_variance).exp() * noise)
    kl = -0.5 * (1 + log_variance - mean**2 - log_variance.exp()).sum(1).mean()
    return binary_cross_entropy_with_logits(logits, x) + kl / x[0].numel()


class Pair:
    """The same network twice, with the same weights, each with its optimizer."""

    def __init__(self, name: str, size: tuple[int, int, int], seed: int = 0) -> None:
        import torch

        from tests.fixtures.make_autoencoder_fixtures import build

        minidl.manual_seed(seed)
        self.latent = NETWORKS[name].get("latent", 0)
        self.ours = models.create_autoencoder(name, size, **NETWORKS[name])
        self.theirs: Any = build(name, size, NETWORKS[name])
        self.theirs.load_state_dict(
            {n: torch.from_numpy(a.copy()) for n, a in self.ours.state_dict().items()}
        )
        self.theirs.to(memory_format=torch.channels_last)  # its faster layout
        self._ours = optim.Adam(self.ours.parameters(), LR)
        self._theirs = torch.optim.Adam(self.theirs.parameters(), LR)

    def step(self, images: np.ndarray, seed: int) -> float:
        """One step of minidl on float32 (N, H, W, C) images; returns the loss."""
        minidl.manual_seed(seed)  # of the noise in a variational autoencoder's code
        self._ours.zero_grad()
        loss = self.ours.losses(minidl.Tensor(images.transpose(0, 3, 1, 2)))["loss"]
        loss.backward()
        self._ours.step()
        return float(loss.item())

    def step_pytorch(self, images: np.ndarray, seed: int) -> float:
        """The same step of PyTorch."""
        import torch

        noise = None
        if self.latent:
            minidl.manual_seed(seed)
            noise = torch.from_numpy(minidl.randn(len(images), self.latent).numpy())
        self._theirs.zero_grad()
        loss = pytorch_loss(self.theirs, torch.from_numpy(images).permute(0, 3, 1, 2), noise)
        loss.backward()
        self._theirs.step()
        return float(loss.item())


def batches(images: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """The steps' numbers and images float32 (N, H, W, C) in 0..1, in an order fixed by a seed."""
    rng = np.random.default_rng(0)
    order = np.concatenate([rng.permutation(len(images)) for _ in range(-(-STEPS * BATCH // len(images)))])
    for step in range(STEPS):
        rows = order[step * BATCH : (step + 1) * BATCH]
        yield step, images[rows].astype(np.float32) / 255


def compare(name: str, data: str, images: np.ndarray, held_out: np.ndarray) -> dict[str, Any]:
    """Both loss curves, and the mean squared error of both on images that were not learned."""
    import torch

    pair = Pair(name, (images.shape[3], *images.shape[1:3]))
    curves = np.array([(pair.step(x, step), pair.step_pytorch(x, step)) for step, x in batches(images)])
    x = held_out[:1000].astype(np.float32).transpose(0, 3, 1, 2) / 255
    with minidl.no_grad(), torch.no_grad():
        ours = pair.ours.eval().reconstruct(minidl.Tensor(x)).numpy()
        code = pair.theirs.encoder(torch.from_numpy(x))
        code = pair.theirs.to_mean(code) if pair.latent else code
        theirs = torch.sigmoid(pair.theirs.decoder(code)).numpy()
    difference = float(np.abs(curves[:, 0] / curves[:, 1] - 1).max())
    result = {
        "network": name,
        "data": data,
        "steps": STEPS,
        "largest_relative_difference": difference,
        "first_loss": curves[0].tolist(),
        "last_loss": curves[-1].tolist(),
        "squared_error": [float(((y - x) ** 2).mean()) for y in (ours, theirs)],
        "curves": curves.round(6).tolist(),
    }
    print(
        f"{name}, {data}: loss {curves[0, 0]:.4f} -> {curves[-1, 0]:.5f} (PyTorch {curves[-1, 1]:.5f}), largest "
        f"relative difference in {STEPS} steps {difference:.1e}; squared error on held-out images "
        f"{result['squared_error'][0]:.6f} (PyTorch {result['squared_error'][1]:.6f})"
    )
    return result


def time_steps(turns: int) -> list[dict[str, Any]]:
    """The time of a training step of each network, in turns."""
    import torch

    torch.set_num_threads(kernels.get_num_threads())
    results = []
    for name in NETWORKS:
        for size in ((1, 28, 28), (3, 32, 32)):
            pair = Pair(name, size)
            images = np.random.default_rng(0).random((BATCH, *size[1:], size[0]), np.float32)
            sides: dict[str, Callable[[], object]] = {
                "minidl": lambda p=pair, x=images: p.step(x, 0),  # type: ignore[misc]
                "pytorch": lambda p=pair, x=images: p.step_pytorch(x, 0),  # type: ignore[misc]
            }
            timing = interleave(sides, turns, warmup=3, min_seconds=0.05)
            ratio, low, high = timing.ratio("minidl", "pytorch")
            milliseconds = {side: round(1e3 * timing.median(side), 2) for side in sides}
            results.append(
                {"network": name, "input": size, "ms": milliseconds, "times_as_fast": [ratio, low, high]}
            )
            print(
                f"{name}, batch {BATCH} of {size}: minidl {milliseconds['minidl']} ms, PyTorch "
                f"{milliseconds['pytorch']} ms, {ratio:.2f} times as fast (quartiles {low:.2f} to {high:.2f})"
            )
    return results


def main() -> None:
    """Curves of the data sets that are given, or times."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--fashion-mnist", metavar="DIR")
    parser.add_argument("--cifar10", metavar="DIR")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--time", action="store_true")
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--threads", type=int, default=kernels.get_num_threads())
    parser.add_argument("--out", type=Path, help="folder of curves.json or times.json")
    args = parser.parse_args()
    if importlib.util.find_spec("torch") is None:
        parser.error("the other side needs PyTorch: pip install torch")
    import torch

    kernels.set_num_threads(args.threads)
    about = {"machine": machine.describe(args.threads), "torch": torch.__version__}
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)

    def keep(name: str, results: list[dict[str, Any]]) -> None:
        if args.out:
            (args.out / name).write_text(json.dumps({**about, "results": results}) + "\n")

    if args.time:
        keep("times.json", time_steps(args.turns))
    curves: list[dict[str, Any]] = []
    data: dict[str, Any] = {
        "fashion-mnist": (args.fashion_mnist, FashionMNIST),
        "cifar10": (args.cifar10, CIFAR10),
    }
    for name, (folder, kind) in data.items():
        if folder:
            train, test = kind(folder, True).images, kind(folder, False).images
            for network in args.networks:
                curves.append(compare(network, name, train, test))
                keep("curves.json", curves)


if __name__ == "__main__":
    main()
