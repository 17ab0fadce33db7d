"""Whole networks: training steps and inference beside PyTorch, ONNX Runtime and OpenVINO.

All sides get the same weights and the same input, and must give the same logits, or the same loss and gradients,
before anything is timed. Contestants in bfloat16 are measured against each other only.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from typing import Any

import numpy as np

import minidl
from benchmarks import others
from benchmarks.cases import AUTOENCODER, AUTOENCODER_OPTIONS, NETWORKS, QUICK, Contestant, Network, data_of
from benchmarks.report import EAGER
from benchmarks.timing import interleave
from minidl import models, optim
from minidl.kernels.cpu.simd import target
from minidl.nn import functional as F

LOGITS_TOLERANCE = {"float32": 1e-4, "bf16": 5e-2}  # of the largest logit
LOSS_TOLERANCE = 1e-4  # relative
# Of the norm of all gradients. An activation that rounding moves across a ReLU's zero switches its paths: PyTorch's own
# float32 gradients of the ResNet-50 step are 0.02 (NCHW) and 0.05 (NHWC) from its float64 ones. Exact comparisons are
# the tests' work; this one stops the timing of different work.
GRADIENT_TOLERANCE = 0.1
SECOND_LOSS_TOLERANCE = 2e-2  # relative, after a step along such gradients


def build(case: Network) -> Any:
    """The network with its random weights, the same at every call."""
    minidl.manual_seed(0)
    if case.model == AUTOENCODER:
        return models.create_autoencoder(AUTOENCODER, (3, case.size, case.size), **AUTOENCODER_OPTIONS)
    return models.create(case.model)


def inference(network: Any, images: minidl.Tensor) -> Contestant:
    """minidl's logits of a fused network, or of one that is captured too."""

    def infer() -> np.ndarray:
        with minidl.no_grad():
            return np.asarray(network(images).numpy())

    return Contestant(infer)


def captured(fused: Any, images: minidl.Tensor) -> Contestant:
    """minidl's logits by replays of a captured forward pass, as other sides compile theirs; the first call that is
    compared is one.
    """
    step = minidl.compile_step(fused, warmup=1)
    contestant = inference(step, images)
    contestant.run(), contestant.run()
    if not step.captures:
        raise SystemExit(f"{type(fused).__name__}: its forward pass was not captured")
    return contestant


def infers(case: Network, model: Any) -> dict[str, Contestant]:
    """minidl's inference, captured and called layer by layer."""
    images = minidl.Tensor(data_of(case)[0])
    fused = minidl.fuse(model.eval())
    return {"minidl": captured(fused, images), EAGER: inference(fused, images)}


def half(case: Network, model: Any) -> dict[str, Contestant]:
    """minidl's inference in bfloat16, where the processor multiplies that."""
    if case.training or not target().dot_bfloat16 or importlib.util.find_spec("ml_dtypes") is None:
        return {}
    fused = minidl.fuse(model.eval(), dtype="bfloat16")
    return {"minidl bf16": captured(fused, minidl.Tensor(data_of(case)[0]))}


def trains(case: Network, model: Any) -> Contestant:
    """minidl's training: an SGD step with momentum (the autoencoder: Adam)."""
    x, labels = data_of(case)
    images = minidl.Tensor(x)
    reconstructs = case.model == AUTOENCODER
    optimizer: Any = (
        optim.Adam(model.parameters(), lr=1e-3)
        if reconstructs
        else optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    )

    def step() -> float:
        optimizer.zero_grad()
        loss = model.losses(images)["loss"] if reconstructs else F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        return float(loss.item())

    def gradients() -> dict[str, np.ndarray]:
        return {name: p.grad.numpy() for name, p in model.named_parameters() if p.grad is not None}

    return Contestant(step, gradients)


def drop_broken(contestants: dict[str, Contestant], missing: dict[str, str]) -> dict[str, np.ndarray]:
    """Everyone's first result; who cannot work (a compiler's fault, say) leaves, with a reason in ``missing``."""
    results = {}
    for name in list(contestants):
        try:
            results[name] = np.asarray(contestants[name].run())
        except Exception as error:
            if name == "minidl":
                raise
            del contestants[name]
            missing[name] = (str(error).strip().splitlines() or [repr(error)])[0][:200]
    return results


def check(case: Network, contestants: dict[str, Contestant], missing: dict[str, str]) -> float:
    """Compare everyone's logits with minidl's, or loss and gradients of a step and the loss after it.

    Returns:
        the largest difference of logits or losses, relative.

    Raises:
        SystemExit: a difference is too large.
    """
    results = drop_broken(contestants, missing)
    worst = 0.0
    for name in contestants.keys() - {"minidl"}:
        tolerance = LOGITS_TOLERANCE["bf16" if "bf16" in name else "float32"]
        difference = _relative(results[name], results["minidl"])
        if case.training:
            tolerance = LOSS_TOLERANCE
            _check_gradients(case, name, contestants["minidl"], contestants[name])
        if not difference <= tolerance:
            raise SystemExit(f"{case.name}: the result of {name} differs by {difference:.1e}; not timed")
        if "bf16" not in name:
            worst = max(worst, difference)
    if case.training:
        after = {name: np.asarray(c.run()) for name, c in contestants.items()}
        for name in contestants.keys() - {"minidl"}:
            difference = _relative(after[name], after["minidl"])
            if not difference <= SECOND_LOSS_TOLERANCE:
                raise SystemExit(
                    f"{case.name}: the second loss of {name} differs by {difference:.1e}; not timed"
                )
            worst = max(worst, difference)
    return worst


def _relative(got: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(got - expected).max() / np.abs(expected).max())


def _check_gradients(case: Network, name: str, mine: Contestant, other: Contestant) -> None:
    assert mine.gradients and other.gradients
    a, b = mine.gradients(), other.gradients()
    if a.keys() != b.keys():
        raise SystemExit(f"{case.name}: {name} has other gradients: {sorted(a.keys() ^ b.keys())[:3]}")
    off = sum(float(np.square(a[k] - b[k], dtype=np.float64).sum()) for k in a)
    difference = (off / sum(float(np.square(g, dtype=np.float64).sum()) for g in a.values())) ** 0.5
    if not difference <= GRADIENT_TOLERANCE:
        raise SystemExit(f"{case.name}: the gradients of {name} differ by {difference:.1e}; not timed")


def run(case: Network, turns: int, compiled: bool, threads: int) -> dict[str, Any]:
    """Check and time one case: its row. ``missing`` in it says who could not take part, and why."""
    model = build(case)
    state = {k: np.array(v) for k, v in model.state_dict().items()}
    ours = {"minidl": trains(case, model)} if case.training else infers(case, model)
    contestants = {**ours, **half(case, model)}
    missing = others.enter(contestants, case, state, compiled, threads)
    difference = check(case, contestants, missing)
    timing = interleave({name: c.run for name, c in contestants.items()}, turns)
    return {
        "network": case.name,
        "model": case.model,
        "batch": case.batch,
        "size": case.size,
        "training": case.training,
        "difference": difference,
        "missing": missing,
        "seconds": timing.seconds,
    }


def rows(quick: bool, select: str, turns: int, threads: int, compiled: bool) -> Iterator[dict[str, Any]]:
    """The rows of all cases whose names hold the regular expression ``select``."""
    for case in QUICK if quick else NETWORKS:
        if re.search(select, case.name):
            yield run(case, turns, compiled, threads)
