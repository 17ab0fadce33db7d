"""What is shown on a terminal and elsewhere."""

from __future__ import annotations

import signal
from pathlib import Path

import numpy as np
import pytest

from minidl.cli import console, interrupt
from minidl.kernels.cpu import cache
from minidl.training import EpochRow, Reporter, score

ROW = EpochRow(3, 0.01, 0.5, 0.75, 0.6, 0.7, 12.34)


def show(reporter: object) -> None:
    """One of everything."""
    assert isinstance(reporter, console.Reporter)
    reporter.log("a [bracket] stays")
    reporter.begin("epoch 3/10", 4)
    reporter.advance(2, loss=0.5, accuracy=0.75)
    reporter.end()
    reporter.epoch(ROW, 10, True)


@pytest.mark.parametrize("kind", ["PlainReporter", "RichReporter"])
def test_sentences_and_epochs_are_lines_of_text(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    if kind == "RichReporter":
        pytest.importorskip("rich")
    show(getattr(console, kind)())
    text = capsys.readouterr().out
    assert "a [bracket] stays\n" in text
    line = next(line for line in text.splitlines() if line.startswith("epoch  3/10  train loss 0.5000"))
    assert line.endswith("validation loss 0.6000  accuracy  70.0 %  lr 0.01  12.3 s  best")


def test_no_bars_are_drawn_where_there_is_no_terminal() -> None:
    assert isinstance(console.make_reporter(), console.PlainReporter)


def test_bars_are_drawn_on_a_terminal_when_rich_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("rich")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert isinstance(console.make_reporter(), console.RichReporter)
    monkeypatch.setitem(__import__("sys").modules, "rich.console", None)
    assert isinstance(console.make_reporter(), console.PlainReporter)


def test_a_run_that_has_to_compile_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []

    class Listener(Reporter):
        def log(self, text: str) -> None:
            said.append(text)

    for kept in (tmp_path, None):
        monkeypatch.setattr(cache, "folder", lambda kept=kept: kept)
        console.say_compiling(Listener())
    assert ["the first run waits" in said[0], "every run compiles" in said[1]] == [True, True]
    (tmp_path / "kernel.nbi").touch()
    monkeypatch.setattr(cache, "folder", lambda: tmp_path)
    console.say_compiling(Listener())
    assert len(said) == 2


def test_epochs_of_milliseconds_do_not_flood_the_screen(capsys: pytest.CaptureFixture[str]) -> None:
    reporter = console.PlainReporter()
    for epoch in range(1, 101):
        reporter.epoch(EpochRow(epoch, 0.01, 0.5, 0.75, None, None, 0.004), 100, False)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 11
    assert "validation" not in lines[0] and lines[-1].endswith("4 ms")


def test_long_work_says_how_far_it_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(0, 1000, 6))
    monkeypatch.setattr(console.time, "monotonic", lambda: next(clock))
    reporter = console.PlainReporter()
    reporter.begin("features", 9)
    for done in range(1, 10):
        reporter.advance(done)
    lines = capsys.readouterr().out.splitlines()
    assert lines and all(line.startswith("features: ") and line.endswith("/9") for line in lines)


def test_the_confusion_matrix_is_printed_for_a_few_classes_only() -> None:
    few = console.evaluation_text(score(np.eye(3), np.arange(3), ["a", "b", "c"]))
    assert "confusion matrix" in few and "100.00 % (3 of 3 images)" in few
    many = console.evaluation_text(score(np.eye(30), np.arange(30), [f"c{i}" for i in range(30)]))
    assert "confusion matrix" not in many and "top-5" in many


def test_a_table_aligns_its_columns() -> None:
    text = console.table(["name", "n"], [["a", "1"], ["longer", "100"]])
    assert text.splitlines() == ["name      n", "------  ---", "a         1", "longer  100"]


def test_of_very_many_classes_the_weakest_are_shown() -> None:
    logits = np.eye(60)
    logits[7] = logits[8]
    text = console.evaluation_text(
        score(logits, np.arange(60), [f"c{i}" for i in range(60)]), largest_table=40
    )
    assert "the ten weakest classes" in text and "c7 " in text and "c59" not in text


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_ctrl_c_that_a_destructor_swallows_stops_the_next_step() -> None:
    class Busy:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGINT)

    reporter = console.PlainReporter()
    reporter.begin("work", 3)
    with interrupt.remembered():
        reporter.advance(1)
        Busy()
        with pytest.raises(KeyboardInterrupt):
            reporter.advance(2)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with interrupt.remembered():
        reporter.advance(3)
