"""Whole networks on a graphics card beside PyTorch: training steps and inference in three precisions, call by call, as
captured graphs, and compiled by ``torch.compile``.

All sides have the same weights and the same batch; their first losses or logits are compared before anything is timed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import minidl
from benchmarks import others
from benchmarks.cases import Network
from benchmarks.gpu_kernels import scope, set_torch
from benchmarks.gpu_limits import PRECISIONS
from benchmarks.timing import interleave
from minidl import models, optim
from minidl.nn import functional as F

TOLERANCE = {"float32": 1e-4, "tf32": 2e-2, "bf16": 8e-2}
"""Of the largest logit, or of the loss."""


@dataclass(frozen=True)
class Case(Network):
    """A network with its options."""

    options: dict[str, Any] = field(default_factory=dict)


def cases(quick: bool) -> list[Case]:
    """ResNet-18 and ResNet-50, training and inference."""
    batch = 32 if quick else 128
    return [
        Case(model, batch, 224, training) for model in ("resnet18", "resnet50") for training in (True, False)
    ]


def data_of(case: Case, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, 3, S, S), channels-last in memory, and labels."""
    rng = np.random.default_rng(0)
    images = rng.standard_normal((case.batch, case.size, case.size, 3), np.float32).transpose(0, 3, 1, 2)
    return images, rng.integers(0, classes, case.batch)


def network(case: Case) -> Any:
    """The network with its random weights, the same at every call."""
    minidl.manual_seed(0)
    return models.create(case.model, **case.options)


def half(precision: str) -> Any:
    """minidl's scope of a precision, for the forward pass."""
    return minidl.autocast("bf16") if precision == "bf16" else nullcontext()


def step_of(case: Case, device: str, precision: str) -> Callable[..., minidl.Tensor]:
    """minidl's training step or inference, which starts kernels and returns."""
    model = network(case).to(device)
    if not case.training:
        fused = minidl.fuse(model.eval(), dtype="bfloat16" if precision == "bf16" else None)

        def infer(images: minidl.Tensor, labels: minidl.Tensor) -> minidl.Tensor:
            with minidl.no_grad(), scope(precision):
                return fused(images)

        return infer
    optimizer = optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)

    def step(images: minidl.Tensor, labels: minidl.Tensor) -> minidl.Tensor:
        optimizer.zero_grad()
        with scope(precision):
            with half(precision):
                loss = F.cross_entropy(model(images), labels)
            loss.backward()
        optimizer.step()
        return loss

    return step


def ours(case: Case, device: str, precision: str, data: Any) -> dict[str, Callable[[], np.ndarray]]:
    """minidl's contestants: each call returns the loss or the logits in main memory."""
    images, labels = (minidl.Tensor(a).to(device) for a in data)

    def contestant(step: Callable[..., minidl.Tensor]) -> Callable[[], np.ndarray]:
        return lambda: step(images, labels).detach().cpu().numpy().astype(np.float32)

    return {
        "minidl": contestant(step_of(case, device, precision)),
        "minidl graph": contestant(minidl.compile_step(step_of(case, device, precision), device=device)),
    }


def torch_step(torch: Any, case: Case, device: str, precision: str, compiled: bool) -> Callable[..., Any]:
    """PyTorch's."""
    model = others.torch_network(case, {k: np.array(v) for k, v in network(case).state_dict().items()})
    model = model.to(device, memory_format=torch.channels_last).train(case.training)
    call: Any = torch.compile(model) if compiled else model

    def cast() -> Any:
        bf16 = precision == "bf16"
        return torch.autocast(device, torch.bfloat16, cache_enabled=False) if bf16 else nullcontext()

    def infer(images: Any, labels: Any) -> Any:
        with torch.inference_mode(), cast():
            return call(images)

    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)

    def step(images: Any, labels: Any) -> Any:
        optimizer.zero_grad(set_to_none=True)
        with cast():
            loss = torch.nn.functional.cross_entropy(call(images), labels)
        loss.backward()
        optimizer.step()
        return loss

    return step if case.training else infer


def captured(torch: Any, step: Callable[..., Any], images: Any, labels: Any) -> Callable[..., Any]:
    """PyTorch's step as a CUDA graph, whose first calls are steps too: the capture is the third."""
    calls, graph, result = [0], torch.cuda.CUDAGraph(), []
    side = torch.cuda.Stream()

    def run(*_: Any) -> Any:
        calls[0] += 1
        if calls[0] <= 2:
            with torch.cuda.stream(side):
                loss = step(images, labels)
            torch.cuda.synchronize()
            return loss
        if calls[0] == 3:
            with torch.cuda.graph(graph):
                result.append(step(images, labels))
        graph.replay()
        return result[0]

    return run


def theirs(
    torch: Any, case: Case, device: str, precision: str, data: Any, compiled: bool
) -> dict[str, Callable[[], np.ndarray]]:
    """PyTorch's contestants."""
    set_torch(torch, precision)
    images = torch.from_numpy(np.ascontiguousarray(data[0])).to(device, memory_format=torch.channels_last)
    labels = torch.from_numpy(data[1]).to(device)

    def contestant(step: Callable[..., Any]) -> Callable[[], np.ndarray]:
        return lambda: step(images, labels).detach().float().cpu().numpy()

    found = {"torch": contestant(torch_step(torch, case, device, precision, False))}
    if device == "cuda":
        step = torch_step(torch, case, device, precision, False)
        found["torch graph"] = contestant(captured(torch, step, images, labels))
    if compiled:
        found["torch.compile"] = contestant(torch_step(torch, case, device, precision, True))
    return found


def check(
    case: Case, precision: str, runs: dict[str, Callable[[], np.ndarray]], missing: dict[str, str]
) -> float:
    """Call everyone once and compare; who cannot work leaves, with a reason in ``missing``.

    Raises:
        SystemExit: a result differs too much.
    """
    results = {}
    for name in list(runs):
        try:
            results[name] = runs[name]()
        except Exception as error:
            if name.startswith("minidl"):
                raise
            del runs[name]
            missing[name] = (str(error).strip().splitlines() or [repr(error)])[0][:200]
    expected = results["minidl"]
    worst = max(float(np.abs(r - expected).max() / np.abs(expected).max()) for r in results.values())
    if not worst <= TOLERANCE[precision]:
        raise SystemExit(f"{case.name}, {precision}: results differ by {worst:.1e}; not timed")
    return worst


def rows(
    device: str, torch: Any, chosen: list[Case], turns: int, compiled: bool, classes: int = 1000
) -> Iterator[dict[str, Any]]:
    """Compare and time these networks in all precisions: a row for each."""
    for case in chosen:
        data = data_of(case, classes)
        for precision in PRECISIONS:
            runs = ours(case, device, precision, data)
            missing = {} if torch is not None else {"PyTorch": "torch is not installed, or sees no card"}
            if torch is not None:
                runs |= theirs(torch, case, "cuda", precision, data, compiled)
            difference = check(case, precision, runs, missing)
            timing = interleave(runs, turns, warmup=3)
            yield {
                "network": case.name,
                "precision": precision,
                "batch": case.batch,
                "training": case.training,
                "difference": difference,
                "missing": missing,
                "seconds": timing.seconds,
            }
