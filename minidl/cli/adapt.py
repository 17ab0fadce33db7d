"""`minidl adapt`: make a trained network work on images that look different, without their labels."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from minidl.cli import runs
from minidl.cli.options import add_device, add_loading, add_model, number
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
    *runs.SETTINGS,
    *("weights", "freeze", "layer_decay", "method", "steps_per_epoch", "source_batch_size"),
    *("mix_share", "mix_signs", "statistics", "prior", "align_weight", "labels_per_class"),
    *("self_training", "self_weight", "threshold", "average", "balance", "student_augment"),
)
"""What may be given on the command line, under its name in minidl.adaptation.AdaptSettings."""

_PARSED = {"model_options": "model_option", "preprocess": "preprocess"}
"""Settings that are given as KEY=VALUE, and their options."""


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
    runs.add_run(parser)
    parser.add_argument("--method", metavar="NAME", help="see below; default coral")
    add_model(parser)
    train = parser.add_argument_group("training")
    train.add_argument("--epochs", type=number(int, 1), metavar="N", help="default 10")
    train.add_argument(
        "--steps-per-epoch", type=number(int, 1), metavar="N", help="default: every target image once"
    )
    add_loading(train, 128, "target images")
    train.add_argument(
        "--source-batch-size", type=number(int, 1), metavar="N", help="labelled images per batch; default 64"
    )
    runs.add_optimizer(train)
    runs.add_layers(train)
    train.add_argument("--augment", metavar="LEVEL", help="none, light, basic (default) or strong")
    runs.add_course(
        train,
        "share of each class for validation, of both domains, where they have no validation part; default 0.2",
    )
    _add_method(parser)
    _add_self_training(parser)
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


def _add_method(parser: argparse.ArgumentParser) -> None:
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


def _add_self_training(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("self-training")
    group.add_argument(
        "--self-training",
        action="store_true",
        default=None,
        help="learn from the sure predictions of a running average of the network",
    )
    group.add_argument(
        "--threshold",
        type=number(float, 0, 1),
        metavar="X",
        help="a prediction is sure from here; default 0.9",
    )
    group.add_argument(
        "--average", type=number(float, 0, 1), metavar="X", help="of the running average; default 0.99"
    )
    group.add_argument(
        "--student-augment", metavar="LEVEL", help="of the images that it learns from; default strong"
    )
    group.add_argument(
        "--self-weight", type=number(float, 0), metavar="X", help="factor on its loss; default 1"
    )
    group.add_argument(
        "--balance",
        action="store_true",
        default=None,
        help="divide predictions by their mean, where all classes are equally frequent",
    )


def run(arguments: argparse.Namespace) -> int:
    reporter, status = runs.start(arguments)
    from minidl.adaptation import AdaptSettings, adapt
    from minidl.adaptation.clouds import EMBEDDINGS
    from minidl.cli.console import program, quoted

    if arguments.embedding not in EMBEDDINGS:
        raise UsageError(f"argument --embedding: must be pca or tsne, got {arguments.embedding!r}")
    given = runs.given_settings(arguments, _SETTINGS, _PARSED)
    settings = runs.run_settings(AdaptSettings, given, arguments, status, _PARSED, _trained_network)
    with runs.running(arguments, reporter):
        done = adapt(
            arguments.source,
            arguments.target,
            settings,
            arguments.out,
            ignore_target_labels=arguments.ignore_target_labels,
            embedding=arguments.embedding,
            **runs.how(arguments, reporter),
        )
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


def _trained_network(given: dict[str, Any]) -> dict[str, Any]:
    if "weights" not in given:
        raise UsageError("argument --weights: is needed, a network trained on SOURCE ('minidl finetune')")
    return runs.with_known_model(given)
