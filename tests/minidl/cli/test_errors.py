"""Mistakes of a new user: one line that names the file or argument, the right exit code, nothing half-written."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from minidl import weights
from minidl.cli.main import main
from tests.minidl.training.tiny import MODEL_ARGUMENTS, write_photos

Capture = pytest.CaptureFixture[str]


def fails(capsys: Capture, code: int, *arguments: object) -> str:
    """Run a command that must fail with `code` and one line on standard error; returns the line."""
    assert main([str(a) for a in arguments]) == code
    line = capsys.readouterr().err
    assert line.startswith("minidl: error: ")
    assert line.count("\n") == 1 and line.endswith("\n")
    return line


WRONG_USE = {
    "a misspelt command": (["finetun", "x"], "did you mean 'finetune'?"),
    "an unknown command": (["sing"], "the commands are quickstart, finetune"),
    "a misspelt option": (["finetune", "x", "--modle", "resnet20", "--out", "y"], "did you mean --model?"),
    "a missing option": (["finetune", "x", "--model", "resnet20"], "--out"),
    "a missing model": (["finetune", "DATA", "--out", "OUT"], "argument --model"),
    "a number that is none": (["finetune", "x", "--out", "y", "--epochs", "ten"], "argument --epochs"),
    "a number out of range": (["finetune", "x", "--out", "y", "--lr", "-1"], "argument --lr"),
    "bfloat16 layer by layer": (
        ["predict", "x", "--checkpoint", "y", "--no-fuse", "--dtype", "bfloat16"],
        "needs the fused network",
    ),
    "an unknown optimizer": (
        ["finetune", "x", "--model", "m", "--out", "OUT", "--optimizer", "sdg"],
        "optimizer",
    ),
    "an unknown freeze mode": (
        ["finetune", "x", "--model", "m", "--out", "OUT", "--freeze", "head"],
        "freeze must be",
    ),
    "another device": (["predict", "x", "--checkpoint", "y", "--device", "mps"], "'mps' is not available"),
    "no model to evaluate": (["evaluate", "x"], "--checkpoint RUN, or --model NAME"),
    "a split that there is not": (
        ["evaluate", "x", "--checkpoint", "y", "--split", "test"],
        "must be val, train or all",
    ),
    "an unknown model": (["summary", "resnet21"], "did you mean"),
    "an unknown model option": (["summary", "resnet20", "--model-option", "width=3"], "widths"),
    "a model option without a value": (["summary", "resnet20", "--model-option", "widths"], "NAME=VALUE"),
}


@pytest.mark.parametrize("case", WRONG_USE)
def test_wrong_use_is_exit_code_two(case: str, photos: Path, tmp_path: Path, capsys: Capture) -> None:
    arguments, expected = WRONG_USE[case]
    places = {"DATA": str(photos), "OUT": str(tmp_path / "run")}
    assert expected in fails(capsys, 2, *(places.get(a, a) for a in arguments))
    assert not (tmp_path / "run").exists()


def train(photos: Path, out: Path, *more: object) -> list[object]:
    return ["finetune", photos, *MODEL_ARGUMENTS, "--epochs", 1, "--batch-size", 4, "--out", out, *more]


def test_a_folder_that_holds_a_run_or_anything_else_is_not_overwritten(
    run: Path, photos: Path, tmp_path: Path, capsys: Capture
) -> None:
    before = {p: p.stat().st_mtime_ns for p in run.iterdir()}
    assert "holds a finished run" in fails(capsys, 2, *train(photos, run))
    assert before == {p: p.stat().st_mtime_ns for p in run.iterdir()}
    (tmp_path / "notes.txt").write_text("mine")
    assert "is not the folder of a run" in fails(capsys, 2, *train(photos, tmp_path))
    assert "is not the folder of a run" in fails(capsys, 2, *train(photos, tmp_path / "notes.txt"))


def test_bad_data_is_named(tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "run"
    missing = tmp_path / "nowhere"
    assert str(missing) in fails(capsys, 1, *train(missing, out))
    empty = tmp_path / "empty"
    empty.mkdir()
    assert str(empty) in fails(capsys, 1, *train(empty, out))
    photos = write_photos(tmp_path / "photos", train=2, val=1)
    hollow = photos / "train/green"
    hollow.mkdir()
    assert str(hollow) in fails(capsys, 1, *train(photos, out))
    single = write_photos(tmp_path / "single", train=2, val=1, classes=("only",))
    assert "one class" in fails(capsys, 1, *train(single, out))
    text = tmp_path / "data.txt"
    text.write_text("photos")
    assert str(text) in fails(capsys, 1, *train(text, out))
    assert not out.exists()


def test_a_damaged_photo_is_named_and_the_run_can_be_resumed(tmp_path: Path, capsys: Capture) -> None:
    photos = write_photos(tmp_path / "photos", train=3, val=1)
    damaged = photos / "train/red/001.png"
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[: len(whole) // 2])
    assert str(damaged) in fails(capsys, 1, *train(photos, tmp_path / "run"))
    damaged.write_bytes(whole)
    assert main([str(a) for a in train(photos, tmp_path / "run", "--resume")]) == 0


@pytest.mark.skipif(
    not hasattr(os, "getuid") or os.getuid() == 0, reason="the administrator may read every file"
)
def test_an_unreadable_file_is_named(tmp_path: Path, capsys: Capture) -> None:
    file = tmp_path / "weights.pth"
    file.write_bytes(b"x")
    file.chmod(0)
    assert str(file) in fails(capsys, 1, "convert", file, tmp_path / "out.safetensors")


class Hostile:
    """A pickle of this calls a function when it is loaded by an unsafe reader."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return self.call


