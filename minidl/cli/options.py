"""Options that several commands share, and how their values are read."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from minidl.errors import UsageError


def number(
    kind: Callable[[str], Any], low: float | None = None, high: float | None = None, *, above: bool = False
) -> Callable[[str], Any]:
    """A converter for argparse: int or float within bounds (`above`: the lower bound itself is refused)."""

    def convert(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            word = "a whole number" if kind is int else "a number"
            raise argparse.ArgumentTypeError(f"expected {word}, got {text!r}") from None
        too_low = low is not None and not (value > low if above else value >= low)
        if too_low or (high is not None and not value <= high):
            bounds = [f"{'above' if above else 'at least'} {low:g}"] if low is not None else []
            bounds += [f"at most {high:g}"] if high is not None else []
            raise argparse.ArgumentTypeError(f"must be {' and '.join(bounds)}, got {text}")
        return value

    return convert


def add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--device",
        default="cpu",
        help="where to compute: cpu (default), cuda, cuda:1, or emulated (a graphics card played by the processor)",
    )
    parser.add_argument(
        "--threads", type=number(int, 1), metavar="N", help="threads of the kernels (default: all cores)"
    )


def add_fuse(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--no-fuse",
        action="store_true",
        help="run layer by layer, without batch norms folded into the convolutions before them",
    )
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        default="float32",
        help="of the convolutions' operands; bfloat16 is faster where the processor multiplies it, and less exact",
    )


def check_fuse(arguments: argparse.Namespace) -> None:
    """Refuse --no-fuse and --dtype that do not go together."""
    if arguments.no_fuse and arguments.dtype != "float32":
        raise UsageError(f"argument --dtype: {arguments.dtype} needs the fused network: leave out --no-fuse")


def fused(arguments: argparse.Namespace, model: Any) -> Any:
    """The network as --no-fuse and --dtype ask for."""
    if arguments.no_fuse:
        return model
    import minidl

    try:
        return minidl.fuse(model, None if arguments.dtype == "float32" else arguments.dtype)
    except ImportError as error:
        raise UsageError(f"argument --dtype: {error}") from None


def use_device(arguments: argparse.Namespace) -> None:
    """Act on --device and --threads."""
    if arguments.device != "cpu":
        from minidl.kernels import devices

        try:
            devices.place(arguments.device)
        except (ValueError, ImportError, devices.DeviceError) as error:
            raise UsageError(f"argument --device: {error}") from None
    if arguments.threads is not None:
        from minidl import kernels

        kernels.set_num_threads(arguments.threads)


def add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", metavar="NAME", help="the network ('minidl models' lists them)")
    parser.add_argument(
        "--weights", metavar="FILE", help="pretrained weights: .safetensors, .pth, .pt, .th, or a run folder"
    )
    parser.add_argument(
        "--model-option",
        action="append",
        metavar="KEY=VALUE",
        help="an option of the network, VALUE in JSON, e.g. 'widths=[32,64,128,256]'; may be repeated",
    )
    parser.add_argument(
        "--preprocess",
        action="append",
        metavar="KEY=VALUE",
        help="how images are prepared, in place of the network's own values, e.g. 'mean=[0.5,0.5,0.5]', "
        "'channel_order=bgr', 'scale=1'; may be repeated",
    )


def add_loading(parser: Any, batch_size: int, images: str = "images") -> None:
    """How images are loaded; `batch_size` is the default that the help shows."""
    parser.add_argument(
        "--batch-size", type=number(int, 1), metavar="N", help=f"{images} per batch; default {batch_size}"
    )
    parser.add_argument(
        "--workers",
        type=number(int, 0, 256),
        default=2,
        metavar="N",
        help="threads that load images (default 2)",
    )
