"""`minidl pretrain`, and `minidl finetune` on what it leaves, from the command line."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest

from minidl import weights
from minidl.cli.main import main
from tests.minidl.cli.test_errors import fails

Capture = pytest.CaptureFixture[str]

MODEL = ["--model", "conv_autoencoder", "--model-option", "channels=[3,4]"]
QUICK = ["--epochs", "2", "--batch-size", "8", "--workers", "0"]


@pytest.fixture(scope="module")
def pretrained(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("autoencoders") / "run"
    assert main(["pretrain", str(photos), *MODEL, "--out", str(out), *QUICK]) == 0
    return out


def test_a_folder_without_classes_is_learned_and_a_classifier_made_of_it(
    photos: Path, tmp_path: Path, capsys: Capture
) -> None:
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        for number, file in enumerate(sorted(photos.rglob("*.png"))):
            archive.write(file, f"{number}.png")
    out, run = str(tmp_path / "autoencoder"), str(tmp_path / "run")
    assert main(["pretrain", str(tmp_path / "images.zip"), *MODEL, "--out", out, *QUICK]) == 0
    text = capsys.readouterr().out
    assert "20 training and 2 validation images; labels are not used" in text
    assert "images of 3 x 20 x 24" in text and "mean squared error 0." in text
    assert f"finetune DATA --weights {out} --freeze encoder --out RUN" in text
    few = ["--freeze", "encoder", "--labels-per-class", "3", "--out", run, "--no-pictures"]
    assert main(["finetune", str(photos), "--weights", out, *few, *QUICK]) == 0
    text = capsys.readouterr().out
    assert "the encoder of conv_autoencoder, pretrained for" in text and "3 of each class" in text
    assert main(["finetune", str(photos), "--weights", out, *few, *QUICK, "--resume"]) == 0
    assert "this run is finished" in capsys.readouterr().out
    assert main(["evaluate", str(photos), "--checkpoint", run]) == 0
    assert main(["predict", str(photos / "val/red/000.png"), "--checkpoint", run]) == 0


def test_fixmatch_learns_from_a_folder_beside(
    photos: Path, pretrained: Path, tmp_path: Path, capsys: Capture
) -> None:
    out = tmp_path / "run"
    semi = ["--unlabelled", str(photos / "train"), "--semi", "fixmatch", "--semi-option", "ratio=2"]
    arguments = ["finetune", str(photos), "--weights", str(pretrained), *semi, "--out", str(out), *QUICK]
    assert main([*arguments, "--no-pictures"]) == 0
    assert f"fixmatch: 16 images without labels, {photos / 'train'}" in capsys.readouterr().out
    line = fails(capsys, 2, *arguments, "--semi-option", "threshold=0.5", "--resume")
    assert "argument --semi-option: the run in" in line


def test_an_interrupted_run_is_continued_with_its_own_settings(
    photos: Path, pretrained: Path, tmp_path: Path, capsys: Capture
) -> None:
    again = ["pretrain", str(photos), "--out", str(pretrained), "--resume"]
    assert main(again) == 0
    assert "this run is finished" in capsys.readouterr().out
    assert "--epochs: the run in" in fails(capsys, 2, *again, "--epochs", "3")
    assert "--input-size: the run in" in fails(capsys, 2, *again, "--input-size", "1,8,8")
    assert "add --resume" not in fails(capsys, 2, *again[:-1])


def test_the_size_of_the_images_can_be_chosen(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    size = ["--input-size", "1,9,11", "--no-pictures", "--epochs", "1"]
    assert main(["pretrain", str(photos), *MODEL, "--out", str(out), *size]) == 0
    assert weights.load(out / "last.safetensors")["encoder.0.weight"].shape == (3, 1, 3, 3)


WRONG_USE = {
    "no model": ([], "argument --model: is needed: dense_autoencoder, conv_autoencoder"),
    "a classifier": (["--model", "resnet20"], "resnet20 is a classifier, which needs labels"),
    "an unknown model": (["--model", "conv_autoencode"], "did you mean conv_autoencoder"),
    "an unknown option": ([*MODEL, "--model-option", "width=3"], "unknown option 'width'"),
    "an impossible size": ([*MODEL, "--input-size", "2,8,8"], "expected C,H,W with C 1 or 3, got '2,8,8'"),
    "half a size": ([*MODEL, "--input-size", "8,8"], "expected C,H,W"),
}


@pytest.mark.parametrize("case", WRONG_USE)
def test_wrong_use_of_pretrain_is_exit_code_two(
    case: str, photos: Path, tmp_path: Path, capsys: Capture
) -> None:
    arguments, expected = WRONG_USE[case]
    assert expected in fails(capsys, 2, "pretrain", photos, *arguments, "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists()


FEW_LABELS = {
    "an unknown method": (["--semi", "fixmash"], 2, "semi must be one of fixmatch, spread, cluster"),
    "unlabelled images without a method": (["--unlabelled", "DATA"], 2, "semi must be fixmatch or spread"),
    "a method without images": (["--semi", "spread"], 2, "give unlabelled or labels_per_class"),
    "an option of another method": (
        ["--semi", "spread", "--labels-per-class", "2", "--semi-option", "ratio=2"],
        2,
        "spread: unknown option 'ratio'",
    ),
    "too many labels": (["--labels-per-class", "9"], 1, "has 8 training images, fewer than the 9"),
    "all labels": (["--labels-per-class", "8", "--semi", "fixmatch"], 1, "no images to learn from"),
    "a folder of texts": (["--semi", "spread", "--unlabelled", "TEXTS"], 1, "no images here"),
    "a run that is not there": (["--weights", "ABSENT"], 1, "absent: no such weights file or run folder"),
    "weights that do not name their model": (["--weights", "PLAIN"], 2, "--model: is needed, "),
    "model options beside a run": (["--model-option", "channels=[4]"], 2, "knows its own model"),
}


@pytest.mark.parametrize("case", FEW_LABELS)
def test_mistakes_with_few_labels_are_one_line(
    case: str, photos: Path, pretrained: Path, tmp_path: Path, capsys: Capture
) -> None:
    arguments, code, expected = FEW_LABELS[case]
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("no image")
    plain = tmp_path / "plain.safetensors"
    weights.save({"a": np.zeros(2, np.float32)}, plain)
    places = {"DATA": photos, "TEXTS": plain.parent / "texts", "ABSENT": tmp_path / "absent", "PLAIN": plain}
    given = [str(places.get(a, a)) for a in arguments]
    common = ["--weights", pretrained, "--out", tmp_path / "run"]
    assert expected in fails(capsys, code, "finetune", photos, *common, *given)
    assert not (tmp_path / "run").exists()


def test_autoencoders_are_listed_and_summarised(capsys: Capture) -> None:
    assert main(["models", "autoencoder"]) == 0
    assert "variational_autoencoder" in capsys.readouterr().out
    assert main(["summary", "conv_autoencoder", "--input-size", "1,9,7"]) == 0
    assert "conv_autoencoder on an input of 1 x 1 x 9 x 7" in capsys.readouterr().out
    assert main(["summary", "conv_encoder", "--input-size", "1,9,7", "--num-classes", "4"]) == 0
    assert "1 x 4" in capsys.readouterr().out
    assert "has no classes" in fails(capsys, 2, "summary", "conv_autoencoder", "--num-classes", "2")


def test_an_autoencoder_is_not_evaluated_as_a_classifier(
    pretrained: Path, photos: Path, capsys: Capture
) -> None:
    assert "knows no classes; 'minidl finetune DATA" in fails(
        capsys, 1, "evaluate", photos, "--checkpoint", pretrained
    )
