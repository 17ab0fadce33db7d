"""minidl beside PyTorch, ONNX Runtime and OpenVINO on this machine.

    python -m benchmarks --quick                       under three minutes once everything is compiled
    python -m benchmarks --out benchmarks/results/ME   everything; tables, JSON and pictures go there
    python -m benchmarks --only networks --select 'resnet18.*inference'
    python -m benchmarks --isa avx2 --only networks    both sides limited to AVX2
    python -m benchmarks --device cuda                 on a graphics card; see benchmarks/gpu.py

Others take part when they are installed: pip install torch onnx onnxruntime openvino. Results are compared before
anything is timed; then the contestants take turns in one process, on equally many threads. Run it on an idle
machine: results of a busy one mean little, which the quartiles show.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import machine, report
from minidl import kernels

ISA = {
    "avx2": {
        "NUMBA_CPU_NAME": "haswell",
        "NUMBA_CPU_FEATURES": "+avx2,+fma",  # else Numba adds the host's to the name, AVX-512 with them
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "ATEN_CPU_CAPABILITY": "avx2",
        # torch.compile's cache does not tell instruction sets apart, and fails on code of the other.
        "TORCHINDUCTOR_CACHE_DIR": str(Path(tempfile.gettempdir()) / "inductor-avx2"),
    },
}
VECTORS = {"avx2": "256 bits"}
AVX2_CASES = "resnet50, batch 16 at 224x224, training"
AVX2_QUICK = "resnet18, batch 8 at 128x128, training"


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="fewer and smaller cases, fewer turns")
    parser.add_argument("--only", nargs="+", choices=[*report.PARTS], help="these parts (default: all)")
    parser.add_argument("--select", default="", metavar="REGEX", help="only the rows whose names hold this")
    parser.add_argument("--no-compile", action="store_true", help="without torch.compile")
    parser.add_argument("--threads", type=int, default=kernels.get_num_threads(), help="of every side")
    parser.add_argument("--turns", type=int, help="counted turns (default 9, quick 5)")
    parser.add_argument("--isa", choices=[*ISA], help="limit both sides to this instruction set")
    parser.add_argument(
        "--device", default="cpu", help="cpu, cuda, cuda:1; emulated: tiny shapes, times mean nothing"
    )
    parser.add_argument("--out", type=Path, help="folder for results.json, results.md and pictures")
    args = parser.parse_args()
    try:
        re.compile(args.select)
    except re.error as error:
        parser.error(f"--select: no regular expression: {error}")
    return args


def rows_of(part: str, args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Measure a part, row by row."""
    turns, compiled = args.turns, not args.no_compile
    if part == "convolution":
        from benchmarks import convolution

        yield from convolution.rows(args.quick, args.select, turns, args.threads)
    elif part == "networks":
        from benchmarks import networks

        yield from networks.rows(args.quick, args.select, turns, args.threads, compiled)
    elif part == "avx2":
        yield from _limited("avx2", AVX2_QUICK if args.quick else AVX2_CASES, args)
    elif part == "memory":
        from benchmarks import memory

        yield from memory.rows(args.quick, args.select, args.threads)
    elif part == "startup":
        from benchmarks import startup

        yield from startup.rows(args.quick)
    else:
        from benchmarks import overhead

        yield from overhead.measure(10 if args.quick else 40)


def _limited(isa: str, select: str, args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Network rows of a process that is limited to an instruction set."""
    with tempfile.TemporaryDirectory() as folder:
        options = [
            "--select",
            select,
            "--threads",
            str(args.threads),
            "--turns",
            str(args.turns),
            "--out",
            folder,
        ]
        options += ["--quick"] * args.quick + ["--no-compile"] * args.no_compile
        command = [sys.executable, "-m", "benchmarks", "--only", "networks", *options]
        done = subprocess.run(command, env={**os.environ, **ISA[isa]}, stdout=subprocess.DEVNULL, check=False)
        if done.returncode:
            raise SystemExit(f"the process limited to {isa} failed")
        data = json.loads((Path(folder) / "results.json").read_text(encoding="utf8"))
    if data["machine"]["vectors"] != VECTORS[isa]:
        raise SystemExit(f"the process limited to {isa} used vectors of {data['machine']['vectors']}")
    yield from data["networks"]


def main() -> None:
    """Run the parts asked for; print and write their tables."""
    args = parse()
    if args.device != "cpu":
        from benchmarks import gpu

        gpu.run(args)
        return
    if args.isa and any(os.environ.get(k) != v for k, v in ISA[args.isa].items()):
        # Numba and oneDNN read these when they are loaded: start again.
        command = [sys.executable, "-m", "benchmarks", *sys.argv[1:]]
        raise SystemExit(subprocess.run(command, env={**os.environ, **ISA[args.isa]}, check=False).returncode)
    kernels.set_num_threads(args.threads)
    args.turns = args.turns or (5 if args.quick else 9)
    data: dict[str, Any] = {
        "machine": machine.describe(args.threads),
        "time": time.strftime("%Y-%m-%d %H:%M"),
        "turns": args.turns,
        "load": machine.load(),
        "multiply_adds": machine.multiply_add_limit(args.threads),
        "bandwidth": machine.bandwidth(args.threads),
    }
    print(machine.line(data["machine"]), report.limits(data) + report.busy(data), sep="\n", flush=True)
    for part in args.only or [p for p in report.PARTS if not (p == "avx2" and (args.quick or args.isa))]:
        print("", *report.head(part), sep="\n", flush=True)
        data[part] = []
        for row in rows_of(part, args):
            data[part].append(row)
            print(report.line(part, row, data), flush=True)
        if part == "convolution":
            print("", *report.summary(data), sep="\n", flush=True)
    if args.out:
        write(data, args.out)


def write(data: dict[str, Any], folder: Path) -> None:
    """results.json, results.md and the pictures."""
    from benchmarks import plots

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(data, indent=1) + "\n", encoding="utf8")
    (folder / "results.md").write_text(report.markdown(data), encoding="utf8")
    try:
        plots.write(data, folder)
    except ImportError as error:
        print(f"benchmarks: {error}", file=sys.stderr)


if __name__ == "__main__":
    main()
