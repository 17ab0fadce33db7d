"""Adaptation from start to end: both domains, the network, the method, training, checkpoints and the report."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import minidl
from minidl.adaptation import clouds
from minidl.adaptation.batch_norm import adapt_batch_norms
from minidl.adaptation.domains import Domains, PairLoader, labelled_few, open_domains
from minidl.adaptation.methods import AdaptSettings
from minidl.adaptation.report import DomainReport, Look, look, make_report
from minidl.adaptation.self_training import SelfTraining
from minidl.adaptation.trainer import AdaptationTrainer, Mixing, Parts
from minidl.data import DataLoader, Dataset, Splits, Subset
from minidl.errors import MinidlError, UsageError
from minidl.models import Model
from minidl.nn import Module
from minidl.training import plots
from minidl.training.checkpoint import (
    Checkpoint,
    has_document,
    load_checkpoint,
    readable_json,
    save_checkpoint,
    write_text,
)
from minidl.training.finetune import (
    TRAIN_CACHE,
    check_out,
    describer,
    eval_loader,
    fingerprint,
    make_optimizer,
    make_schedule,
)
from minidl.training.freezing import freeze
from minidl.training.network import load_model, preprocessing_of
from minidl.training.reporting import EpochRow, Reporter
from minidl.training.run_folder import BEST, LAST, RunFolder, train
from minidl.training.trainer import device_of

__all__ = ["REPORT", "Adapted", "adapt"]

Looks = tuple[Look | None, Look]
"""What a network makes of the source's validation images (None without any) and of the target's."""

REPORT = "report.json"
STATISTICS_IMAGES = 10_000
"""At most so many target images decide the statistics of batch norms."""


@dataclass(frozen=True)
class Adapted:
    """What a run brought. `history` is empty for methods that train nothing. `report` is None, and `history` empty,
    for a run that was finished already: its figures stand in the folder's report.json. `before` is what the
    network made of source and target at the start.
    """

    path: Path
    report: DomainReport | None
    history: list[EpochRow]
    before: Looks | None = None


def adapt(
    source: str | Path | Splits,
    target: str | Path | Splits,
    settings: AdaptSettings,
    out: str | os.PathLike[str],
    *,
    resume: bool = False,
    ignore_target_labels: bool = False,
    embedding: str = "pca",
    before: Looks | None = None,
    workers: int = 2,
    step_seconds: float | None = 60.0,
    draw: bool = True,
    device: str = "cpu",
    reporter: Reporter | None = None,
) -> Adapted:
    """Adapt a network that was trained on `source` to images of `target`, and leave checkpoint and report in
    the folder `out`.

    `source` and `target` are paths (`open_domains` says which layouts) or what `minidl.data.open_dataset`
    returned. No method but `finetune` sees a label of the target; where there are labels they score the
    result. The network kept is that of the last step (of the running average under self-training): without
    target labels no epoch can be called the best. `before` saves a pass over the images where it is known from
    an earlier run (`Adapted.before`) with the same network and data.

    A run is resumed and reproduced as one of `fine_tune`. Raises UsageError for wrong settings or an `out`
    that exists, MinidlError for bad data or weights, or a loss that is not finite.
    """
    reporter = reporter or Reporter()
    out = Path(out)
    status = check_out(out, resume)
    clouds.check_embedding(embedding)
    if status == "finished":
        reporter.log(f"{out}: this run is finished, nothing to do")
        return Adapted(out, None, [])
    minidl.manual_seed(settings.seed)
    domains = open_domains(
        source, target, settings.val_split, settings.seed, reporter, ignore_labels=ignore_target_labels
    )
    model = _trained_network(settings, domains.source.classes, reporter).to(device)
    classes, cfg = domains.source.classes, preprocessing_of(model, model.num_classes)
    loaders = _report_loaders(domains, cfg, workers)
    before = before or _looks(model, loaders, reporter, "before")
    try:
        reporter.log(freeze(model, settings.freeze, model.classifier_name))
    except ValueError as error:
        raise UsageError(str(error)) from error
    if settings.method == "adabn" and status == "absent":
        _adapt_statistics(model, domains, settings, cfg, workers, reporter)
    if settings.statistics == "source":
        model.freeze_norms(affine=False)
    describe = describer(settings, model.options, cfg, classes)
    result: Module = model
    history: list[EpochRow] = []
    folder: RunFolder | None = None
    if settings.trains:
        result, history, folder = _train(
            model, domains, settings, cfg, out, status, resume, describe, workers, step_seconds, reporter
        )
    else:
        _make_folder(out)
    after = _looks(result, loaders, reporter, "after", model.classifier_name)
    report = make_report(
        classes,
        None if before[0] is None or after[0] is None else (before[0], after[0]),
        (before[1], after[1]),
        domains.labelled,
    )
    write_text(out / REPORT, readable_json({"settings": settings.to_dict(), **report.to_dict()}))
    if draw:
        _draw(out, report, before, after, classes, history, embedding, domains.labelled, reporter)
    if folder is not None:
        folder.finish()
    else:  # last.safetensors says that the run is finished, so it is written last
        checkpoint = describe(model.state_dict(), 0, {})
        save_checkpoint(checkpoint, out / BEST)
        save_checkpoint(checkpoint, out / LAST)
    return Adapted(out, report, history, before)


def _train(
    model: Model,
    domains: Domains,
    settings: AdaptSettings,
    cfg: dict[str, Any],
    out: Path,
    status: str,
    resume: bool,
    describe: Callable[[Mapping[str, np.ndarray], int, dict[str, Any]], Checkpoint],
    workers: int,
    step_seconds: float | None,
    reporter: Reporter,
) -> tuple[Module, list[EpochRow], RunFolder]:
    """Train, from the saved state when `status` is "unfinished"; the network to keep, the history and the run
    folder, which is still to be finished.
    """
    alignment = settings.alignment(model.num_features)
    if alignment is not None:
        alignment.to(device_of(model))
    teacher = _self_training(model, settings, reporter)
    parts = Parts(model, alignment, teacher)
    kept = "self_training.teacher." if teacher is not None else "model."

    def describe_kept(state: Mapping[str, np.ndarray], epoch: int, metrics: dict[str, Any]) -> Checkpoint:
        chosen = {n.removeprefix(kept): array for n, array in state.items() if n.startswith(kept)}
        return describe(chosen, epoch, metrics)

    identity = {
        "settings": settings.to_dict(),
        "classes": domains.source.classes,
        "data": fingerprint(domains.source.train, domains.target_train),
    }
    folder = RunFolder(out, parts, describe_kept, identity, step_seconds=step_seconds)
    if status == "unfinished":
        folder.read()
    loader = _pair_loader(domains, settings, cfg, workers, reporter)
    epochs = settings.epochs or 0
    steps = epochs * len(loader)
    optimizer = make_optimizer(settings, model)
    if alignment is not None and (own := list(alignment.parameters())):
        optimizer.add_param_group({"params": own, "name": settings.method})
    trainer = AdaptationTrainer(
        parts,
        model.classifier_name,
        steps,
        optimizer,
        loader,
        None,
        domains.source.classes,
        alignment=alignment,
        self_training=teacher,
        mixing=Mixing(settings.mix_share, settings.mix_signs, settings.seed) if settings.mix_share else None,
        scheduler=make_schedule(settings, optimizer, steps),
        label_smoothing=settings.label_smoothing,
        clip_norm=settings.clip_norm,
        reporter=reporter,
        on_step=folder.on_step,
        on_epoch=folder.on_epoch,
    )
    history = train(trainer, folder, epochs, status, resume, reporter)
    return (teacher.teacher if teacher is not None else model), history, folder


def _trained_network(settings: AdaptSettings, classes: list[str], reporter: Reporter) -> Model:
    """The network of the settings, which must know the source's classes already."""
    if settings.weights is None:
        raise UsageError(
            "adaptation starts from a network that was trained on the source: give weights "
            "('minidl finetune SOURCE' makes them)"
        )
    model = load_model(
        settings.model, settings.weights, settings.model_options, settings.preprocess, reporter
    )
    known = load_checkpoint(settings.weights).classes if has_document(settings.weights) else []
    if model.num_classes != len(classes) or (known and known != classes):
        theirs = f"{model.num_classes} classes" + (
            " of other names" if model.num_classes == len(classes) else ""
        )
        raise MinidlError(
            f"{settings.weights}: has {theirs}, the source has {len(classes)}; train it on the source first "
            "('minidl finetune SOURCE')"
        )
    return model