@pytest.mark.parametrize(("function", "name"), [(os.system, "system"), (eval, "eval"), (getattr, "getattr")])
def test_a_pickle_that_calls_a_function_is_refused_by_name(
    function: object, name: str, photos: Path, tmp_path: Path, capsys: Capture
) -> None:
    canary = tmp_path / "canary"
    file = tmp_path / "weights.pth"
    command = f"open({str(canary)!r}, 'w')" if name == "eval" else f"echo > {canary}"
    file.write_bytes(pickle.dumps({"state_dict": Hostile(function, command)}, protocol=2))
    line = fails(capsys, 1, *train(photos, tmp_path / "run", "--weights", file))
    assert str(file) in line and name in line
    assert not canary.exists() and not (tmp_path / "run").exists()


def test_weights_of_another_model_are_told_in_one_line(
    run: Path, photos: Path, tmp_path: Path, capsys: Capture
) -> None:
    out = tmp_path / "run"
    file = run / "best.safetensors"
    arguments = ["finetune", photos, "--model", "resnet18", "--weights", file, "--out", out]
    line = fails(capsys, 1, *arguments)
    assert str(file) in line and "does not fit resnet18" in line and "tensors missing" in line
    assert len(line) < 1000
    assert not out.exists()


def test_damaged_weights_are_named(run: Path, photos: Path, tmp_path: Path, capsys: Capture) -> None:
    file = tmp_path / "cut.safetensors"
    file.write_bytes((run / "best.safetensors").read_bytes()[:-10])
    assert str(file) in fails(capsys, 1, *train(photos, tmp_path / "run", "--weights", file))
    assert str(file) in fails(capsys, 1, "predict", photos / "val/red/000.png", "--checkpoint", file)
    bare = tmp_path / "bare.safetensors"
    weights.save(weights.load(run / "best.safetensors"), bare)
    assert "no description of their model" in fails(capsys, 1, "predict", "x.png", "--checkpoint", bare)


def test_other_classes_than_the_checkpoint_has_are_told(run: Path, tmp_path: Path, capsys: Capture) -> None:
    other = write_photos(tmp_path / "other", train=2, val=1, classes=("ants", "bees"))
    assert "ants, bees" in fails(capsys, 1, "evaluate", other, "--checkpoint", run)
    three = write_photos(tmp_path / "three", train=2, val=1, classes=("a", "b", "c"))
    line = fails(capsys, 1, "evaluate", three, *MODEL_ARGUMENTS, "--weights", run / "best.safetensors")
    assert "has 3 classes, the weights have 2" in line


def test_a_loss_that_is_not_finite_stops_the_run_and_says_where(
    photos: Path, tmp_path: Path, capsys: Capture
) -> None:
    line = fails(capsys, 1, *train(photos, tmp_path / "run", "--lr", "1e30", "--warmup", 0))
    assert "training stopped" in line and "epoch 1, step" in line and "learning rate" in line
    assert not list((tmp_path / "run").glob("*.tmp")) and not (tmp_path / "run/last.safetensors").exists()


