"""`minidl finetune`: train a pretrained network on the user's images."""

from __future__ import annotations

import argparse
from typing import Any

from minidl.cli import runs
from minidl.cli.options import add_device, add_loading, add_model, number

EXAMPLE = """\
examples:
  minidl finetune photos/ --model resnet18 --weights resnet18.pth --out my-run
  minidl finetune photos/ --model resnet50 --weights resnet50.pth --freeze trunk --out my-run
  minidl finetune photos/ --model resnet18 --weights resnet18.pth --out my-run --resume
  minidl finetune photos/ --weights my-autoencoder --freeze encoder --out my-run
  minidl finetune few/ --weights my-autoencoder --unlabelled many/ --semi fixmatch --out my-run

DATA is a folder train/CLASS/*, val/CLASS/*, or CLASS/* (a part is then set aside, see --val-split), a zip file
of either, CIFAR-10's original files, or idx files. The folder --out gets the best and the last checkpoint
(.safetensors with a readable .json), metrics.csv, and pictures of the curves, the confusion matrix and some
predictions. After any interruption the same command with --resume ends in the same weights, bit for bit.

--weights may be the folder of another run, which knows its --model; that of a 'minidl pretrain' run gives its
encoder, under a new classifier. --semi learns from images without labels as well: fixmatch (trains on its own
sure predictions), spread or cluster (label the images by the network's features first; --freeze encoder then
takes seconds). The images are those of --unlabelled, or with --labels-per-class the rest of DATA."""

_SETTINGS = (
    *runs.SETTINGS,
    *("weights", "new_classifier", "freeze", "layer_decay", "label_smoothing"),
    *("labels_per_class", "semi", "unlabelled"),
)
"""What may be given on the command line, under its name in minidl.training.Settings."""

_PARSED = {"model_options": "model_option", "preprocess": "preprocess", "semi_options": "semi_option"}
"""Settings that are given as KEY=VALUE, and their options."""


def add_parser(commands: Any) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        "finetune",
        help="train a pretrained network on your images",
        description="Train a network on a folder of images, starting from pretrained weights (or from random "
        "ones when --weights is left out).",
        epilog=EXAMPLE,
    )
    parser.add_argument("data", metavar="DATA", help="the images: a folder, zip file, CIFAR-10 or idx files")
    runs.add_run(parser)
    add_model(parser)
    train = parser.add_argument_group("training")
    train.add_argument(
        "--epochs", type=number(int, 1), metavar="N", help="default 10; 100 for --freeze trunk --augment none"
    )
    add_loading(train, 32)
    runs.add_optimizer(train)
    runs.add_layers(train)
    train.add_argument("--label-smoothing", type=number(float, 0, 0.99), metavar="X", help="default 0")
    train.add_argument(
        "--augment",
        metavar="LEVEL",
        help="none, light, basic or strong; default light, none for --freeze trunk",
    )
    train.add_argument(
        "--new-classifier",
        action="store_true",
        default=None,
        help="replace the classifier even when the weights have as many classes as the data",
    )
    runs.add_course(
        train, "share of each class for validation where the data has no validation part; default 0.2"
    )
    _add_few_labels(parser)
    parser.add_argument(
        "--no-pictures", action="store_true", help="do not draw curves, confusion matrix, predictions"
    )
    add_device(parser)
    parser.add_argument(
        "--capture",
        action="store_true",
        help="on a device, record a training step once and replay it (on a card, a CUDA graph)",
    )
    return parser


def _add_few_labels(parser: argparse.ArgumentParser) -> None:
    few = parser.add_argument_group("few labels")
    few.add_argument(
        "--labels-per-class",
        type=number(int, 1),
        metavar="N",
        help="use the labels of N training images of each class only, drawn by --seed",
    )
    few.add_argument("--semi", metavar="METHOD", help="fixmatch, spread or cluster: learn without labels too")
    few.add_argument(
        "--unlabelled", metavar="DIR", help="images for --semi, of any layout; labels among them are not used"
    )
    few.add_argument(
        "--semi-option",
        action="append",
        metavar="KEY=VALUE",
        help="fixmatch: threshold=0.95, ratio=3, weight=1; spread: neighbours=10, alpha=0.5, keep=0.8; "
        "cluster: clusters=100, keep=0.8; may be repeated",
    )


def run(arguments: argparse.Namespace) -> int:
    reporter, status = runs.start(arguments)
    from minidl.cli.console import evaluation_text, program, quoted
    from minidl.training import Settings, fine_tune

    given = runs.given_settings(arguments, _SETTINGS, _PARSED)
    settings = runs.run_settings(Settings, given, arguments, status, _PARSED, runs.with_known_model)
    with runs.running(arguments, reporter):
        done = fine_tune(
            arguments.data,
            settings,
            arguments.out,
            **runs.how(arguments, reporter),
            capture=arguments.capture,
        )
    reporter.log("")
    if done.evaluation is None:
        reporter.log(
            f"finished after {done.best.epoch} epoch{'s' * (done.best.epoch > 1)}; the data has no validation part"
        )
    else:
        reporter.log(f"best epoch {done.best.epoch}, on the validation images:")
        reporter.log(evaluation_text(done.evaluation, largest_table=40))
    reporter.log("")
    pictures = "" if arguments.no_pictures else " and pictures"
    reporter.log(f"written to {done.path}: best.safetensors, last.safetensors, metrics.csv{pictures}")
    reporter.log(f"next: {program()} predict IMAGE... --checkpoint {quoted(str(done.path))}")
    return 0
