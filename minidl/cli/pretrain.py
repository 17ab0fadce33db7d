"""`minidl pretrain`: train an autoencoder on images, without labels."""

from __future__ import annotations

import argparse
from typing import Any

from minidl.cli.options import add_device, add_loading, number, use_device
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

_SETTINGS = (
    *("model", "epochs", "batch_size", "lr", "optimizer", "momentum", "weight_decay", "schedule", "warmup"),
    *("clip_norm", "augment", "seed", "val_split"),
)


def add_parser(commands: Any) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        "pretrain",
        help="train an autoencoder on images without labels",
        description="Train an autoencoder on images without labels; its encoder is then a start for 'finetune'.",
        epilog=EXAMPLE,
    )
    parser.add_argument("data", metavar="DATA", help="the images: a folder, zip file, CIFAR-10 or idx files")
    parser.add_argument("--out", required=True, metavar="RUN", help="the folder that the run is written to")
    parser.add_argument("--resume", action="store_true", help="continue an interrupted run in --out")
    parser.add_argument(
        "--model", metavar="NAME", help="the autoencoder, e.g. conv_autoencoder ('minidl models autoencoder')"
    )
    parser.add_argument(
        "--model-option",
        action="append",
        metavar="KEY=VALUE",
        help="an option of the network, e.g. 'channels=[32,64,128]', noise=0.3, beta=4, loss=mse; may be repeated",
    )
    parser.add_argument("--input-size", metavar="C,H,W", help="size that images are brought to")
    train = parser.add_argument_group("training")
    train.add_argument("--epochs", type=number(int, 1), metavar="N", help="default 10")
    add_loading(train)
    train.add_argument(
        "--lr",
        type=number(float, 0, above=True),
        metavar="X",
        help="highest learning rate; default by optimizer",
    )
    train.add_argument("--optimizer", metavar="NAME", help="adam (default), adamw, sgd or rmsprop")
    train.add_argument(
        "--momentum", type=number(float, 0, 1), metavar="X", help="of sgd and rmsprop; default 0.9"
    )
    train.add_argument(
        "--weight-decay", type=number(float, 0), metavar="X", help="not applied to norms and biases"
    )
    train.add_argument("--schedule", metavar="NAME", help="cosine (default), onecycle, step or constant")
    train.add_argument(
        "--warmup", type=number(float, 0, 0.99), metavar="X", help="share of the steps; default 0.05"
    )
    train.add_argument(
        "--clip-norm",
        type=number(float, 0, above=True),
        metavar="X",
        help="bound on the norm of all gradients",
    )
    train.add_argument("--augment", metavar="LEVEL", help="none (default), light, basic or strong")
    train.add_argument("--seed", type=number(int, 0), metavar="N", help="of everything random; default 0")
    train.add_argument(
        "--val-split",
        type=number(float, 0, 0.99),
        metavar="X",
        help="share of the images for validation where the data has no validation part; default 0.1",
    )
    train.add_argument(
        "--save-seconds",
        type=number(float, 0, above=True),
        default=60.0,
        metavar="X",
        help="how often the state is saved within an epoch; default 60",
    )
    parser.add_argument("--no-pictures", action="store_true", help="draw nothing")
    add_device(parser)
    return parser


def run(arguments: argparse.Namespace) -> int:
    use_device(arguments)
    from pathlib import Path

    from minidl.cli.console import make_reporter, program, quoted
    from minidl.training import check_out, pretrain

    reporter = make_reporter()
    status = check_out(Path(arguments.out), arguments.resume)
    settings = _settings(arguments, status)
    try:
        done = pretrain(
            arguments.data,
            settings,
            arguments.out,
            resume=arguments.resume,
            workers=arguments.workers,
            step_seconds=arguments.save_seconds,
            draw=not arguments.no_pictures,
            device=arguments.device,
            reporter=reporter,
        )
    except KeyboardInterrupt as interrupt:
        interrupt.add_note(
            f"give the same command with --resume to continue from what is saved in {arguments.out}"
        )
        raise
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


def _settings(arguments: argparse.Namespace, status: str) -> Any:
    """The settings given, completed by defaults, or those of the run that is continued."""
    from minidl.models import architecture, list_models, parse_options
    from minidl.training import PretrainSettings, continued_settings

    given = {name: getattr(arguments, name) for name in _SETTINGS if getattr(arguments, name) is not None}
    try:
        if arguments.model_option:
            given["model_options"] = parse_options(arguments.model_option)
        if arguments.input_size:
            given["preprocess"] = {"input_size": _size(arguments.input_size)}
        if status in ("unfinished", "finished"):
            names = {"model_options": "model-option", "preprocess": "input-size"}
            return PretrainSettings(**continued_settings(arguments.out, given, names))
        known = list_models(task="autoencoder")
        if "model" not in given:
            raise UsageError(f"argument --model: is needed: {', '.join(known)}")
        if architecture(given["model"]).task != "autoencoder":
            raise UsageError(
                f"argument --model: {given['model']} is a classifier, which needs labels; autoencoders are "
                + ", ".join(known)
            )
        return PretrainSettings(**given)
    except (TypeError, ValueError) as error:
        raise UsageError(str(error)) from error


def _size(text: str) -> list[int]:
    try:
        size = [int(part) for part in text.replace("x", ",").split(",")]
    except ValueError:
        size = []
    if len(size) != 3 or min(size) < 1 or size[0] not in (1, 3):
        raise UsageError(f"argument --input-size: expected C,H,W with C 1 or 3, got {text!r}")
    return size
