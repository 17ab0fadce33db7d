"""What the commands show: progress bars and tables through rich on a terminal, plain lines everywhere else."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Sequence
from typing import Any

from minidl.cli import interrupt
from minidl.training.metrics import Evaluation
from minidl.training.reporting import EpochRow, Reporter, printable


def make_reporter() -> Reporter:
    """Progress bars when standard output is a terminal and rich is installed, else plain lines."""
    if sys.stdout.isatty():
        with contextlib.suppress(ImportError):
            return RichReporter()
    return PlainReporter()


def say_compiling(reporter: Reporter) -> None:
    """Say why a run on the processor waits at first, where no compiled kernels are kept yet."""
    from minidl.kernels.cpu import cache

    kept = cache.folder()
    if kept is None:
        reporter.log(
            "no folder can be written to keep compiled kernels in: every run compiles them (MINIDL_CACHE_DIR)"
        )
    elif not any(kept.iterdir()):
        reporter.log(
            "the kernels are compiled for this machine as they are first needed: the first run waits"
        )


def epoch_line(row: EpochRow, epochs: int, best: bool) -> str:
    """One epoch as a line of text."""
    parts = [f"epoch {row.epoch:>{len(str(epochs))}}/{epochs}", f"train loss {row.train_loss:.4f}"]
    if row.train_accuracy is not None:
        parts.append(f"accuracy {100 * row.train_accuracy:5.1f} %")
    if row.val_loss is not None:
        parts.append(f"validation loss {row.val_loss:.4f}")
    if row.val_accuracy is not None:
        parts.append(f"accuracy {100 * row.val_accuracy:5.1f} %")
    parts.append(f"lr {row.lr:.2g}")
    parts.append(f"{row.seconds:.1f} s" if row.seconds >= 0.05 else f"{1000 * row.seconds:.0f} ms")
    return "  ".join(parts) + ("  best" if best and row.val_loss is not None else "")


def quoted(text: str) -> str:
    """`text` as one word of a shell command."""
    import shlex

    return shlex.quote(text) if sys.platform != "win32" else f'"{text}"' if " " in text else text


def program() -> str:
    """How this command can be called again from the same shell."""
    import os
    import shutil

    called = sys.argv[0]
    if os.path.basename(called).startswith("minidl") and os.path.exists(called):
        found = shutil.which("minidl")
        same = found is not None and os.path.realpath(found) == os.path.realpath(called)
        return "minidl" if same else quoted(called)
    return f"{quoted(sys.executable)} -m minidl"


class PlainReporter(Reporter):
    """One line per sentence and epoch; long pieces of work say every 10 seconds how far they are."""

    def __init__(self) -> None:
        self._title, self._total, self._told = "", 0, 0.0
        self._quick = _Thinned()

    def log(self, text: str) -> None:
        print(text, flush=True)

    def begin(self, title: str, total: int) -> None:
        self._title, self._total, self._told = title, total, time.monotonic()

    def advance(self, done: int, **figures: float) -> None:
        interrupt.check()
        if time.monotonic() - self._told > 10 and done < self._total:
            self._told = time.monotonic()
            print(f"{self._title}: {done}/{self._total}{_figures(figures)}", flush=True)

    def epoch(self, row: EpochRow, epochs: int, best: bool) -> None:
        if self._quick.due(row, epochs):
            print(epoch_line(row, epochs, best), flush=True)


class RichReporter(Reporter):
    """Progress bars on a terminal. Raises ImportError when rich is not installed."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._console = Console(highlight=False)
        self._columns: tuple[Any, ...] = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}"),
        )
        self._progress_type = Progress
        self._progress: Any = None
        self._task: Any = None
        self._quick = _Thinned()

    def log(self, text: str) -> None:
        self._console.print(text, markup=False, soft_wrap=True)

    def begin(self, title: str, total: int) -> None:
        self.end()
        self._progress = self._progress_type(*self._columns, console=self._console, transient=True)
        self._task = self._progress.add_task(title, total=total, figures="")
        self._progress.start()

    def advance(self, done: int, **figures: float) -> None:
        interrupt.check()
        if self._progress is not None:
            self._progress.update(self._task, completed=done, figures=_figures(figures).lstrip(", "))

    def end(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def epoch(self, row: EpochRow, epochs: int, best: bool) -> None:
        if self._quick.due(row, epochs):
            self.log(epoch_line(row, epochs, best))


class _Thinned:
    """Which epochs to show: all that take a while, a tenth of those so short that they would flood the
    screen.
    """

    def due(self, row: EpochRow, epochs: int) -> bool:
        return row.seconds > 0.25 or row.epoch in (1, epochs) or row.epoch % max(1, epochs // 10) == 0


def _figures(figures: dict[str, float]) -> str:
    shown = (
        f"{100 * v:.1f} % right" if name == "accuracy" else f"{name} {v:.4g}" for name, v in figures.items()
    )
    return "".join(f", {part}" for part in shown)


def table(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """A table in plain text; the first `left` columns are flush left, the others flush right."""
    widths = [max(len(line[i]) for line in (header, *rows)) for i in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        padded = (
            c.ljust(w) if i < left else c.rjust(w) for i, (c, w) in enumerate(zip(cells, widths, strict=True))
        )
        return "  ".join(padded).rstrip()

    return "\n".join([line(header), "  ".join("-" * w for w in widths), *(line(row) for row in rows)])


def evaluation_text(
    evaluation: Evaluation, largest_confusion: int = 20, largest_table: int | None = None
) -> str:
    """The figures of an evaluation as text; the confusion matrix only up to `largest_confusion` classes, and
    of more than `largest_table` classes only the ten with the lowest F1.
    """
    e = evaluation
    scores, title = e.per_class(), "class"
    if largest_table is not None and len(scores) > largest_table:
        scores, title = sorted(scores, key=lambda s: s.f1)[:10], "the ten weakest classes"
    lines = [f"accuracy {100 * e.accuracy:.2f} % ({e.correct} of {e.total:,} images)"]
    if e.top5 is not None:
        lines[0] += f", top-5 {100 * e.top5:.2f} %"
    lines[0] += f", loss {e.loss:.4f}"
    rows = [
        [printable(s.name), f"{s.precision:.3f}", f"{s.recall:.3f}", f"{s.f1:.3f}", str(s.support)]
        for s in scores
    ]
    lines += ["", table([title, "precision", "recall", "F1", "images"], rows)]
    if len(e.classes) <= largest_confusion:
        names = [printable(name)[:14] for name in e.classes]
        body = [[name, *map(str, counts)] for name, counts in zip(names, e.confusion.tolist(), strict=True)]
        short = [name[:6] for name in names]
        lines += [
            "",
            "confusion matrix (row: true class, column: predicted class)",
            table(["", *short], body),
        ]
    return "\n".join(lines)
