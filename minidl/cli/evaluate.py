"""`minidl evaluate`: the figures of a checkpoint, or of a model with a weights file, on labelled images."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING, Any, Literal

from minidl.cli.options import add_device, add_fuse, add_loading, add_model, check_fuse, fused, use_device
from minidl.errors import MinidlError, UsageError

if TYPE_CHECKING:
    from minidl.data import Dataset
    from minidl.training import Reporter

EXAMPLE = """\
examples:
  minidl evaluate photos/ --checkpoint my-run
  minidl evaluate cifar-10-batches-py --model resnet20 --weights resnet20.th --json

Prints accuracy, top-5 accuracy (more than five classes), precision, recall and F1 of each class, and the
confusion matrix. Of data with a training and a validation part the latter is taken. Data without parts is
evaluated as a whole, except for a checkpoint, as it may have been trained on them: then it is the images that
its training set aside, or with --split all every image."""


def add_parser(commands: Any) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        "evaluate",
        help="measure a network on labelled images",
        description="Measure a fine-tuned checkpoint, or a network with a weights file, on labelled images.",
        epilog=EXAMPLE,
    )
    parser.add_argument("data", metavar="DATA", help="the images: a folder, zip file, CIFAR-10 or idx files")
    parser.add_argument(
        "--checkpoint", metavar="RUN", help="a run folder (its best checkpoint) or a checkpoint file"
    )
    add_model(parser)
    parser.add_argument(
        "--split", metavar="PART", help="val (default), train or all: the part of the data to use"
    )
    parser.add_argument("--json", action="store_true", help="print the figures as one JSON object")
    parser.add_argument(
        "--confusion-picture", metavar="FILE", help="also draw the confusion matrix into a PNG file"
    )
    add_loading(parser, 64)
    add_fuse(parser)
    add_device(parser)
    return parser


def run(arguments: argparse.Namespace) -> int:
    use_device(arguments)
    check_fuse(arguments)
    if (arguments.checkpoint is None) == (arguments.model is None):
        raise UsageError("give either --checkpoint RUN, or --model NAME and --weights FILE")
    if arguments.checkpoint is not None and (arguments.weights or arguments.model_option):
        raise UsageError("--checkpoint knows its own model: leave out --weights and --model-option")
    if arguments.model is not None and arguments.weights is None:
        raise UsageError("argument --weights: is needed with --model")
    folder = os.path.dirname(arguments.confusion_picture or "")
    if folder and not os.path.isdir(folder):
        raise UsageError(f"argument --confusion-picture: there is no folder {folder}")
    if arguments.split not in (None, "val", "train", "all"):
        raise UsageError(f"argument --split: must be val, train or all, got {arguments.split!r}")

    from minidl.cli.console import PlainReporter, evaluation_text, make_reporter
    from minidl.data import DataLoader, eval_transform
    from minidl.training import Reporter, evaluate

    reporter: Reporter = Reporter() if arguments.json else make_reporter()
    model, classes, cfg, settings = load_any(arguments, reporter)
    # what a checkpoint was trained on is found again by the same split
    val_split, seed = settings.get("val_split", 0.2), settings.get("seed", 0)
    if not settings and arguments.split is None:
        val_split = 1.0
    split = arguments.split or "val"
    dataset = _images(arguments.data, split, val_split, seed, reporter)
    if classes is None and len(dataset.classes) != model.num_classes:
        raise MinidlError(
            f"{arguments.data}: has {len(dataset.classes)} classes, the weights have {model.num_classes}"
        )
    if classes is not None and dataset.classes != classes:
        raise MinidlError(
            f"{arguments.data}: its classes {_few(dataset.classes)} are not those of the checkpoint, {_few(classes)}"
        )
    loader = DataLoader(
        dataset, arguments.batch_size or 64, transform=eval_transform(cfg), num_workers=arguments.workers
    )
    model.to(arguments.device)
    result = evaluate(fused(arguments, model), loader, dataset.classes, reporter)
    if arguments.json:
        import json

        about = {"data": arguments.data, "split": split, "model": model.name}
        print(json.dumps({**about, **result.to_dict()}))
    else:
        reporter.log(evaluation_text(result))
    if arguments.confusion_picture:
        from minidl.training import plots

        if not plots.draw_confusion(result, arguments.confusion_picture):
            (Reporter() if arguments.json else PlainReporter()).log(plots.NO_MATPLOTLIB)
    return 0


def _images(data: str, split: str, val_split: float, seed: int, reporter: Reporter) -> Dataset:
    """The part of the data to evaluate; says so where that was cut out of a whole."""
    from minidl.data import ConcatDataset, Subset, open_dataset

    parts: dict[str, Literal["train", "val"] | None] = {"train": "train", "val": "val", "all": None}
    splits = open_dataset(data, parts[split], val_split=val_split, seed=seed)
    chosen = [each for each in (splits.train, splits.val) if len(each)]
    if not chosen:
        raise MinidlError(f"{data}: has no images in its {split} part")
    if len(chosen) > 1:
        return ConcatDataset(chosen)
    whole = len(chosen[0].dataset) if isinstance(chosen[0], Subset) else 0
    if len(chosen[0]) < whole:
        count = f"{len(chosen[0]):,} of {whole:,} images, those of its {split} part"
        reporter.log(f"{data}: {count} (--split all takes every one)")
    return chosen[0]


def load_any(
    arguments: argparse.Namespace, reporter: Any
) -> tuple[Any, list[str] | None, dict[str, Any], dict[str, Any]]:
    """The model of --checkpoint, or of --model and --weights: (model, classes or None, preprocessing,
    settings).
    """
    from minidl.models import parse_options
    from minidl.training import load_checkpoint, load_model

    try:
        options = parse_options(arguments.model_option or ())
        preprocess = parse_options(arguments.preprocess or ())
    except ValueError as error:
        raise UsageError(str(error)) from error
    if arguments.checkpoint is not None:
        checkpoint = load_checkpoint(arguments.checkpoint)
        model = checkpoint.build_model()
        cfg = model.pretrained_cfg.replace(**preprocess) if preprocess else model.pretrained_cfg
        return model, checkpoint.classes, cfg.to_dict(), checkpoint.settings
    model = load_model(arguments.model, arguments.weights, options, preprocess, reporter)
    return model.eval(), None, model.pretrained_cfg.to_dict(), {}


def _few(names: list[str]) -> str:
    from minidl.training.reporting import printable

    return ", ".join(map(printable, names[:5])) + (", ..." if len(names) > 5 else "")
