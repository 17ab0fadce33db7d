"""Peak resident memory of a training step, each side in a process of its own.

    python -m benchmarks.memory minidl resnet18 16 224 --threads 2

runs one side and prints one line of JSON. The peak counts everything from the interpreter's start: libraries,
weights, gradients, activations, buffers that are kept for the next step.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from benchmarks.cases import NETWORKS, QUICK, Network

SIDES = ("minidl", "torch NCHW", "torch NHWC")
STEPS = 4


def _status(field: str) -> int | None:
    """A field of Linux' /proc/self/status in bytes."""
    with contextlib.suppress(OSError), open("/proc/self/status", encoding="utf8") as status:  # not on Linux
        for line in status:
            if line.startswith(field + ":"):
                return int(line.split()[1]) * 1024
    return None


def peak_resident() -> int | None:
    """The most memory this process has held, in bytes; None where the system does not tell (Windows)."""
    peak = _status("VmHWM")
    if peak is not None:
        return peak
    try:
        import resource
    except ImportError:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def train(side: str, case: Network, threads: int) -> dict[str, Any]:
    """Run a few training steps in this process; what it has held at most, and what before the network was made."""
    import numpy as np

    if side == "minidl":
        from benchmarks import networks
        from minidl import kernels

        kernels.set_num_threads(threads)
        kernels.backend(np.zeros(1))
        before = peak_resident()
        step = networks.trains(case, networks.build(case)).run
    else:
        import torch

        from benchmarks import others

        torch.set_num_threads(threads)
        before = peak_resident()
        step = others.torch_contestant(case, {}, side == "torch NHWC").run
    for _ in range(STEPS):
        step()
    return {"side": side, "peak": peak_resident(), "before": before}


def rows(quick: bool, select: str, threads: int) -> Iterator[dict[str, Any]]:
    """A row for each network's training step: bytes by side."""
    import importlib.util

    if peak_resident() is None:
        return
    sides = SIDES if importlib.util.find_spec("torch") else SIDES[:1]
    for case in QUICK[:1] if quick else NETWORKS:
        if not case.training or not re.search(select, case.name):
            continue
        row: dict[str, Any] = {"network": case.name, "peak": {}, "before": {}}
        for side in sides:
            arguments = [side, case.model, str(case.batch), str(case.size), "--threads", str(threads)]
            command = [sys.executable, "-m", "benchmarks.memory", *arguments]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            found = json.loads(done.stdout.splitlines()[-1])
            row["peak"][side], row["before"][side] = found["peak"], found["before"]
        yield row


def main() -> None:
    """Measure one side; prints JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("side", choices=SIDES)
    parser.add_argument("model")
    parser.add_argument("batch", type=int)
    parser.add_argument("size", type=int)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    print(json.dumps(train(args.side, Network(args.model, args.batch, args.size, True), args.threads)))


if __name__ == "__main__":
    main()
