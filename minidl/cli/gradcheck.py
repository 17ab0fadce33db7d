"""`minidl gradcheck`: every operator's gradients on every back end, checked on this machine."""

from __future__ import annotations

import argparse
from typing import Any

EXAMPLE = """\
example:
  minidl gradcheck
  minidl gradcheck --backend cpu --operator conv2d

Each entry of the operator table is an operator with options. Its gradients are compared with finite
differences (also for other memory layouts), the gradients of its gradients as well, float32 with float64, and
the back end with the NumPy reference."""


def add_parser(commands: Any) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        "gradcheck",
        help="check the gradients of the operators",
        description="Check the gradients of every operator on every back end, on this machine.",
        epilog=EXAMPLE,
    )
    parser.add_argument("--backend", metavar="NAME", help="only this back end (default: all there are)")
    parser.add_argument(
        "--operator",
        metavar="PATTERN",
        default="*",
        help="only entries whose name contains or matches PATTERN",
    )
    parser.add_argument("--all", action="store_true", help="show the entries that pass, too")
    parser.add_argument("--json", action="store_true", help="print one JSON list")
    return parser


def run(arguments: argparse.Namespace) -> int:
    import fnmatch
    import json
    import time

    from minidl import kernels
    from minidl.errors import UsageError
    from minidl.testing.cases import TABLE

    if arguments.backend is not None and arguments.backend not in kernels.NAMES:
        raise UsageError(
            f"--backend expects one of {', '.join(kernels.NAMES)}, got {arguments.backend!r} "
            "(see 'minidl gradcheck --help')"
        )
    backends = [arguments.backend] if arguments.backend else list(kernels.NAMES)
    pattern = arguments.operator
    entries = [e for e in TABLE if pattern in e.name or fnmatch.fnmatchcase(e.name, pattern)]
    if not entries:
        raise UsageError(f"no operator's name contains {pattern!r} (see 'minidl gradcheck --all')")
    start = time.perf_counter()
    results = [_check(entry, backend) for backend in backends for entry in entries]
    seconds = time.perf_counter() - start
    wrong = [r for r in results if r["failures"]]
    if arguments.json:
        print(json.dumps(results))
    else:
        _print(results, results if arguments.all else wrong, backends)
        print(f"{len(results)} entries checked in {seconds:.1f} s, {len(wrong)} wrong")
    return 1 if wrong else 0


def _check(entry: Any, backend: str) -> dict[str, Any]:
    """Every check of an entry on a back end, JSON-able."""
    import time

    from minidl.testing.operators import CHECKS, check

    began = time.perf_counter()
    failed = check(entry, backend)
    skipped = {"reference"} if backend == "reference" else set()
    if not entry.smooth:
        skipped |= {"gradient", "second order"}
    states = {name: "failed" if name in failed else "-" if name in skipped else "ok" for name in CHECKS}
    return {
        "operator": entry.name,
        "backend": backend,
        "checks": states,
        "failures": failed,
        "seconds": time.perf_counter() - began,
    }


def _print(results: list[dict[str, Any]], shown: list[dict[str, Any]], backends: list[str]) -> None:
    """A line for each entry in `shown`, what failed, and a line for each back end."""
    from minidl.cli.console import table
    from minidl.testing.operators import CHECKS

    if shown:
        rows = [
            [r["operator"], r["backend"], *r["checks"].values(), f"{1000 * r['seconds']:.0f}"] for r in shown
        ]
        print(table(["operator", "back end", *CHECKS, "ms"], rows, left=2))
        print()
    for r in results:
        for name, text in r["failures"].items():
            print(f"{r['operator']} on {r['backend']}, {name}:\n{text}\n")
    rows = []
    for backend in backends:
        own = [r for r in results if r["backend"] == backend]
        counts = [sum(r["checks"][name] == "ok" for r in own) for name in CHECKS]
        wrong = sum(bool(r["failures"]) for r in own)
        rows.append([backend, *map(str, (len(own), *counts, wrong))])
    print(table(["back end", "entries", *CHECKS, "wrong"], rows))
