"""`minidl adapt` on a tiny data set: what it prints, what it leaves, and what it says to mistakes."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from minidl.cli.main import main
from minidl.training import load_checkpoint
from tests.minidl.cli.test_errors import fails
from tests.minidl.training.tiny import write_photos

Capture = pytest.CaptureFixture[str]
SHORT = [
    "--epochs",
    "1",
    "--steps-per-epoch",
    "2",
    "--batch-size",
    "4",
    "--source-batch-size",
    "4",
    "--no-pictures",
]


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photos(tmp_path_factory.mktemp("other"), train=6, val=4)


def test_an_adaptation_reports_both_domains_before_and_after(
    photos: Path, other: Path, run: Path, tmp_path: Path, capsys: Capture
) -> None:
    out = tmp_path / "run"
    places = [str(photos), str(other), "--weights", str(run), "--out", str(out)]
    assert main(["adapt", *places, "--method", "dann", "--self-training", *SHORT]) == 0
    text = capsys.readouterr().out
    assert "its labels are used for the report only" in text
    for row in ("source accuracy", "target accuracy", "distance of the domains, mmd", "blue", "red"):
        assert row in text
    assert (out / "report.json").exists()
    assert main(["adapt", *places, "--resume"]) == 0
    assert "this run is finished" in capsys.readouterr().out
    assert main(["evaluate", str(other), "--checkpoint", str(out)]) == 0


def test_a_folder_of_files_is_adapted_to_without_a_score(
    photos: Path, run: Path, tmp_path: Path, capsys: Capture
) -> None:
    for i in range(6):
        Image.new("RGB", (20, 20 + i), (i, 200, 0)).save(tmp_path / f"{i}.png")
    places = [str(photos), str(tmp_path), "--weights", str(run), "--out", str(tmp_path / "run")]
    assert main(["adapt", *places, "--method", "adabn", "--prior", "50", *SHORT]) == 0
    text = capsys.readouterr().out
    assert "target accuracy" not in text and "images given to it before" in text
    assert "images are few for statistics" in text


def test_a_continued_run_knows_both_names_of_a_frozen_trunk(
    photos: Path, run: Path, tmp_path: Path, capsys: Capture
) -> None:
    places = [str(photos), str(photos), "--weights", str(run), "--out", str(tmp_path / "run")]
    given = ["--freeze", "encoder", "--preprocess", "scale=0.5", *SHORT]
    assert main(["adapt", *places, *given]) == 0
    prepared, expected = (load_checkpoint(place).preprocessing for place in (tmp_path / "run", run))
    assert prepared == {**expected, "scale": 0.5}  # a single field; the others are those of the weights
    capsys.readouterr()
    assert main(["adapt", *places, *given, "--resume"]) == 0
    assert "this run is finished" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("code", "arguments", "expected"),
    [
        (2, ["--method", "corall"], "method must be one of source, finetune, adabn, coral"),
        (2, ["--embedding", "umap"], "argument --embedding: must be pca or tsne"),
        (2, ["--threshold", "2"], "argument --threshold"),
        (2, ["--method", "coral", "--labels-per-class", "3"], "labels_per_class is for the method finetune"),
        (2, ["--freeze", "until:layer9"], "has no part 'layer9'"),
        (1, ["--method", "finetune", "--labels-per-class", "99"], "fewer than 99"),
    ],
)
def test_mistakes_are_one_line(
    photos: Path,
    other: Path,
    run: Path,
    tmp_path: Path,
    capsys: Capture,
    code: int,
    arguments: list[str],
    expected: str,
) -> None:
    places = [photos, other, "--weights", run, "--out", tmp_path / "run"]
    assert expected in fails(capsys, code, "adapt", *places, *arguments)
    assert not (tmp_path / "run").exists()


def test_weights_are_needed_and_must_know_the_classes(
    photos: Path, run: Path, tmp_path: Path, capsys: Capture
) -> None:
    assert "argument --weights: is needed" in fails(
        capsys, 2, "adapt", photos, photos, "--out", tmp_path / "run"
    )
    three = write_photos(tmp_path / "three", train=3, val=1, classes=("a", "b", "c"))
    line = fails(capsys, 1, "adapt", three, three, "--weights", run, "--out", tmp_path / "run")
    assert "has 2 classes, the source has 3; train it on the source first" in line
    line = fails(capsys, 1, "adapt", photos, three, "--weights", run, "--out", tmp_path / "run")
    assert "has 3 classes that" in line and "a, b, c" in line
