"""``python -m benchmarks --device cuda``: minidl beside PyTorch (cuDNN, channels last, benchmark mode) on a graphics
card.

    python -m benchmarks --device cuda                 everything, into benchmarks/results/CARD
    python -m benchmarks --device cuda --quick         smaller batches, fewer turns, nothing is kept
    python -m benchmarks --device cuda --only convolution --select '3x3'

PyTorch takes part when it is installed with CUDA. ``--device emulated`` runs the same code without a card, on tiny
shapes: its times mean nothing.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from pathlib import Path
from typing import Any

from benchmarks import gpu_kernels, gpu_limits, gpu_networks, gpu_report, machine
from benchmarks.cuda_roofline import Layer, resnet50
from minidl.kernels import devices

PARTS = ("convolution", "networks")
RESULTS = Path(__file__).parent / "results"
TINY = [Layer(6, 3, 8, 3, 1, 1), Layer(5, 16, 8, 1, 2, 2)]
TINY_NETWORKS = [
    gpu_networks.Case(
        "resnet20", 4, 8, training, {"layers": [1, 1, 1], "widths": [4, 8, 8], "num_classes": 10}
    )
    for training in (True, False)
]


def torch_with_card() -> Any:
    """PyTorch, if it is installed and finds a card; else None."""
    try:
        import torch
    except ImportError:
        return None
    return torch if torch.cuda.is_available() else None


def describe(place: Any, torch: Any) -> dict[str, Any]:
    """The card, the system and the versions."""
    device = place.device
    versions = machine.versions()
    if torch is not None:
        versions["cuDNN"] = str(torch.backends.cudnn.version())
    return {
        "card": device.model,
        "compute_capability": device.compute_capability,
        "multiprocessors": device.multiprocessors,
        "processor": machine.processor(),
        "versions": versions,
    }


def measure(
    name: str, *, quick: bool, only: list[str], select: str, turns: int, compiled: bool, show: Any = print
) -> dict[str, Any]:
    """All parts asked for, shown row by row.

    Args:
        name: the device; the emulated one runs tiny shapes.
        only: which of :data:`PARTS`.
        select: a regular expression; rows whose names hold it.
        show: what is called with each line of text.
    """
    place = devices.place(name)
    emulated = name == "emulated"
    torch = None if emulated else torch_with_card()
    sizes = {"count": 1024, "spins": 2} if emulated else {}
    data: dict[str, Any] = {
        "machine": describe(place, torch),
        "time": time.strftime("%Y-%m-%d %H:%M"),
        "turns": turns,
        "limits": gpu_limits.measure(place, torch, **sizes),
    }
    show(gpu_report.title(data))
    wanted = re.compile(select)
    layers = [
        layer for layer in (TINY if emulated else resnet50()) if wanted.search(gpu_kernels.name_of(layer))
    ]
    chosen = TINY_NETWORKS if emulated else gpu_networks.cases(quick)
    chosen = [case for case in chosen if wanted.search(case.name)]
    batch = 2 if emulated else 32 if quick else 256
    for part in only:
        show("\n".join(["", *gpu_report.head(part)]))
        data[part] = []
        found = (
            gpu_kernels.rows(place, torch, layers, batch, data["limits"], turns)
            if part == "convolution"
            else gpu_networks.rows(place.name, torch, chosen, turns, compiled, 10 if emulated else 1000)
        )
        for row in found:
            data[part].append(row)
            show(gpu_report.line(part, row, data))
        show("\n".join(["", *gpu_report.summary(part, data)]))
    return data


def run(args: argparse.Namespace) -> None:
    """The command."""
    unknown = sorted(set(args.only or ()) - set(PARTS))
    if unknown:
        raise SystemExit(
            f"--device {args.device}: --only expects {' or '.join(PARTS)}, got {', '.join(unknown)}"
        )
    try:
        devices.place(args.device)
    except (ValueError, ImportError, devices.DeviceError) as error:
        raise SystemExit(f"--device: {error}") from None
    data = measure(
        devices.canonical(args.device),
        quick=args.quick,
        only=args.only or list(PARTS),
        select=args.select,
        turns=args.turns or (5 if args.quick else 9),
        compiled=not args.no_compile,
        show=lambda text: print(text, flush=True),
    )
    keep = not args.quick and args.device != "emulated"
    out = args.out or (RESULTS / gpu_report.slug(data["machine"]["card"]) if keep else None)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "results.json").write_text(json.dumps(data, indent=1) + "\n", encoding="utf8")
        (out / "results.md").write_text(gpu_report.markdown(data), encoding="utf8")
        print(f"written to {out}")
