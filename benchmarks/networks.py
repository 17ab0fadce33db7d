"""Whole networks: inference and training steps of ResNets beside PyTorch (eager, NCHW and channels-last, and
torch.compile).

The PyTorch networks are built by tests/fixtures/make_model_fixtures.py, get the same weights and the same
input, and must give the same
logits before anything is timed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

import minidl
from benchmarks.timing import Timing, interleave
from minidl import models, optim
from minidl.nn import functional as F


@dataclass(frozen=True)
class Network:
    """A network, its input and the part of it that is timed."""

    model: str
    batch: int
    size: int
    training: bool

    @property
    def name(self) -> str:
        """A row title."""
        what = "training step" if self.training else "inference"
        return f"{self.model}, batch {self.batch} at {self.size}x{self.size}, {what}"


NETWORKS = [
    Network("resnet18", 16, 224, True),
    Network("resnet50", 16, 224, True),
    Network("resnet20", 128, 32, True),
    Network("resnet18", 16, 224, False),
    Network("resnet50", 16, 224, False),
    Network("resnet18", 1, 224, False),
    Network("resnet50", 1, 224, False),
    Network("resnet20", 128, 32, False),
]
QUICK = [
    Network("resnet18", 8, 128, True),
    Network("resnet20", 128, 32, True),
    Network("resnet18", 8, 128, False),
]


def _minidl(case: Network, x: np.ndarray, labels: np.ndarray) -> tuple[dict[str, Callable[[], Any]], Any]:
    minidl.manual_seed(0)
    model = models.create(case.model)
    images = minidl.Tensor(x)
    if not case.training:
        model.eval()

        def infer() -> np.ndarray:
            with minidl.no_grad():
                return model(images).numpy()

        return {"minidl": infer}, model
    optimizer = optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)

    def step() -> float:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        return float(loss.item())

    return {"minidl": step}, model


def _torch(
    case: Network, x: np.ndarray, labels: np.ndarray, state: dict[str, np.ndarray], compiled: bool
) -> dict[str, Callable[[], Any]]:
    import torch

    from tests.fixtures.make_model_fixtures import TorchResNet
    from tests.models.parity_cases import Case

    runs: dict[str, Callable[[], Any]] = {}
    formats: dict[str, Any] = {"torch NCHW": torch.contiguous_format, "torch NHWC": torch.channels_last}
    if compiled:
        formats["torch.compile NHWC"] = torch.channels_last
    for name, memory_format in formats.items():
        model = TorchResNet(Case("", case.model, classes=10 if case.model == "resnet20" else 1000))
        model.load_state_dict({k: torch.from_numpy(v.copy()) for k, v in state.items()})
        model.to(memory_format=memory_format)
        call: Any = torch.compile(model) if "compile" in name else model
        images = torch.from_numpy(np.ascontiguousarray(x)).contiguous(memory_format=memory_format)
        targets = torch.from_numpy(labels)
        if case.training:
            optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)

            def step(
                call: Any = call, images: Any = images, targets: Any = targets, optimizer: Any = optimizer
            ) -> float:
                optimizer.zero_grad()
                loss = torch.nn.functional.cross_entropy(call(images), targets)
                loss.backward()
                optimizer.step()
                return float(loss.item())

            runs[name] = step
        else:
            model.eval()

            def infer(call: Any = call, images: Any = images) -> np.ndarray:
                with torch.inference_mode():
                    return call(images).numpy()

            runs[name] = infer
    return runs


def run(case: Network, turns: int, compiled: bool, threads: int) -> tuple[Timing, float]:
    """Time one case; returns the timing and the relative difference of the results (checked to be small
    first)."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((case.batch, case.size, case.size, 3), np.float32).transpose(0, 3, 1, 2)
    labels = rng.integers(0, 10, case.batch)
    ours, model = _minidl(case, x, labels)
    contestants = dict(ours)
    try:
        import torch
    except ImportError:
        torch = None
    if torch is not None:
        torch.set_num_threads(threads)
        state = {k: np.array(v) for k, v in model.state_dict().items()}
        contestants |= _torch(case, x, labels, state, compiled)
    expected = np.asarray(contestants["minidl"]())
    error = 0.0
    for name, call in contestants.items():
        if name != "minidl":
            got = np.asarray(call())
            error = max(error, float(np.abs(got - expected).max() / np.abs(expected).max()))
    if error > 1e-4:
        raise SystemExit(f"{case.name}: results differ by {error:.1e}; not timed")
    return interleave(contestants, turns), error


def table(
    cases: list[Network], turns: int, compiled: bool, threads: int
) -> tuple[list[str], list[dict[str, Any]]]:
    """Markdown lines and JSON rows."""
    lines = [
        "| network | minidl ms | images/s | fastest PyTorch | ms | times as fast (quartiles) |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    rows = []
    for case in cases:
        timing, error = run(case, turns, compiled, threads)
        others = [n for n in timing.seconds if n != "minidl"]
        ours = timing.median("minidl")
        row: dict[str, Any] = {"network": case.name, "seconds": timing.seconds, "difference": error}
        text = f"| {case.name} | {ours * 1e3:.1f} | {case.batch / ours:.0f} |"
        if others:
            best = timing.fastest(others)
            middle, low, high = timing.ratio("minidl", best)
            row |= {"fastest": best, "ratio": middle, "quartiles": [low, high]}
            text += f" {best} | {timing.median(best) * 1e3:.1f} | {middle:.2f} ({low:.2f}-{high:.2f}) |"
        else:
            text += " not installed | | |"
        print(text, flush=True)
        lines.append(text)
        rows.append(row)
    return lines, rows
