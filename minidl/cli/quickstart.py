"""`minidl quickstart`: the whole path on data and weights that ship with the package."""

from __future__ import annotations

import argparse
from typing import Any

from minidl.cli.options import add_device, number, use_device

EXAMPLE = """\
example:
  minidl quickstart --out quickstart-run"""


def add_parser(commands: Any) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        "quickstart",
        help="see it work: fine-tune on data that ships with minidl",
        description="Fine-tune a small pretrained network on images of clothes, beside the same training from random "
        "weights, with data and weights that ship inside the package. Takes about a minute.",
        epilog=EXAMPLE,
    )
    parser.add_argument(
        "--out", default="minidl-quickstart", metavar="DIR", help="where to write (default minidl-quickstart)"
    )
    parser.add_argument(
        "--seed", type=number(int, 0), default=0, metavar="N", help="of everything random; default 0"
    )
    parser.add_argument("--epochs", type=number(int, 1), metavar="N", help="epochs of each training")
    add_device(parser)
    return parser


def run(arguments: argparse.Namespace) -> int:
    use_device(arguments)
    from minidl.cli.console import make_reporter
    from minidl.quickstart import quickstart

    quickstart(arguments.out, make_reporter(), seed=arguments.seed, epochs=arguments.epochs)
    return 0
