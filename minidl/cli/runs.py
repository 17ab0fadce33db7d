"""What the commands that train have in common: options, settings, and how a run starts, stops and is continued."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from minidl.cli.options import number, use_device
from minidl.errors import UsageError

if TYPE_CHECKING:
    from minidl.training import Reporter
    from minidl.training.settings import TrainingSettings

SETTINGS = (
    *("model", "epochs", "batch_size", "lr", "optimizer", "momentum", "weight_decay", "schedule", "warmup"),
    *("clip_norm", "augment", "seed", "val_split"),
)
"""What may be given to every command that trains, under its name in minidl.training.settings.TrainingSettings."""

Kind = TypeVar("Kind", bound="TrainingSettings")


def add_run(parser: argparse.ArgumentParser) -> None:
    """--out and --resume."""
    parser.add_argument("--out", required=True, metavar="RUN", help="the folder that the run is written to")
    parser.add_argument("--resume", action="store_true", help="continue an interrupted run in --out")


def add_optimizer(group: Any, names: str = "sgd (default), adam, adamw or rmsprop") -> None:
    """How the weights are changed; `names` says the optimizers in words."""
    group.add_argument(
        "--lr",
        type=number(float, 0, above=True),
        metavar="X",
        help="highest learning rate; default by optimizer",
    )
    group.add_argument("--optimizer", metavar="NAME", help=names)
    group.add_argument(
        "--momentum", type=number(float, 0, 1), metavar="X", help="of sgd and rmsprop; default 0.9"
    )
    group.add_argument(
        "--weight-decay", type=number(float, 0), metavar="X", help="not applied to norms and biases"
    )
    group.add_argument("--schedule", metavar="NAME", help="cosine (default), onecycle, step or constant")
    group.add_argument(
        "--warmup", type=number(float, 0, 0.99), metavar="X", help="share of the steps; default 0.05"
    )
    group.add_argument(
        "--clip-norm",
        type=number(float, 0, above=True),
        metavar="X",
        help="bound on the norm of all gradients",
    )


def add_layers(group: Any) -> None:
    """Which layers are trained, and at which rate."""
    group.add_argument(
        "--freeze",
        metavar="PART",
        help="none (default), encoder or trunk (train the classifier only), bn (keep the batch norms) or "
        "until:LAYER (keep everything up to LAYER, e.g. until:layer3)",
    )
    group.add_argument(
        "--layer-decay",
        type=number(float, 0, 1, above=True),
        metavar="X",
        help="factor on the learning rate for each stage further from the classifier, e.g. 0.7",
    )


def add_course(group: Any, validation: str) -> None:
    """--seed, --val-split and --save-seconds; `validation` says what --val-split is a share of."""
    group.add_argument("--seed", type=number(int, 0), metavar="N", help="of everything random; default 0")
    group.add_argument("--val-split", type=number(float, 0, 0.99), metavar="X", help=validation)
    group.add_argument(
        "--save-seconds",
        type=number(float, 0, above=True),
        default=60.0,
        metavar="X",
        help="how often the state is saved within an epoch; default 60",
    )


def start(arguments: argparse.Namespace) -> tuple[Reporter, str]:
    """The reporter, and what is in --out (see `training.run_status`); acts on --device and --threads."""
    use_device(arguments)
    from minidl.cli.console import make_reporter
    from minidl.training import check_out

    return make_reporter(), check_out(Path(arguments.out), arguments.resume)


def how(arguments: argparse.Namespace, reporter: Reporter) -> dict[str, Any]:
    """The arguments of the functions that train which say how, not what."""
    return {
        "resume": arguments.resume,
        "workers": arguments.workers,
        "step_seconds": arguments.save_seconds,
        "draw": not arguments.no_pictures,
        "device": arguments.device,
        "reporter": reporter,
    }


@contextlib.contextmanager
def running(arguments: argparse.Namespace, reporter: Reporter) -> Iterator[None]:
    """Around a run: says why it waits at first, and after Ctrl-C how to go on."""
    from minidl.cli.console import say_compiling

    if arguments.device == "cpu":
        say_compiling(reporter)
    try:
        yield
    except KeyboardInterrupt as interrupt:
        interrupt.add_note(
            f"give the same command with --resume to continue from what is saved in {arguments.out}"
        )
        raise


def given_settings(
    arguments: argparse.Namespace, names: tuple[str, ...], parsed: Mapping[str, str]
) -> dict[str, Any]:
    """The settings `names` as far as they were given, and those of `parsed` (setting: option), given as KEY=VALUE."""
    from minidl.models import parse_options

    given = {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}
    try:
        for name, option in parsed.items():
            if getattr(arguments, option):
                given[name] = parse_options(getattr(arguments, option))
    except ValueError as error:
        raise UsageError(str(error)) from error
    if given.get("freeze") == "encoder":  # another name for it, which a saved run does not know
        given["freeze"] = "trunk"
    return given


def run_settings(
    kind: type[Kind],
    given: Mapping[str, Any],
    arguments: argparse.Namespace,
    status: str,
    options: Mapping[str, str],
    complete: Callable[[dict[str, Any]], dict[str, Any]],
) -> Kind:
    """The settings given, completed by `complete` and by defaults; those of the run itself when it is continued.

    `options` maps settings to their options where the names differ. Raises UsageError.
    """
    from minidl.models import architecture
    from minidl.training import continued_settings

    try:
        if status in ("unfinished", "finished"):
            return kind(**continued_settings(arguments.out, given, options))
        settings = kind(**complete(dict(given)))
        architecture(settings.model)  # an unknown name is said before anything is read
        return settings
    except (TypeError, ValueError) as error:
        raise UsageError(str(error)) from error


def with_known_model(given: dict[str, Any]) -> dict[str, Any]:
    """The settings of a classifier's run with the network that its weights know, if no --model was given.

    Raises UsageError when there is none, or when --model-option contradicts the weights.
    """
    from minidl.training.network import known_model

    if "model" not in given and "weights" in given:
        found = known_model(given["weights"])
        if "model_options" in given and found:
            raise UsageError(f"argument --model-option: {given['weights']} knows its own model, leave it out")
        changed = given.pop("preprocess", {})
        given = {**found, **given}
        if found or changed:
            given["preprocess"] = {**found.get("preprocess", {}), **changed}
    if "model" not in given:
        silent = f", {given['weights']} does not say whose it is" if "weights" in given else ""
        raise UsageError(f"argument --model: is needed{silent} ('minidl models' lists the names)")
    return given
