"""`minidl finetune`: train a pretrained network on the user's images."""

from __future__ import annotations

import argparse
from typing import Any

from minidl.cli.options import add_device, add_loading, add_model, number, use_device
from minidl.errors import UsageError

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

# settings that may be given on the command line, under their names in minidl.training.Settings
_SETTINGS = (
    *("epochs", "batch_size", "lr", "optimizer", "momentum", "weight_decay", "schedule", "warmup", "freeze"),
    *("layer_decay", "label_smoothing", "clip_norm", "augment", "seed", "val_split"),
    *("labels_per_class", "semi", "unlabelled"),
)

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
    parser.add_argument("--out", required=True, metavar="RUN", help="the folder that the run is written to")
    parser.add_argument("--resume", action="store_true", help="continue an interrupted run in --out")
    add_model(parser)
    train = parser.add_argument_group("training")
    train.add_argument(
        "--epochs", type=number(int, 1), metavar="N", help="default 10; 100 for --freeze trunk --augment none"
    )
    add_loading(train)
    train.add_argument(
        "--lr",
        type=number(float, 0, above=True),
        metavar="X",
        help="highest learning rate; default by optimizer",
    )
    train.add_argument("--optimizer", metavar="NAME", help="sgd (default), adam, adamw or rmsprop")
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
        "--freeze",
        metavar="PART",
        help="none (default), encoder or trunk (train the classifier only), bn (keep the batch norms) or "
        "until:LAYER (keep everything up to LAYER, e.g. until:layer3)",
    )
    train.add_argument(
        "--layer-decay",
        type=number(float, 0, 1, above=True),
        metavar="X",
        help="factor on the learning rate for each stage further from the classifier, e.g. 0.7",
    )
    train.add_argument("--label-smoothing", type=number(float, 0, 0.99), metavar="X", help="default 0")
    train.add_argument(
        "--clip-norm",
        type=number(float, 0, above=True),
        metavar="X",
        help="bound on the norm of all gradients",
    )
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
    train.add_argument("--seed", type=number(int, 0), metavar="N", help="of everything random; default 0")
    train.add_argument(
        "--val-split",
        type=number(float, 0, 0.99),
        metavar="X",
        help="share of each class for validation where the data has no validation part; default 0.2",
    )
    train.add_argument(
        "--save-seconds",
        type=number(float, 0, above=True),
        default=60.0,
        metavar="X",
        help="how often the state is saved within an epoch; default 60",
    )
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
    parser.add_argument(
        "--no-pictures", action="store_true", help="do not draw curves, confusion matrix, predictions"
    )
    add_device(parser)
    return parser


def run(arguments: argparse.Namespace) -> int:
    use_device(arguments)
    from pathlib import Path

    from minidl.cli.console import evaluation_text, make_reporter, program, quoted
    from minidl.training import check_out, fine_tune

    reporter = make_reporter()
    status = check_out(Path(arguments.out), arguments.resume)
    settings = _settings(arguments, status)
    try:
        done = fine_tune(
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


def _settings(arguments: argparse.Namespace, status: str) -> Any:
    """The settings given, completed by defaults, or by those of the run that is continued."""
    from minidl.models import architecture, parse_options
    from minidl.training import Settings, continued_settings
    from minidl.training.network import known_model

    given = {name: getattr(arguments, name) for name in _SETTINGS if getattr(arguments, name) is not None}
    try:
        for name, option in _PARSED.items():
            if getattr(arguments, option):
                given[name] = parse_options(getattr(arguments, option))
        if given.get("freeze") == "encoder":
            given["freeze"] = "trunk"
        for name in ("model", "weights", "new_classifier"):
            if getattr(arguments, name) is not None:
                given[name] = getattr(arguments, name)
        if status in ("unfinished", "finished"):
            return Settings(**continued_settings(arguments.out, given, _PARSED))
        if "model" not in given and "weights" in given:
            found = known_model(given["weights"])
            if "model_options" in given and found:
                raise UsageError(
                    f"argument --model-option: {given['weights']} knows its own model, leave it out"
                )
            changed = given.pop("preprocess", {})
            given = {**found, **given}
            if found or changed:
                given["preprocess"] = {**found.get("preprocess", {}), **changed}
        if "model" not in given:
            silent = f", {given['weights']} does not say whose it is" if "weights" in given else ""
            raise UsageError(f"argument --model: is needed{silent} ('minidl models' lists the names)")
        settings = Settings(**given)
        architecture(settings.model)  # an unknown name is said before anything is read
        return settings
    except (TypeError, ValueError) as error:
        raise UsageError(str(error)) from error