def test_a_traceback_is_shown_on_demand_only(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINIDL_DEBUG", "1")
    assert main(["convert", str(tmp_path / "no.pth"), str(tmp_path / "out.pth")]) == 1
    text = capsys.readouterr().err
    assert "Traceback" in text and text.splitlines()[-1].startswith("minidl: error: ")


def test_a_reader_that_went_away_is_no_reason_for_a_traceback() -> None:
    code = "import sys, minidl.cli.main as m; sys.exit(m.main(['models']))"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(60) == 1


def test_a_picture_among_the_weights_is_told_apart(photos: Path, tmp_path: Path, capsys: Capture) -> None:
    file = tmp_path / "weights.pth"
    Image.new("RGB", (8, 8)).save(file, "JPEG")
    assert "is a JPEG image" in fails(capsys, 1, "convert", file, tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


MISTAKES_OF_TRAINING = {
    "an unknown model": (["--model", "resnet21"], "unknown model 'resnet21'"),
    "an unknown option of the model": (["--model", "resnet20", "--model-option", "foo=1"], "unknown option"),
    "an unknown layer": ([*MODEL_ARGUMENTS, "--freeze", "until:layer9"], "no part 'layer9'"),
    "a wrong preprocessing": ([*MODEL_ARGUMENTS, "--preprocess", "mean=3"], "mean must be"),
}


@pytest.mark.parametrize("case", MISTAKES_OF_TRAINING)
def test_a_wrong_setting_of_the_network_is_wrong_use(
    case: str, photos: Path, tmp_path: Path, capsys: Capture
) -> None:
    arguments, expected = MISTAKES_OF_TRAINING[case]
    assert expected in fails(capsys, 2, "finetune", photos, "--out", tmp_path / "run", *arguments)
    assert not (tmp_path / "run").exists()


def test_a_run_that_fails_before_it_saved_anything_leaves_nothing(tmp_path: Path, capsys: Capture) -> None:
    photos = write_photos(tmp_path / "photos", train=3, val=1)
    (photos / "train/red/001.png").write_bytes(b"")
    fails(capsys, 1, *train(photos, tmp_path / "runs/new/run"))
    assert not (tmp_path / "runs").exists()


def test_a_folder_that_cannot_be_made_is_named(photos: Path, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "file").write_text("")
    line = fails(capsys, 1, *train(photos, tmp_path / "file/run"))
    assert f"{tmp_path / 'file/run'}: the folder cannot be made" in line


def test_names_with_line_ends_and_formulas_are_shown_and_drawn(tmp_path: Path, capsys: Capture) -> None:
    names = ("5$ \x1b[31mred", "and\n\\frac{ 6$", "日本")
    try:
        photos = write_photos(tmp_path / "photos", train=3, val=1, classes=names)
    except OSError:
        pytest.skip("this file system has no such names")
    assert main([str(a) for a in train(photos, tmp_path / "run")]) == 0
    path = str(photos / "val" / names[1] / "000.png")
    assert main(["predict", path, "--checkpoint", str(tmp_path / "run"), "--top", "3"]) == 0
    shown = capsys.readouterr().out
    assert "\x1b" not in shown and r"and\n\\frac" not in shown and r"and\n\frac" in shown
    assert (tmp_path / "run/predictions.png").exists()


def test_weights_are_not_taken_for_a_checkpoint(
    run: Path, photos: Path, tmp_path: Path, capsys: Capture
) -> None:
    assert main(["convert", str(run / "best.safetensors"), str(tmp_path / "w.pth")]) == 0
    line = fails(capsys, 1, "evaluate", photos, "--checkpoint", tmp_path / "w.pth")
    assert "--model NAME --weights" in line
    (tmp_path / "run").mkdir()
    (tmp_path / "run/resume.safetensors").write_bytes(b"")
    assert "continue it with --resume" in fails(
        capsys, 1, "predict", "x.png", "--checkpoint", tmp_path / "run"
    )


def test_evaluate_asks_for_weights_and_for_a_folder_that_exists(
    run: Path, photos: Path, tmp_path: Path, capsys: Capture
) -> None:
    assert "argument --weights" in fails(capsys, 2, "evaluate", photos, *MODEL_ARGUMENTS)
    picture = tmp_path / "no/confusion.png"
    arguments = ["evaluate", photos, "--checkpoint", run, "--confusion-picture", picture]
    assert "argument --confusion-picture" in fails(capsys, 2, *arguments)


@pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX shell")
def test_closed_streams_are_no_reason_for_a_traceback() -> None:
    command = f"exec '{sys.executable}' -m minidl --version >&-"
    done = subprocess.run(["sh", "-c", command], stderr=subprocess.PIPE, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")
