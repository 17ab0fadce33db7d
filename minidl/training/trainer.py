"""The training loop: one step, one epoch, all epochs, with its exact position kept so that it can be taken
up anywhere.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np

import minidl
from minidl.errors import MinidlError
from minidl.kernels import devices
from minidl.nn import Module
from minidl.nn import functional as F
from minidl.optim import LRScheduler, Optimizer, clip_grad_norm_
from minidl.training.metrics import Evaluation, score
from minidl.training.reporting import EpochRow, Reporter

Batch = tuple[minidl.Tensor, Any]


class Loader(Protocol):
    """What the trainer asks of its data: batches (images or features, labels int64 (N,), an array or a tensor), in an
    order fixed by the epoch.
    """

    def __len__(self) -> int: ...

    def iterate(self, start: int = 0) -> Iterator[Batch]: ...

    def set_epoch(self, epoch: int) -> None: ...


class DivergedError(MinidlError):
    """The loss became infinite or not a number; nothing was saved from it."""


@dataclass
class Position:
    """How far the training is: `epoch` finished epochs, `step` finished steps of the next, and that epoch's
    sums so far.
    """

    epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    correct: int = 0
    seen: int = 0
    seconds: float = 0.0


class Trainer:
    """Trains a classifier with cross-entropy, or with another `objective(logits, labels) -> loss`.

    `train_loader` and `val_loader` yield (input Tensor, labels int64 (N,)); a training batch may hold more
    inputs than labels, which are then those of the first rows. `classes` are the class names; `scheduler` is
    stepped after every optimizer step. `on_step(trainer)` is called after each step and
    `on_epoch(trainer, row, best)` after each epoch: saving happens there, at points from which `fit` can go
    on exactly.

    `capture` records a step once and replays it (`minidl.compile_step`); a loss that is not finite is then noticed
    after the step.

    The best epoch has the highest validation accuracy (the lower loss when equal, the earlier epoch when
    both are), or the lowest validation loss where there is no accuracy; without a validation set each epoch is
    better than the one before.
    """

    classifies = True

    def __init__(
        self,
        model: Module,
        optimizer: Optimizer,
        train_loader: Loader,
        val_loader: Loader | None,
        classes: list[str],
        *,
        scheduler: LRScheduler | None = None,
        label_smoothing: float = 0.0,
        objective: Callable[[minidl.Tensor, np.ndarray], minidl.Tensor] | None = None,
        clip_norm: float | None = None,
        capture: bool = False,
        reporter: Reporter | None = None,
        on_step: Callable[[Trainer], None] | None = None,
        on_epoch: Callable[[Trainer, EpochRow, bool], None] | None = None,
    ) -> None:
        if not len(train_loader):
            raise ValueError("Trainer: train_loader has no batches")
        self.model, self.optimizer, self.scheduler = model, optimizer, scheduler
        self.train_loader, self.val_loader, self.classes = train_loader, val_loader, classes
        self.objective = objective or partial(F.cross_entropy, label_smoothing=label_smoothing)
        self.clip_norm = clip_norm
        device = device_of(model)
        capture = capture and device != "cpu"
        self._captured = minidl.compile_step(self._update, device=device) if capture else None
        self.reporter = reporter or Reporter()
        self.on_step, self.on_epoch = on_step, on_epoch
        self.position = Position()
        self.history: list[EpochRow] = []
        self.best: EpochRow | None = None
        self.evaluation: Evaluation | None = None
        self.lr = max(group["lr"] for group in optimizer.param_groups)

    def fit(self, epochs: int) -> list[EpochRow]:
        """Train until `epochs` epochs are finished in all, from the current position; returns the history.

        Raises DivergedError when the loss is not finite.
        """
        while self.position.epoch < epochs:
            self._train_epoch(epochs)
            row = self._epoch_row()
            better = self.best is None or _rank(row) > _rank(self.best)
            self.best = row if better else self.best
            self.history.append(row)
            self.position = Position(epoch=row.epoch)
            self.reporter.epoch(row, epochs, better)
            if self.on_epoch is not None:
                self.on_epoch(self, row, better)
        return self.history

    def _train_epoch(self, epochs: int) -> None:
        at = self.position
        self.model.train()
        self.train_loader.set_epoch(at.epoch)
        self.reporter.begin(f"epoch {at.epoch + 1}/{epochs}", len(self.train_loader))
        try:
            started, before = time.perf_counter(), at.seconds
            for inputs, labels in self.train_loader.iterate(at.step):
                loss, correct = self.train_step(inputs, labels)
                at.step += 1
                at.loss_sum += loss * len(labels)
                at.correct += correct
                at.seen += len(labels)
                at.seconds = before + time.perf_counter() - started
                figures = {"accuracy": at.correct / at.seen} if self.classifies else {}
                self.reporter.advance(at.step, loss=at.loss_sum / at.seen, **figures)
                if self.on_step is not None and at.step < len(self.train_loader):
                    self.on_step(self)
        finally:
            self.reporter.end()

    def train_step(self, inputs: minidl.Tensor, labels: Any) -> tuple[float, int]:
        """One step on one batch; returns its mean loss and how many of its labels were predicted right."""
        self.lr = max(group["lr"] for group in self.optimizer.param_groups)
        step = self._update if self._captured is None else self._captured
        loss, correct = step(inputs, labels)
        value = float(loss.item())
        if not math.isfinite(value):  # of a captured step: it was made already
            raise self._diverged("the training loss", value)
        if self.scheduler is not None:
            self.scheduler.step()
        return value, int(correct)

    def _update(self, inputs: minidl.Tensor, labels: Any) -> tuple[minidl.Tensor, minidl.Tensor]:
        """The step itself: loss and hits. Not captured, it is not made when the loss is not finite."""
        self.optimizer.zero_grad()
        loss, correct = self.loss(inputs, labels)
        if self._captured is not None or math.isfinite(float(loss.item())):
            loss.backward()
            if self.clip_norm is not None:
                clip_grad_norm_(self.model.parameters(), self.clip_norm)
            self.optimizer.step()
        return loss, minidl.as_tensor(correct)

    def loss(self, inputs: minidl.Tensor, labels: Any) -> tuple[minidl.Tensor, Any]:
        """What is minimised on one batch, and how many of its labels are predicted right (a number, or an array on the
        model's device)."""
        logits = self.model(inputs.to(device_of(self.model)))
        return self.objective(logits, labels), hits(logits, labels)

    def validate(self, loader: Loader) -> tuple[float, float | None]:
        """Loss and accuracy on the validation batches."""
        self.evaluation = evaluate(self.model, loader, self.classes)
        return self.evaluation.loss, self.evaluation.accuracy

    def _epoch_row(self) -> EpochRow:
        at = self.position
        started = time.perf_counter()
        val_loss = val_accuracy = None
        if self.val_loader is not None:
            val_loss, val_accuracy = self.validate(self.val_loader)
            if not math.isfinite(val_loss):
                raise self._diverged("the validation loss", val_loss)
        return EpochRow(
            epoch=at.epoch + 1,
            lr=self.lr,
            train_loss=at.loss_sum / at.seen,
            train_accuracy=at.correct / at.seen if self.classifies else None,
            val_loss=val_loss,
            val_accuracy=val_accuracy,
            seconds=at.seconds + time.perf_counter() - started,
        )

    def _diverged(self, what: str, value: float) -> DivergedError:
        rate = max(group["lr"] for group in self.optimizer.param_groups)
        return DivergedError(
            f"training stopped: {what} became {value} in epoch {self.position.epoch + 1}, "
            f"step {self.position.step + 1}, at learning rate {rate:g}; try a smaller learning rate, a longer warm-up, "
            "a bound on the gradients, "
            "or check that the preprocessing is the one of the weights"
        )


def _rank(row: EpochRow) -> tuple[float, float]:
    if row.val_loss is None:
        return (float(row.epoch), 0.0)
    return (row.val_accuracy or 0.0, -row.val_loss)


def hits(logits: minidl.Tensor, labels: Any) -> Any:
    """How many of the labels (n,) the first n rows of the logits predict: a number on the device of the logits."""
    best = logits.data[: len(labels)].argmax(axis=1)
    truth = labels.data if isinstance(labels, minidl.Tensor) else devices.like(labels, best)
    return (best == truth).sum()


def device_of(model: Module) -> str:
    """Where the parameters of a model are: batches go there."""
    return next((parameter.device for parameter in model.parameters()), "cpu")


def predict_logits(
    model: Module, loader: Loader, reporter: Reporter | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Logits (N, C) and labels (N,) of all batches of `loader`, the model in evaluation mode; its mode is
    restored afterwards.
    """
    device = device_of(model)
    was_training = model.training
    model.eval()
    logits: list[np.ndarray] = []
    labels: list[np.ndarray] = []
    try:
        with minidl.no_grad():
            for number, (inputs, truth) in enumerate(loader.iterate(), 1):
                logits.append(np.array(model(inputs.to(device)).cpu().numpy()))
                labels.append(np.asarray(truth.cpu() if isinstance(truth, minidl.Tensor) else truth))
                if reporter is not None:
                    reporter.advance(number)
    finally:
        model.train(was_training)
    if not logits:
        return np.zeros((0, 0), np.float32), np.zeros(0, np.int64)
    return np.concatenate(logits), np.concatenate(labels)


def evaluate(
    model: Module,
    loader: Loader,
    classes: list[str],
    reporter: Reporter | None = None,
    title: str = "evaluating",
) -> Evaluation:
    """The figures of `model` over all batches of `loader`. Raises ValueError when it has not one output per
    class.
    """
    if reporter is None:
        logits, labels = predict_logits(model, loader)
    else:
        reporter.begin(title, len(loader))
        try:
            logits, labels = predict_logits(model, loader, reporter)
        finally:
            reporter.end()
    if not len(labels):
        logits = np.zeros((0, len(classes)), np.float32)
    return score(logits, labels, classes)
