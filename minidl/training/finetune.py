"""Fine-tuning from start to end: data, network, what is frozen, optimizer, loop, checkpoints, pictures."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import minidl
from minidl import optim
from minidl.data import DataLoader, Dataset, Splits, eval_transform, open_dataset, train_transform
from minidl.errors import MinidlError, UsageError
from minidl.nn import Module
from minidl.training import features, plots
from minidl.training.checkpoint import Checkpoint, load_checkpoint
from minidl.training.freezing import freeze
from minidl.training.metrics import Evaluation, score
from minidl.training.network import Network, build_network
from minidl.training.reporting import EpochRow, Reporter, printable
from minidl.training.run_folder import BEST, RunFolder, run_status, train
from minidl.training.semi import choose_images, fixmatch_loader, give_labels, make_objective
from minidl.training.settings import Settings, TrainingSettings
from minidl.training.trainer import Loader, Trainer, predict_logits

EVAL_BATCH = 64
TRAIN_CACHE, VAL_CACHE = 512 << 20, 256 << 20
"""Bytes of decoded images that are kept from epoch to epoch; what does not fit is decoded again."""


@dataclass(frozen=True)
class FineTuned:
    """What a run brought: the figures of the best epoch on the validation part (None without one) and the
    history.
    """

    path: Path
    best: EpochRow
    evaluation: Evaluation | None
    history: list[EpochRow]


def fine_tune(
    data: str | Path | Splits,
    settings: Settings,
    out: str | os.PathLike[str],
    *,
    resume: bool = False,
    workers: int = 2,
    step_seconds: float | None = 60.0,
    draw: bool = True,
    device: str = "cpu",
    capture: bool = False,
    reporter: Reporter | None = None,
) -> FineTuned:
    """Train a network on a data set and leave checkpoints, metrics and pictures in the folder `out`.

    `data` is a path that `minidl.data.open_dataset` knows, or what it returned. With the same settings,
    data and machine the weights come out bit for bit the same, however many `workers` load the images and
    however often the run was killed and continued with `resume=True`. `step_seconds` is how often the state
    is saved within an epoch. On a device `capture` records a training step once and replays it.

    Raises UsageError when `out` exists and `resume` is false and for an unknown model, option or layer,
    MinidlError for bad data, weights that do not fit, a loss that is not finite, or a file that cannot be
    written.
    """
    reporter = reporter or Reporter()
    out = Path(out)
    if capture and settings.semi == "fixmatch":
        raise UsageError("fixmatch chooses its images by the values of a step: it cannot be captured")
    status = check_out(out, resume)
    minidl.manual_seed(settings.seed)
    splits, where = opened(data, settings, open_dataset)
    if not isinstance(data, Splits):
        reporter.log(_data_line(splits, where))
    splits, unlabelled = choose_images(splits, settings, where, reporter)
    images = fingerprint(splits.train, splits.val, *([] if unlabelled is None else [unlabelled]))
    # a resumed run brings its own weights, but labels are given by those that it started from
    fresh = status == "absent" or settings.semi in ("spread", "cluster")
    network = build_network(settings, splits.classes, reporter, fresh)
    network.model.to(device)
    if unlabelled is not None and settings.semi != "fixmatch" and status != "finished":
        splits = give_labels(splits, unlabelled, network, settings, workers, reporter)
    try:
        reporter.log(freeze(network.model, settings.freeze, network.classifier))
    except ValueError as error:
        raise UsageError(str(error)) from error
    if status == "finished":
        reporter.log(f"{out}: this run is finished, nothing to do")
        return _finished(out, splits, network, workers, reporter)
    identity = {"settings": settings.to_dict(), "classes": splits.classes, "data": images}
    describe = describer(settings, network.model.options, network.preprocessing, splits.classes)
    folder = RunFolder(out, network.model, describe, identity, step_seconds=step_seconds)
    if status == "unfinished":
        folder.read()
    model, loaders = _loaders(settings, network, splits, unlabelled, workers, device, reporter)
    epochs = settings.epochs or 0
    optimizer = make_optimizer(settings, network.model)
    trainer = Trainer(
        model,
        optimizer,
        *loaders,
        splits.classes,
        scheduler=make_schedule(settings, optimizer, epochs * len(loaders[0])),
        label_smoothing=settings.label_smoothing,
        objective=make_objective(settings),
        clip_norm=settings.clip_norm,
        capture=capture,
        reporter=reporter,
        on_step=folder.on_step,
        on_epoch=folder.on_epoch,
    )
    history = train(trainer, folder, epochs, status, resume, reporter)
    evaluation = None
    if trainer.val_loader is not None:
        network.model.load_state_dict(load_checkpoint(out / BEST).state)
        evaluation = _score_best(model, trainer.val_loader, splits, out if draw else None, reporter)
    if draw and not plots.draw_curves(history, out / "curves.png"):
        reporter.log(plots.NO_MATPLOTLIB)
    folder.finish()
    assert trainer.best is not None
    return FineTuned(out, trainer.best, evaluation, history)


def opened(
    data: str | Path | Splits, settings: TrainingSettings, opener: Callable[..., Splits]
) -> tuple[Splits, str]:
    """The data (opened, if it is a path) and what to call it. MinidlError when there is nothing to train on."""
    if isinstance(data, Splits):
        splits, where = data, "the data set"
    else:
        splits, where = opener(data, val_split=settings.val_split, seed=settings.seed), str(data)
    if not len(splits.train):
        raise MinidlError(f"{where}: has no training images")
    return splits, where


def check_out(out: Path, resume: bool) -> str:
    """What `run_status` says of the run folder; UsageError when a new run would overwrite it or it is no run."""
    status = run_status(out)
    if status == "other":
        raise UsageError(f"{out}: exists and is not the folder of a run; choose another --out")
    if not resume and status == "unfinished":
        raise UsageError(
            f"{out}: holds an unfinished run; add --resume to continue it, or choose another --out"
        )
    if not resume and status == "finished":
        raise UsageError(f"{out}: holds a finished run; choose another --out, or remove it first")
    return status


def make_optimizer(settings: TrainingSettings, model: Module) -> optim.Optimizer:
    """The optimizer of the settings over all parameters, without weight decay on norms and biases."""
    lr, decay = float(settings.lr or 0.0), float(settings.weight_decay or 0.0)
    layer_decay = settings.layer_decay if isinstance(settings, Settings) else None
    groups = optim.param_groups(model, decay, no_decay_norm_bias=True, layer_decay=layer_decay)
    if settings.optimizer == "sgd":
        return optim.SGD(groups, lr, momentum=settings.momentum)
    if settings.optimizer == "rmsprop":
        return optim.RMSprop(groups, lr, momentum=settings.momentum)
    return (optim.AdamW if settings.optimizer == "adamw" else optim.Adam)(groups, lr)


def make_schedule(
    settings: TrainingSettings, optimizer: optim.Optimizer, steps: int
) -> optim.LRScheduler | None:
    """The learning-rate schedule of the settings over `steps` optimizer steps."""
    warmup = min(round(settings.warmup * steps), steps - 1)
    if settings.schedule == "cosine":
        return optim.WarmupCosine(optimizer, warmup, steps)
    if settings.schedule == "onecycle":
        return optim.OneCycle(optimizer, None, max(steps, 2))
    if settings.schedule == "step":
        return optim.MultiStepLR(optimizer, [math.ceil(steps / 2), math.ceil(3 * steps / 4)])
    return optim.LinearWarmup(optimizer, warmup) if warmup else None


def _loaders(
    settings: Settings,
    network: Network,
    splits: Splits,
    unlabelled: Dataset | None,
    workers: int,
    device: str,
    reporter: Reporter,
) -> tuple[Module, tuple[Loader, Loader | None]]:
    """What the trainer trains, and its batches: the network on images, or the classifier alone on kept
    features.
    """
    cfg, model = network.preprocessing, network.model
    val: Loader | None = eval_loader(splits.val, cfg, workers, VAL_CACHE) if len(splits.val) else None
    if settings.semi == "fixmatch":
        assert unlabelled is not None
        return model, (fixmatch_loader(splits.train, unlabelled, cfg, settings, workers, TRAIN_CACHE), val)
    if not settings.trains_on_features:
        return model, (train_loader(splits.train, settings, cfg, workers, device), val)

    def keep(images: Loader, name: str, shuffle: bool) -> Loader:
        title = f"features of the {name} images"
        rows, labels = features.compute_features(model, network.classifier, images, reporter, title)
        return features.FeatureLoader(rows, labels, settings.batch_size, shuffle=shuffle, seed=settings.seed)

    train = keep(eval_loader(splits.train, cfg, workers), "training", True)
    val = keep(val, "validation", False) if val is not None else None
    reporter.log("the frozen trunk's features were computed once; only the classifier is trained on them")
    return model.get_submodule(network.classifier), (train, val)


def train_loader(
    dataset: Dataset, settings: TrainingSettings, cfg: Mapping[str, Any], workers: int, device: str
) -> DataLoader:
    """The images of a data set shuffled and augmented, in batches, as the settings say."""
    return DataLoader(
        dataset,
        settings.batch_size,
        shuffle=True,
        transform=train_transform(cfg, settings.augment),  # type: ignore[arg-type]
        num_workers=workers,
        seed=settings.seed,
        cache=TRAIN_CACHE,
        device=device,
    )


def eval_loader(dataset: Dataset, cfg: Mapping[str, Any], workers: int, cache: int = 0) -> DataLoader:
    """The images of a data set in order, prepared for evaluation."""
    return DataLoader(dataset, EVAL_BATCH, transform=eval_transform(cfg), num_workers=workers, cache=cache)


def describer(
    settings: TrainingSettings, options: dict[str, Any], preprocessing: dict[str, Any], classes: list[str]
) -> Callable[[Mapping[str, np.ndarray], int, dict[str, Any]], Checkpoint]:
    """What makes a checkpoint of the weights and figures at the end of an epoch."""

    def describe(state: Mapping[str, np.ndarray], epoch: int, metrics: dict[str, Any]) -> Checkpoint:
        return Checkpoint(
            state=state,
            model=settings.model,
            options=options,
            classes=classes,
            preprocessing=preprocessing,
            settings=settings.to_dict(),
            epoch=epoch,
            metrics=metrics,
        )

    return describe


def _score_best(
    model: Module, loader: Loader, splits: Splits, pictures: Path | None, reporter: Reporter
) -> Evaluation:
    """The figures of `model` on the validation part, drawn into a folder unless that is None."""
    logits, labels = _predict(model, loader, reporter)
    evaluation = score(logits, labels, splits.classes)
    if pictures is not None:
        plots.draw_confusion(evaluation, pictures / "confusion.png")
        draw_sheet(splits.val, logits, labels, splits.classes, pictures / "predictions.png")
    return evaluation


def _predict(model: Module, loader: Loader, reporter: Reporter) -> tuple[np.ndarray, np.ndarray]:
    reporter.begin("evaluating the best epoch", len(loader))
    try:
        return predict_logits(model, loader, reporter)
    finally:
        reporter.end()


def draw_sheet(
    dataset: Dataset, logits: np.ndarray, labels: np.ndarray, classes: list[str], path: Path
) -> None:
    """Draw some images of `dataset` with what logits (N, C) say of them; see `plots.choose_samples`."""
    shown = []
    for index in plots.choose_samples(logits, labels):
        row = np.exp(logits[index] - logits[index].max())
        predicted = int(row.argmax())
        image, label = dataset[index]
        shown.append(
            plots.Shown(image, classes[label], classes[predicted], float(row[predicted] / row.sum()))
        )
    plots.draw_predictions(shown, path)


def _finished(out: Path, splits: Splits, network: Network, workers: int, reporter: Reporter) -> FineTuned:
    """What a run that is finished already brought, measured again."""
    checkpoint = load_checkpoint(out)
    row = EpochRow(**checkpoint.metrics)
    evaluation = None
    if len(splits.val):
        network.model.load_state_dict(checkpoint.state)
        loader = eval_loader(splits.val, network.preprocessing, workers)
        evaluation = score(*_predict(network.model, loader, reporter), splits.classes)
    return FineTuned(out, row, evaluation, [row])


def _data_line(splits: Splits, data: str) -> str:
    names = ", ".join(map(printable, splits.classes[:10])) + (", ..." if len(splits.classes) > 10 else "")
    return (
        f"{data}: {splits.kind}, {len(splits.train):,} training and {len(splits.val):,} validation images, "
        f"{len(splits.classes)} classes ({names})"
    )


def fingerprint(*parts: Dataset) -> str:
    """A hash of the names and labels of all samples: another data set cannot be taken for the one a run
    began with.
    """
    digest = hashlib.sha256()
    for part in parts:
        digest.update(np.ascontiguousarray(part.targets, "<i8").tobytes())
        for index in range(len(part)):
            digest.update(os.path.basename(part.name(index)).encode("utf-8", "surrogateescape") + b"\n")
    return digest.hexdigest()