def _report_loaders(
    domains: Domains, cfg: dict[str, Any], workers: int
) -> tuple[DataLoader | None, DataLoader]:
    source = eval_loader(domains.source.val, cfg, workers) if len(domains.source.val) else None
    return source, eval_loader(domains.target_test, cfg, workers)


def _looks(
    model: Any,
    loaders: tuple[DataLoader | None, DataLoader],
    reporter: Reporter,
    when: str,
    classifier: str | None = None,
) -> Looks:
    name = classifier or model.classifier_name
    source = None
    if loaders[0] is not None:
        source = look(model, name, loaders[0], reporter, f"source {when}")
    return source, look(model, name, loaders[1], reporter, f"target {when}")


def _adapt_statistics(
    model: Model,
    domains: Domains,
    settings: AdaptSettings,
    cfg: dict[str, Any],
    workers: int,
    reporter: Reporter,
) -> None:
    images = domains.unlabelled
    if len(images) > STATISTICS_IMAGES:
        chosen = np.random.default_rng(settings.seed).choice(len(images), STATISTICS_IMAGES, replace=False)
        images = Subset(images, chosen)
    loader = eval_loader(images, cfg, workers)
    # shuffled, because files are sorted by class
    size = min(settings.batch_size, len(images))
    loader = DataLoader(images, size, True, loader.transform, workers, True, settings.seed)
    if len(images) < 100:
        reporter.log(
            f"adabn: {len(images)} images are few for statistics; --prior N keeps the source's as N images more"
        )
    reporter.begin("statistics of the target", len(loader))

    def batches() -> Any:
        for number, (batch, _) in enumerate(loader.iterate(), 1):
            yield batch.to(device_of(model))
            reporter.advance(number)

    try:
        count = adapt_batch_norms(model, batches(), settings.prior)
    except ValueError as error:
        raise UsageError(f"method adabn: {error}") from error
    finally:
        reporter.end()
    reporter.log(f"adabn: the statistics of {count} batch norms come from {len(images):,} target images")


