"""`minidl pretrain`: train an autoencoder on images, without labels."""

from __future__ import annotations

import argparse
from typing import Any

from minidl.cli import runs
from minidl.cli.options import add_device, add_loading, number
from minidl.errors import UsageError

EXAMPLE = """\
examples:
  minidl pretrain photos/ --model conv_autoencoder --out my-autoencoder
  minidl pretrain fashion-mnist/ --model variational_autoencoder --model-option latent=8 --out vae
  minidl finetune photos/ --weights my-autoencoder --freeze encoder --labels-per-class 20 --out my-run

DATA is a folder or zip file of images in any folders (class folders are not needed), CIFAR-10's original files,
or idx files; labels are not used. Images of up to 64 pixels a side are learned in their own size (that of the
first one), larger ones in 64 x 64, unless --input-size says otherwise.

The folder --out gets the best and the last checkpoint, metrics.csv, the curves, originals over reconstructions
after every epoch (pictures/), the codes in a plane (latent.png), and of a variational autoencoder samples.png and
interpolations.png. After any interruption the same command with --resume ends in the same weights."""


def add_parser(commands: Any) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        "pretrain",
        help="train an autoencoder on images without labels",
        description="Train an autoencoder on images without labels; its encoder is then a start for 'finetune'.",
        epilog=EXAMPLE,
    )
    parser.add_argument("data", metavar="DATA", help="the images: a folder, zip file, CIFAR-10 or idx files")
    runs.add_run(parser)
    parser.add_argument(
        "--model", metavar="NAME", help="the autoencoder, e.g. conv_autoencoder ('minidl models autoencoder')"
    )
    parser.add_argument(
        "--model-option",
        action="append",
        metavar="KEY=VALUE",
        help="an option of the network, e.g. 'channels=[32,64,128]', noise=0.3, beta=4, loss=mse; may be repeated",
    )
    parser.add_argument("--input-size", type=_size, metavar="C,H,W", help="size that images are brought to")
    train = parser.add_argument_group("training")
    train.add_argument("--epochs", type=number(int, 1), metavar="N", help="default 10")
    add_loading(train, 128)
    runs.add_optimizer(train, "adam (default), adamw, sgd or rmsprop")
    train.add_argument("--augment", metavar="LEVEL", help="none (default), light, basic or strong")
    runs.add_course(
        train, "share of the images for validation where the data has no validation part; default 0.1"
    )
    parser.add_argument("--no-pictures", action="store_true", help="draw nothing")
    add_device(parser)
    return parser


def run(arguments: argparse.Namespace) -> int:
    reporter, status = runs.start(arguments)
    from minidl.cli.console import program, quoted
    from minidl.training import PretrainSettings, pretrain

    given = runs.given_settings(arguments, runs.SETTINGS, {"model_options": "model_option"})
    if arguments.input_size is not None:
        given["preprocess"] = {"input_size": arguments.input_size}
    options = {"model_options": "model-option", "preprocess": "input-size"}
    settings = runs.run_settings(PretrainSettings, given, arguments, status, options, _autoencoder)
    with runs.running(arguments, reporter):
        done = pretrain(arguments.data, settings, arguments.out, **runs.how(arguments, reporter))
    reporter.log("")
    if done.error is None:
        reporter.log("finished; there are no validation images")
    else:
        reporter.log(
            f"best epoch {done.best.epoch}: loss {done.best.val_loss:.4f} on the validation images, "
            f"mean squared error {done.error:.5f} per value in 0..1"
        )
    pictures = "" if arguments.no_pictures else " and pictures"
    reporter.log(f"written to {done.path}: best.safetensors, last.safetensors, metrics.csv{pictures}")
    out = quoted(str(done.path))
    reporter.log(f"next: {program()} finetune DATA --weights {out} --freeze encoder --out RUN")
    return 0


def _autoencoder(given: dict[str, Any]) -> dict[str, Any]:
    """The settings, in which --model must be an autoencoder."""
    from minidl.models import architecture, list_models

    known = ", ".join(list_models(task="autoencoder"))
    if "model" not in given:
        raise UsageError(f"argument --model: is needed: {known}")
    if architecture(given["model"]).task != "autoencoder":
        raise UsageError(
            f"argument --model: {given['model']} is a classifier, which needs labels; autoencoders are {known}"
        )
    return given


def _size(text: str) -> list[int]:
    try:
        size = [int(part) for part in text.replace("x", ",").split(",")]
    except ValueError:
        size = []
    if len(size) != 3 or min(size) < 1 or size[0] not in (1, 3):
        raise argparse.ArgumentTypeError(f"expected C,H,W with C 1 or 3, got {text!r}")
    return size
