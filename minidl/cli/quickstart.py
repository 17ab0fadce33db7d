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
    from minidl.cli.console import make_reporter, program, quoted, say_compiling, table
    from minidl.quickstart import WEIGHTS, quickstart

    reporter = make_reporter()
    if arguments.device == "cpu":
        say_compiling(reporter)
    result = quickstart(
        arguments.out, reporter, seed=arguments.seed, epochs=arguments.epochs, device=arguments.device
    )
    rows = [
        [
            f"{name} weights",
            f"{100 * result.evaluations[name].accuracy:.1f} %",
            f"{result.evaluations[name].macro_f1:.3f}",
            f"{result.seconds[name]:.1f} s",
        ]
        for name in ("pretrained", "random")
    ]
    gain = 100 * (result.evaluations["pretrained"].accuracy - result.evaluations["random"].accuracy)
    images = result.evaluations["pretrained"].total
    out = quoted(str(result.path))
    reporter.log("")
    reporter.log(table([f"{images:,} test images", "accuracy", "macro F1", "training"], rows))
    reporter.log("")
    reporter.log(
        f"What pretraining on other images (CIFAR-10) bought under the same budget: {gain:+.1f} points."
    )
    reporter.log(f"Written to {out}: confusion.png, predictions.png, and a folder for each of the two runs.")
    reporter.log("")
    reporter.log("Your own photos next, in one folder per class (PHOTOS/CLASS/*.jpg):")
    reporter.log(
        f"  {program()} finetune PHOTOS --model resnet20 --weights {quoted(str(WEIGHTS))} --out my-run"
    )
    return 0
