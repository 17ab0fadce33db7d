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

DATA is a folder train/CLASS/*, val/CLASS/*, or CLASS/* (a part is then set aside, see --val-split), a zip file
of either, CIFAR-10's original files, or idx files. The folder --out gets the best and the last checkpoint
(.safetensors with a readable .json), metrics.csv, and pictures of the curves, the confusion matrix and some
predictions. After any interruption the same command with --resume ends in the same weights, bit for bit."""

# settings that may be given on the command line, under their names in minidl.training.Settings
_SETTINGS = (
    *("epochs", "batch_size", "lr", "optimizer", "momentum", "weight_decay", "schedule", "warmup", "freeze"),
    *("layer_decay", "label_smoothing", "clip_norm", "augment", "seed", "val_split"),
)


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
        help="none (default), trunk (train the classifier only), bn (keep the batch norms as they are) or "
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
    from minidl.training import Settings, saved_settings

    given = {name: getattr(arguments, name) for name in _SETTINGS if getattr(arguments, name) is not None}
    try:
        for name, option in (("model_options", "model_option"), ("preprocess", "preprocess")):
            if getattr(arguments, option):
                given[name] = parse_options(getattr(arguments, option))
        for name in ("model", "weights", "new_classifier"):
            if getattr(arguments, name) is not None:
                given[name] = getattr(arguments, name)
        if status in ("unfinished", "finished"):
            saved = saved_settings(arguments.out)
            for name, value in given.items():
                if saved.get(name) != value:
                    option = name.replace("_", "-").removesuffix("s" if name == "model_options" else "\0")
                    raise UsageError(
                        f"argument --{option}: the run in {arguments.out} was started with {saved.get(name)!r}, "
                        f"it cannot be continued with {value!r}"
                    )
            return Settings(**saved)
        if "model" not in given:
            raise UsageError("argument --model: is needed ('minidl models' lists the names)")
        settings = Settings(**given)
        architecture(settings.model)  # an unknown name is said before anything is read
        return settings
    except (TypeError, ValueError) as error:
        raise UsageError(str(error)) from error
