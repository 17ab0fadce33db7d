"""What training tells the outside: a silent reporter, to be subclassed by whoever wants to show something."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class EpochRow:
    """One line of metrics.csv. Losses are in nats (of an autoencoder: as its `losses`), accuracies are
    fractions (None where nothing is classified), `seconds` is the wall-clock of the epoch.
    """

    epoch: int
    lr: float
    train_loss: float
    train_accuracy: float | None
    val_loss: float | None
    val_accuracy: float | None
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        return dict(self.__dict__)


def printable(text: str) -> str:
    """`text` with control characters escaped: the names of files and classes may hold line ends and commands
    to the terminal.
    """
    return "".join(c if c.isprintable() or "\ud800" <= c <= "\udfff" else repr(c)[1:-1] for c in text)


class Reporter:
    """Receives the progress of a run. Every method does nothing here; override the ones you need.

    `begin` opens a piece of work of `total` units, `advance` says that `done` of them are finished (with
    figures worth showing beside the bar), `end` closes it. Pieces of work do not nest.
    """

    def log(self, text: str) -> None:
        """A sentence for the reader."""

    def begin(self, title: str, total: int) -> None:
        """A piece of work of `total` units starts."""

    def advance(self, done: int, **figures: float) -> None:
        """`done` units of the open piece of work are finished."""

    def end(self) -> None:
        """The open piece of work is finished or given up."""

    def epoch(self, row: EpochRow, epochs: int, best: bool) -> None:
        """An epoch of `epochs` is finished; `best` when its validation accuracy is the best so far."""
