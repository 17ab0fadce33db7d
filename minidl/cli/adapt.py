"""`minidl adapt`: make a trained network work on images that look different, without their labels."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from minidl.cli.options import add_device, add_loading, add_model, number, use_device
from minidl.errors import UsageError

if TYPE_CHECKING:
    from minidl.adaptation import DomainReport

EXAMPLE = """\
examples:
  minidl adapt studio/ street/ --weights my-run --method coral --out my-adaptation
  minidl adapt studio/ street/ --weights my-run --method dann --self-training --out my-adaptation
  minidl adapt studio/ street/ --weights net.pth --model resnet18 --method adabn --out my-adaptation

methods (--self-training can be added to each):
  source    goes on with the source images alone, for comparison
  finetune  learns from --labels-per-class labelled target images of each class
  adabn     takes the batch norms' statistics from the target; trains nothing
  coral     aligns the covariances of the features of both domains (deep CORAL)
  mmd       aligns their distributions (maximum mean discrepancy)
  dann      learns features from which the domain cannot be told (domain-adversarial)
  mixup     lets target images shine through the labelled ones (domain mixup)
  infomax   makes predictions on the target sure and varied (information maximisation)

SOURCE is labelled data as for 'finetune'; --weights must have been trained on its classes. TARGET is of any such
layout, or a folder of images without class folders. Its training part is learned from without labels; where it
has labels, they score the result on its validation part. The folder --out gets the checkpoint, report.json,
metrics.csv, and pictures: clouds of features of both domains, classes before and after, confusion matrix. The
network of the last step is kept: without labels no epoch can be called the best."""

_SETTINGS = (
    *("method", "self_training", "epochs", "steps_per_epoch", "batch_size", "source_batch_size", "lr"),
    *("optimizer", "momentum", "weight_decay", "schedule", "warmup", "freeze", "layer_decay", "clip_norm"),
    *(
        "augment",
        "mix_share",
        "mix_signs",
        "statistics",
        "prior",
        "align_weight",
        "self_weight",
        "threshold",
        "average",
        "balance",
    ),
    *("student_augment", "labels_per_class", "seed", "val_split"),
)


def add_parser(commands: Any) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        "adapt",
        help="make a network work on images that look different, without their labels",
        description="Adapt a network trained on labelled SOURCE images to TARGET images that look different and "
        "have no labels.",
        epilog=EXAMPLE,
    )
    parser.add_argument(
        "source", metavar="SOURCE", help="labelled images: a folder, zip file, CIFAR-10 or idx"
    )
    parser.add_argument("target", metavar="TARGET", help="images of the other domain; labels are not needed")
    parser.add_argument("--out", required=True, metavar="RUN", help="the folder that the run is written to")
    parser.add_argument("--resume", action="store_true", help="continue an interrupted run in --out")
    parser.add_argument("--method", metavar="NAME", help="see below; default coral")
    add_model(parser)
    train = parser.add_argument_group("training")
    train.add_argument("--epochs", type=number(int, 1), metavar="N", help="default 10")
    train.add_argument(
        "--steps-per-epoch", type=number(int, 1), metavar="N", help="default: every target image once"
    )
    add_loading(train)
    train.add_argument(
        "--source-batch-size", type=number(int, 1), metavar="N", help="labelled images per batch; default 64"
    )
    train.add_argument("--lr", type=number(float, 0, above=True), metavar="X", help="highest learning rate")
    train.add_argument("--optimizer", metavar="NAME", help="sgd (default), adam, adamw or rmsprop")
    train.add_argument("--momentum", type=number(float, 0, 1), metavar="X", help="default 0.9")
    train.add_argument("--weight-decay", type=number(float, 0), metavar="X", help="not on norms and biases")
    train.add_argument("--schedule", metavar="NAME", help="cosine (default), onecycle, step or constant")
    train.add_argument("--warmup", type=number(float, 0, 0.99), metavar="X", help="share of the steps")
    train.add_argument("--freeze", metavar="PART", help="as for finetune; default none")
    train.add_argument(
        "--layer-decay", type=number(float, 0, 1, above=True), metavar="X", help="as for finetune"
    )
    train.add_argument("--clip-norm", type=number(float, 0, above=True), metavar="X", help="as for finetune")
    train.add_argument("--augment", metavar="LEVEL", help="none, light, basic (default) or strong")
    train.add_argument("--seed", type=number(int, 0), metavar="N", help="of everything random; default 0")
    train.add_argument(
        "--val-split", type=number(float, 0, 0.99), metavar="X", help="as for finetune, of both domains"
    )
    train.add_argument(
        "--save-seconds",
        type=number(float, 0, above=True),
        default=60.0,
        metavar="X",
        help="how often the state is saved within an epoch; default 60",
    )
    method = parser.add_argument_group("method")
    method.add_argument(
        "--align-weight",
        type=number(float, 0),
        metavar="X",
        help="factor on the method's term of the loss; default 1, infomax 0.1",
    )
    method.add_argument(
        "--mix-share",
        type=number(float, 0, 1),
        metavar="X",
        help="largest share of a target image in a labelled one; default 0, for mixup 0.5",
    )
    method.add_argument(
        "--mix-signs", action="store_true", default=None, help="show negatives of labelled images as well"
    )
    method.add_argument(
        "--statistics",
        metavar="KIND",
        help="of batch norms while training: source (default, as stored) or batch (of both domains together)",
    )
    method.add_argument(
        "--prior",
        type=number(float, 0),
        metavar="N",
        help="adabn: the source's statistics count as N target images; default 0",
    )
    method.add_argument("--labels-per-class", type=number(int, 1), metavar="N", help="finetune: default 10")
    method.add_argument(
        "--self-training",
        action="store_true",
        default=None,
        help="learn from the sure predictions of a running average of the network",
    )
    method.add_argument(
        "--threshold",
        type=number(float, 0, 1),
        metavar="X",
        help="a prediction is sure from here; default 0.9",
    )
    method.add_argument(
        "--average", type=number(float, 0, 1), metavar="X", help="of the running average; default 0.99"
    )
    method.add_argument(
        "--student-augment", metavar="LEVEL", help="of the images that it learns from; default strong"
    )
    method.add_argument(
        "--self-weight", type=number(float, 0), metavar="X", help="factor on its loss; default 1"
    )
    method.add_argument(
        "--balance",
        action="store_true",
        default=None,
        help="divide predictions by their mean, where all classes are equally frequent",
    )
    parser.add_argument(
        "--ignore-target-labels", action="store_true", help="take TARGET as unlabelled, whatever its folders"
    )
    parser.add_argument(
        "--embedding",
        default="pca",
        metavar="NAME",
        help="of the clouds: pca (default) or tsne (scikit-learn)",
    )
    parser.add_argument("--no-pictures", action="store_true", help="draw nothing")
    add_device(parser)
    return parser


def run(arguments: argparse.Namespace) -> int:
    use_device(arguments)
    from pathlib import Path

    from minidl.adaptation import adapt
    from minidl.adaptation.clouds import EMBEDDINGS
    from minidl.cli.console import make_reporter, program, quoted
    from minidl.training import check_out

    if arguments.embedding not in EMBEDDINGS:
        raise UsageError(f"argument --embedding: must be pca or tsne, got {arguments.embedding!r}")
    reporter = make_reporter()
    status = check_out(Path(arguments.out), arguments.resume)
    settings = _settings(arguments, status)
    try:
        done = adapt(
            arguments.source,
            arguments.target,
            settings,
            arguments.out,
            resume=arguments.resume,
            ignore_target_labels=arguments.ignore_target_labels,
            embedding=arguments.embedding,
            workers=arguments.workers,
            step_seconds=arguments.save_seconds,
            draw=not arguments.no_pictures,
            reporter=reporter,
        )
    except KeyboardInterrupt as interrupt:
        interrupt.add_note(
            f"give the same command with --resume to continue from what is saved in {arguments.out}"
        )
        raise
    if done.report is not None:
        reporter.log("")
        reporter.log(report_text(done.report))
        reporter.log("")
        pictures = "" if arguments.no_pictures else " and pictures"
        reporter.log(f"written to {done.path}: best.safetensors, report.json{pictures}")
    reporter.log(f"next: {program()} predict IMAGE... --checkpoint {quoted(str(done.path))}")
    return 0


def report_text(report: DomainReport) -> str:
    """The report as text: both domains before and after, then the classes."""
    from minidl.cli.console import table
    from minidl.training.reporting import printable

    rows = []
    for name, both in (("source", report.source), ("target", report.target)):
        if both is not None:
            change = 100 * (both[1].accuracy - both[0].accuracy)
            shown = [f"{100 * each.accuracy:.2f} %" for each in both]
            rows.append([f"{name} accuracy", *shown, f"{change:+.2f}"])
    rows.append(["confidence on the target", *(f"{100 * c:.1f} %" for c in report.confidence), ""])
    for name, distances in report.distances.items():
        rows.append([f"distance of the domains, {name}", *(f"{d:.3g}" for d in distances), ""])
    lines = [table(["", "before", "after", "points"], rows)]
    lines += ["", f"{100 * report.changed:.1f} % of the target's predictions are others than before"]
    body = []
    for name, before, after, given, now in report.per_class():
        shown = ["?"] * 3
        if before is not None and after is not None:
            shown = [f"{100 * before:.1f} %", f"{100 * after:.1f} %", f"{100 * (after - before):+.1f}"]
        body.append([printable(name), *shown, str(given), str(now)])
    header = ["target class", "right before", "after", "points", "images given to it before", "after"]
    if report.target is None:
        header, body = [header[0], *header[4:]], [[row[0], *row[4:]] for row in body]
    return "\n".join([*lines, "", table(header, body[:40])])


def _settings(arguments: argparse.Namespace, status: str) -> Any:
    """The settings given, completed by defaults, or those of the run that is continued."""
    from minidl.adaptation import AdaptSettings
    from minidl.models import architecture, parse_options
    from minidl.training import continued_settings
    from minidl.training.network import known_model

    parsed = {"model_options": "model_option", "preprocess": "preprocess"}
    given = {name: getattr(arguments, name) for name in _SETTINGS if getattr(arguments, name) is not None}
    try:
        for name, option in parsed.items():
            if getattr(arguments, option):
                given[name] = parse_options(getattr(arguments, option))
        for name in ("model", "weights"):
            if getattr(arguments, name) is not None:
                given[name] = getattr(arguments, name)
        if status in ("unfinished", "finished"):
            return AdaptSettings(**continued_settings(arguments.out, given, parsed))
        if "weights" not in given:
            raise UsageError("argument --weights: is needed, a network trained on SOURCE ('minidl finetune')")
        if "model" not in given:
            given = {**known_model(given["weights"]), **given}
        if "model" not in given:
            raise UsageError("argument --model: is needed ('minidl models' lists the names)")
        settings = AdaptSettings(**given)
        architecture(settings.model)  # an unknown name is said before anything is read
        return settings
    except (TypeError, ValueError) as error:
        raise UsageError(str(error)) from error
