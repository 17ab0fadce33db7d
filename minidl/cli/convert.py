"""`minidl convert`: from one weights format to another."""

from __future__ import annotations

import argparse
from typing import Any

from minidl.errors import UsageError

EXAMPLE = """\
examples:
  minidl convert resnet18.pth resnet18.safetensors
  minidl convert my-run/best.safetensors for-pytorch.pth

IN is safetensors or any of PyTorch's .pth formats; no code in it can run. Wrappers such as 'state_dict' and
prefixes such as 'module.' are removed, and what was done is said. PyTorch reads the .pth files written here."""


def add_parser(commands: Any) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        "convert",
        help="convert weights to .safetensors or .pth",
        description="Convert a weights file to .safetensors, or to .pth for PyTorch, without PyTorch.",
        epilog=EXAMPLE,
    )
    parser.add_argument("source", metavar="IN", help="the weights to read")
    parser.add_argument("target", metavar="OUT", help="the file to write: .safetensors, .pth or .pt")
    parser.add_argument(
        "--key", metavar="NAME", help="which state dict of a checkpoint with several, e.g. ema"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace OUT when it exists")
    return parser


def run(arguments: argparse.Namespace) -> int:
    import os

    from minidl import weights

    source, target = arguments.source, arguments.target
    suffix = os.path.splitext(target)[1].lower()
    if suffix not in (".safetensors", ".pth", ".pt"):
        raise UsageError(f"argument OUT: {target!r} must end in .safetensors, .pth or .pt")
    if os.path.exists(target) and not arguments.overwrite:
        raise UsageError(f"argument OUT: {target} exists; add --overwrite to replace it")
    state = weights.load(source, key=arguments.key)
    for note in state.notes:
        print(note)
    if suffix == ".safetensors":
        weights.save(state, target, state.metadata or None)
    else:
        weights.save_pth(state, target)
    numbers = sum(array.size for array in state.values())
    print(f"{target}: {len(state)} tensors, {numbers:,} numbers, {os.path.getsize(target):,} bytes")
    return 0
