"""``python -m benchmarks``: minidl beside PyTorch on this machine.

    python -m benchmarks --quick                      a few minutes
    python -m benchmarks --out benchmarks/results     everything; writes a Markdown and a JSON file there

PyTorch (``pip install torch``) is compared with when it is installed. Run on an idle machine: results of a
busy one mean little, which the
quartiles show.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from benchmarks.timing import describe_machine
from minidl import kernels

PARTS = ("convolution", "networks")


def main() -> None:
    """Run the parts asked for, print and write their tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=PARTS, help="one part")
    parser.add_argument("--quick", action="store_true", help="fewer shapes and turns")
    parser.add_argument("--compile", action="store_true", help="also torch.compile (needs a C++ compiler)")
    parser.add_argument("--threads", type=int, default=kernels.get_num_threads(), help="of both sides")
    parser.add_argument("--turns", type=int, help="counted turns (default 9, quick 5)")
    parser.add_argument("--out", type=Path, help="folder for results.md and results.json")
    args = parser.parse_args()
    kernels.set_num_threads(args.threads)
    turns = args.turns or (5 if args.quick else 9)
    machine = describe_machine(args.threads)
    print(machine, flush=True)
    text, data = [machine, ""], {"machine": machine, "time": time.strftime("%Y-%m-%d %H:%M"), "turns": turns}
    if args.only in (None, "convolution"):
        from benchmarks import convolution

        lines, rows = convolution.table(args.quick, turns, args.threads)
        text += ["## Convolution kernels", "", *lines, ""]
        data["convolution"] = rows
    if args.only in (None, "networks"):
        from benchmarks import networks

        cases = networks.QUICK if args.quick else networks.NETWORKS
        lines, rows = networks.table(cases, turns, args.compile, args.threads)
        text += ["## Networks", "", *lines, ""]
        data["networks"] = rows
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / "results.md").write_text("\n".join(text), encoding="utf8")
        (args.out / "results.json").write_text(json.dumps(data, indent=1), encoding="utf8")


if __name__ == "__main__":
    main()
