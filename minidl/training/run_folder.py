"""The folder of a run: best and last checkpoint, the state to resume from, and the table of metrics.

    best.safetensors  best.json      the epoch with the highest validation accuracy
    last.safetensors  last.json      the newest epoch
    resume.safetensors               weights, optimizer, schedule, random numbers and position;
                                     removed when the run ends
    metrics.csv                      one line per epoch

`resume.safetensors` is the only file that a resumed run reads, so its rename is the one instant at which
progress counts. Everything else is written before it: a run killed in between repeats the steps since the
previous state, which are deterministic, and writes the same files again.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from minidl import random
from minidl.errors import MinidlError, UsageError
from minidl.nn import Module
from minidl.training.checkpoint import (
    DOCUMENT_KEY,
    FORMAT_VERSION,
    Checkpoint,
    load_checkpoint,
    read_document,
    save_checkpoint,
    write_text,
)
from minidl.training.reporting import EpochRow, Reporter
from minidl.training.trainer import Position, Trainer

STATE_FORMAT = "minidl-resume"
STATE_FILE = "resume.safetensors"
BEST, LAST, METRICS = "best.safetensors", "last.safetensors", "metrics.csv"
PICTURES = "pictures"
"""The folder of the pictures that are drawn after every epoch."""


class RunFolder:
    """Saves a run as it goes and takes it up again.

    `model` is the whole network (the trainer may train only its head); `describe(state, epoch, metrics)`
    makes the checkpoint of it; `identity` is a JSON-able dictionary of what decides the result (settings,
    classes, data): a run can only be resumed with an equal one. An epoch that ends less than `min_seconds`
    after the last save is saved with a later one; within an epoch the state is saved every `step_seconds`
    (None: at the ends of epochs only).
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        model: Module,
        describe: Callable[[Mapping[str, np.ndarray], int, dict[str, Any]], Checkpoint],
        identity: dict[str, Any],
        *,
        min_seconds: float = 2.0,
        step_seconds: float | None = 60.0,
    ) -> None:
        self.path = Path(path)
        self.model, self.describe = model, describe
        self.identity: dict[str, Any] = json.loads(json.dumps(identity))
        self.min_seconds = min_seconds if step_seconds is None else min(min_seconds, step_seconds)
        self.step_seconds = step_seconds
        self.epochs = 0
        self._saved_at = time.monotonic()
        self._new_best: Checkpoint | None = None
        self._made: list[Path] = []
        self._untouched = False
        self._state: tuple[dict[str, Any], dict[str, np.ndarray]] | None = None

    # ---- hooks of the trainer --------------------------------------------------------------------

    def on_epoch(self, trainer: Trainer, row: EpochRow, best: bool) -> None:
        """Save what an epoch brought."""
        if best:  # kept in memory until it is written: the weights move on
            self._new_best = self.describe(self.model.state_dict(), row.epoch, row.to_dict())
        if row.epoch >= self.epochs or time.monotonic() - self._saved_at >= self.min_seconds:
            self.save(trainer)

    def on_step(self, trainer: Trainer) -> None:
        """Save in the middle of an epoch when it is time."""
        if self.step_seconds is not None and time.monotonic() - self._saved_at >= self.step_seconds:
            self.save(trainer)

    # ---- the folder itself ------------------------------------------------------------------------

    def create(self, trainer: Trainer) -> None:
        """Make the folder with the state before training. Raises MinidlError, leaving nothing behind, when that
        fails.
        """
        self._made = [place for place in (self.path, *self.path.parents) if not place.exists()]
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            self._remove_made()
            raise MinidlError(f"{self.path}: the folder cannot be made: {error.strerror}") from error
        try:
            self.save(trainer)
        except MinidlError as error:
            self._remove_made()
            raise MinidlError(str(error.__cause__ or error)) from error
        self._untouched = True

    def abandon(self) -> None:
        """Remove the folder if nothing has been saved in it since `create`: it holds nothing worth resuming."""
        if self._untouched:
            self.finish()
            shutil.rmtree(self.path / PICTURES, ignore_errors=True)
            self._remove_made()

    def _remove_made(self) -> None:
        with contextlib.suppress(OSError):  # the first that is not empty ends it
            for place in self._made:
                place.rmdir()

    # ---- saving ----------------------------------------------------------------------------------

    def save(self, trainer: Trainer) -> None:
        """Write the checkpoints that are due and then the state; the last one is the instant that counts.

        Raises MinidlError when a file cannot be written; the state saved before is then intact.
        """
        try:
            if self._new_best is not None:
                save_checkpoint(self._new_best, self.path / BEST)
                self._new_best = None
            if trainer.position.step == 0 and trainer.history:
                row = trainer.history[-1]
                last = self.describe(self.model.state_dict(), row.epoch, row.to_dict())
                save_checkpoint(last, self.path / LAST)
                write_text(self.path / METRICS, metrics_csv(trainer.history))
            self._save_state(trainer)
        except MinidlError as error:
            self._untouched = False  # the message promises that the state stays
            raise MinidlError(
                f"{error}; what was saved before in {self.path} is intact: make room and continue with --resume"
            ) from error
        self._saved_at = time.monotonic()
        self._untouched = False

    def _save_state(self, trainer: Trainer) -> None:
        from minidl import weights

        optimizer = trainer.optimizer.state_dict()
        document = {
            "format": STATE_FORMAT,
            "format_version": FORMAT_VERSION,
            "identity": self.identity,
            "position": asdict(trainer.position),
            "history": [row.to_dict() for row in trainer.history],
            "best": trainer.best.to_dict() if trainer.best else None,
            "optimizer": optimizer["settings"],
            "scheduler": trainer.scheduler.state_dict() if trainer.scheduler else None,
            "random": random.get_state(),
        }
        tensors = {f"model.{name}": array for name, array in self.model.state_dict().items()}
        tensors.update({f"optimizer.{name}": array for name, array in optimizer["arrays"].items()})
        weights.save(tensors, self.path / STATE_FILE, {DOCUMENT_KEY: json.dumps(document)})

    def finish(self) -> None:
        """Remove what only an unfinished run needs."""
        with contextlib.suppress(FileNotFoundError):
            (self.path / STATE_FILE).unlink()
        self.remove_leftovers()

    def remove_leftovers(self) -> None:
        """Remove the temporary files of writes that were killed."""
        for name in (BEST, LAST, STATE_FILE, METRICS, "best.json", "last.json"):
            for leftover in self.path.glob(f".{name}.*.tmp"):
                with contextlib.suppress(OSError):
                    leftover.unlink()

    # ---- resuming --------------------------------------------------------------------------------

    def read(self) -> None:
        """Read the saved state and load the model's weights from it; `restore` does the rest.

        Raises MinidlError for a damaged state and UsageError when the run was started with something else.
        """
        from minidl import weights

        file = self.path / STATE_FILE
        document = load_state_document(self.path)
        self._check_identity(document.get("identity"))
        arrays = weights.load(file)
        self.model.load_state_dict(_below(arrays, "model."))
        self._state = document, _below(arrays, "optimizer.")

    def restore(self, trainer: Trainer) -> None:
        """Put optimizer, schedule, random numbers and position back to the state that was read.

        Raises MinidlError for a damaged state.
        """
        if self._state is None:
            self.read()
        assert self._state is not None
        document, arrays = self._state
        self._state = None
        try:
            position = Position(**document["position"])
            history = [EpochRow(**row) for row in document["history"]]
            best = EpochRow(**document["best"]) if document["best"] else None
            trainer.optimizer.load_state_dict({"settings": document["optimizer"], "arrays": arrays})
            if trainer.scheduler is not None:
                # after the optimizer: the schedule applies its formula to the restored groups
                trainer.scheduler.load_state_dict(document["scheduler"])
            random.set_state(document["random"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise MinidlError(
                f"{self.path / STATE_FILE}: damaged state of a run ({type(error).__name__}: {error})"
            ) from error
        trainer.position, trainer.history, trainer.best = position, history, best
        if best is not None and not (self.path / BEST).exists():
            raise MinidlError(
                f"{self.path / BEST}: is missing, the run cannot be resumed without its best checkpoint"
            )
        self.remove_leftovers()
        self._saved_at = time.monotonic()

    def _check_identity(self, saved: Any) -> None:
        if not isinstance(saved, dict):
            raise MinidlError(f"{self.path / STATE_FILE}: damaged state of a run (no identity)")
        for name in sorted({*saved, *self.identity}):
            if saved.get(name) != self.identity.get(name):
                raise UsageError(
                    f"{self.path}: was started with {name} {_short(saved.get(name))}, it cannot be resumed with "
                    f"{_short(self.identity.get(name))}"
                )


def train(
    trainer: Trainer, folder: RunFolder, epochs: int, status: str, resume: bool, reporter: Reporter
) -> list[EpochRow]:
    """Trains until `epochs` epochs are finished, from the saved state when `status` is "unfinished"; returns the
    history. A run that fails before it saved anything leaves no folder.
    """
    folder.epochs = epochs
    if status == "unfinished":
        folder.restore(trainer)
        at = trainer.position
        steps = f" and {at.step} steps" if at.step else ""
        reporter.log(f"{folder.path}: continued after {at.epoch} of {epochs} epochs{steps}")
    else:
        if resume:
            reporter.log(f"{folder.path}: there is nothing to continue, a new run starts")
        folder.create(trainer)
    try:
        return trainer.fit(epochs)
    except MinidlError:
        folder.abandon()
        raise


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _below(arrays: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def load_state_document(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The JSON document of an unfinished run's state; MinidlError when it is missing or damaged."""
    from minidl import weights

    file = Path(path) / STATE_FILE
    return read_document(weights.load_metadata(file).get(DOCUMENT_KEY, ""), file, STATE_FORMAT)


def saved_settings(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The settings that the run in a folder, unfinished or finished, was started with."""
    place = Path(path)
    if (place / STATE_FILE).exists():
        identity = load_state_document(place).get("identity")
        settings = identity.get("settings") if isinstance(identity, dict) else None
        if not isinstance(settings, dict):
            raise MinidlError(f"{place / STATE_FILE}: damaged state of a run (no settings)")
        return settings
    return load_checkpoint(place / LAST).settings


def continued_settings(
    path: str | os.PathLike[str], given: Mapping[str, Any], options: Mapping[str, str]
) -> dict[str, Any]:
    """The settings of the run in a folder, which those that are given again must equal.

    `options` maps settings to the names of their options on the command line, where these differ. Raises
    UsageError naming the option that contradicts the run.
    """
    saved = saved_settings(path)
    for name, value in given.items():
        if name == "preprocess" and isinstance(saved.get(name), dict):  # single fields may be given
            value = {**saved[name], **value}
        if saved.get(name) != value:
            option = options.get(name, name).replace("_", "-")
            raise UsageError(
                f"argument --{option}: the run in {path} was started with {saved.get(name)!r}, "
                f"it cannot be continued with {value!r}"
            )
    return saved


def run_status(path: str | os.PathLike[str]) -> str:
    """What is at `path`: "absent" (or empty), "unfinished", "finished", or "other" (a file or folder that
    is no run).
    """
    place = Path(path)
    if not place.exists() and not place.is_symlink():
        return "absent"
    if not place.is_dir():
        return "other"
    names = {entry.name for entry in place.iterdir()}
    if STATE_FILE in names:
        return "unfinished"
    if LAST in names:
        load_checkpoint(place / LAST)
        return "finished"
    # killed while the very first state was being written
    return "absent" if all(name.startswith(f".{STATE_FILE}.") for name in names) else "other"


def metrics_csv(history: list[EpochRow]) -> str:
    """The history as CSV text with a header line; figures that do not exist are empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(EpochRow.__dataclass_fields__)
    for row in history:
        writer.writerow([_cell(value) for value in row.to_dict().values()])
    return text.getvalue()


def _cell(value: float | None) -> str:
    if value is None:
        return ""
    return str(value) if isinstance(value, int) else f"{value:.6g}"
