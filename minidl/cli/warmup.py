"""`minidl warmup`: compile the kernels before they are needed."""

from __future__ import annotations

import argparse
from typing import Any

EXAMPLE = """\
example:
  minidl warmup

The kernels are compiled for this machine at their first use and kept on disk. This command does it now, so that
the first training does not wait; run it again after an update."""


def add_parser(commands: Any) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        "warmup",
        help="compile the kernels now",
        description="Compile the kernels that fine-tuning needs, so that the first run does not wait for it.",
        epilog=EXAMPLE,
    )
    return parser


def run(arguments: argparse.Namespace) -> int:
    import time

    from minidl.cli.console import make_reporter
    from minidl.training import warm_up

    started = time.perf_counter()
    warm_up(make_reporter())
    print(f"the kernels are ready ({time.perf_counter() - started:.1f} s)")
    return 0
