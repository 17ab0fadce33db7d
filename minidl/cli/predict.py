"""`minidl predict`: what a fine-tuned network takes images for."""

from __future__ import annotations

import argparse
from typing import Any

from minidl.cli.options import add_device, add_fuse, check_fuse, fused, number, use_device

EXAMPLE = """\
example:
  minidl predict bee.jpg ant.png --checkpoint my-run --top 3

Prints a line per image: the most probable classes and their probabilities. An image that cannot be read is
reported on standard error, the others are still predicted, and the exit code is 1."""


def add_parser(commands: Any) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        "predict",
        help="name the class of images",
        description="Name the class of images with a fine-tuned checkpoint.",
        epilog=EXAMPLE,
    )
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="image files")
    parser.add_argument(
        "--checkpoint",
        required=True,
        metavar="RUN",
        help="a run folder (its best checkpoint) or a checkpoint file",
    )
    parser.add_argument(
        "--top", type=number(int, 1), default=1, metavar="K", help="how many classes to name (default 1)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON list")
    add_fuse(parser)
    add_device(parser)
    return parser


def run(arguments: argparse.Namespace) -> int:
    use_device(arguments)
    check_fuse(arguments)
    import json
    import sys

    from minidl.cli.main import one_line
    from minidl.training import Predictor
    from minidl.training.reporting import printable

    predictor = Predictor.load(arguments.checkpoint, fused=False, device=arguments.device)
    predictor.model = fused(arguments, predictor.model)
    failed = False
    results: list[dict[str, Any]] = []
    for path, outcome in predictor.predict_files(arguments.images):
        if isinstance(outcome, Exception):
            failed = True
            print(f"minidl: error: {one_line(outcome)}", file=sys.stderr, flush=True)
            results.append({"image": path, "error": str(outcome)})
            continue
        best = outcome[: arguments.top]
        results.append(
            {"image": path, "classes": [{"name": name, "probability": share} for name, share in best]}
        )
        if not arguments.json:
            shown = (f"{printable(name)} {100 * share:.1f} %" for name, share in best)
            print(f"{printable(path)}: {', '.join(shown)}", flush=True)
    if arguments.json:
        print(json.dumps(results))
    return 1 if failed else 0