def _self_training(model: Model, settings: AdaptSettings, reporter: Reporter) -> SelfTraining | None:
    if not settings.self_training:
        return None
    reporter.log(
        f"self-training: a running average ({settings.average:g}) of the network labels target images, labels from "
        f"probability {settings.threshold:g} on count"
    )
    return SelfTraining(
        model,
        settings.threshold,
        settings.average,
        settings.self_weight,
        settings.balance,
        model.num_classes,
    )


def _pair_loader(
    domains: Domains, settings: AdaptSettings, cfg: dict[str, Any], workers: int, reporter: Reporter
) -> PairLoader:
    labelled: Dataset = domains.source.train
    if settings.method == "finetune":
        labelled = labelled_few(domains, int(settings.labels_per_class or 0), settings.seed)
        reporter.log(f"finetune: the labels of {len(labelled)} target images are used")
    unlabelled = domains.unlabelled if settings.sees_target else None
    count = len(domains.target_train)
    if unlabelled is not None and count < settings.batch_size:
        reporter.log(
            f"the target has {count} images, fewer than a batch of {settings.batch_size}: every batch has all of them"
        )
    size = settings.batch_size if unlabelled is not None else settings.source_batch_size
    steps = settings.steps_per_epoch or max(1, len(unlabelled or labelled) // size)
    return PairLoader(
        labelled,
        unlabelled,
        cfg,
        steps,
        sizes=(settings.source_batch_size, settings.batch_size),
        augment=settings.augment,
        student_augment=settings.student_augment if settings.self_training else None,
        seed=settings.seed,
        workers=workers,
        cache=TRAIN_CACHE,
    )


def _make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MinidlError(f"{out}: the folder cannot be made: {error.strerror}") from error


def _draw(
    out: Path,
    report: DomainReport,
    before: Looks,
    after: Looks,
    classes: list[str],
    history: list[EpochRow],
    embedding: str,
    labelled: bool,
    reporter: Reporter,
) -> None:
    if not plots.have_matplotlib():
        reporter.log(plots.NO_MATPLOTLIB)
        return
    if before[0] is not None and after[0] is not None:
        clouds.draw_clouds(
            (before[0], after[0]),
            (before[1], after[1]),
            classes,
            out / "clouds.png",
            embedding,
            labelled,
        )
    clouds.draw_classes(report, out / "classes.png")
    if report.target is not None:
        plots.draw_confusion(report.target[1], out / "confusion.png")
    if history:
        plots.draw_curves(history, out / "curves.png")


def read_report(out: str | os.PathLike[str]) -> dict[str, Any]:
    """The figures of a finished run, as `DomainReport.to_dict` gave them; MinidlError when there are none."""
    file = Path(out) / REPORT
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise MinidlError(f"{file}: no report of an adaptation can be read here") from error
    if not isinstance(found, dict):
        raise MinidlError(f"{file}: no report of an adaptation can be read here")
    return found
