"""`minidl summary`: what a network is made of."""

from __future__ import annotations

import argparse
from typing import Any

from minidl.cli.options import number
from minidl.errors import UsageError

EXAMPLE = """\
examples:
  minidl summary resnet50
  minidl summary resnet18 --num-classes 2 --input-size 3,128,128"""


def add_parser(commands: Any) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        "summary",
        help="show a network's layers, parameters and cost",
        description="Show the layers of a network: output shapes, parameters, multiply-adds, activation memory.",
        epilog=EXAMPLE,
    )
    parser.add_argument("model", metavar="MODEL", help="the network ('minidl models' lists them)")
    parser.add_argument("--num-classes", type=number(int, 1), metavar="N", help="outputs of the classifier")
    parser.add_argument(
        "--input-size", metavar="C,H,W", help="size of the input (default: the network's own)"
    )
    parser.add_argument(
        "--batch-size", type=number(int, 1), default=1, metavar="N", help="images (default 1)"
    )
    parser.add_argument(
        "--model-option", action="append", metavar="KEY=VALUE", help="an option of the network"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def run(arguments: argparse.Namespace) -> int:
    import json

    from minidl import models

    size: tuple[int, ...] | None = None
    if arguments.input_size:
        try:
            size = tuple(int(part) for part in arguments.input_size.replace("x", ",").split(","))
        except ValueError:
            size = ()
        if len(size) != 3 or min(size) < 1:
            raise UsageError(f"argument --input-size: expected C,H,W, got {arguments.input_size!r}")
    try:
        options = models.parse_options(arguments.model_option or ())
        model = _build(arguments.model, arguments.num_classes, size, options)
    except (TypeError, ValueError) as error:
        raise UsageError(str(error)) from error
    summary = models.summarize(model, size, arguments.batch_size)
    print(json.dumps(summary.to_dict()) if arguments.json else summary.table())
    return 0


def _build(name: str, num_classes: int | None, size: tuple[int, ...] | None, options: dict[str, Any]) -> Any:
    """The classifier or autoencoder, for images of this size where one is given."""
    from minidl import models

    entry = models.architecture(name)
    if entry.task == "autoencoder":
        if num_classes is not None:
            raise UsageError(f"argument --num-classes: {name} is an autoencoder, it has no classes")
        return models.create_autoencoder(name, size, **options)
    if size:
        options.setdefault("in_channels", size[0])
    config = entry.config.with_input(size) if size else None
    return models.create(name, num_classes=num_classes, pretrained_cfg=config, **options)
