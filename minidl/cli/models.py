"""`minidl models`: the networks that there are."""

from __future__ import annotations

import argparse
from typing import Any

EXAMPLE = """\
example:
  minidl models
  minidl models resnet5"""


def add_parser(commands: Any) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        "models",
        help="list the networks",
        description="List the networks by name, with the input and the classes of their pretrained weights.",
        epilog=EXAMPLE,
    )
    parser.add_argument(
        "contains", nargs="?", default="", metavar="TEXT", help="only names that contain TEXT"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON list")
    return parser


def run(arguments: argparse.Namespace) -> int:
    import json

    from minidl import models
    from minidl.cli.console import table

    entries = [models.architecture(name) for name in models.list_models(arguments.contains)]
    if arguments.json:
        print(
            json.dumps(
                [
                    {"name": e.name, "description": e.description, "pretrained_cfg": e.config.to_dict()}
                    for e in entries
                ]
            )
        )
        return 0
    rows = [
        [e.name, " x ".join(map(str, e.config.input_size)), str(e.config.num_classes), e.description]
        for e in entries
    ]
    print(table(["name", "input", "classes", "description"], rows, left=4))
    return 0
