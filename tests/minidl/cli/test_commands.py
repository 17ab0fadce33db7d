"""The commands on a tiny data set, from training to prediction."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import minidl
from minidl import weights
from minidl.cli.main import COMMANDS, main
from tests.minidl.training.tiny import MODEL_ARGUMENTS, write_photos

Capture = pytest.CaptureFixture[str]


def test_help_is_printed_without_loading_a_compiler_or_an_image_library() -> None:
    code = (
        "import sys; from minidl.cli.main import main\n"
        "try: main(['--help'])\n"
        "except SystemExit as stop: assert not stop.code\n"
        "heavy = {'numba', 'PIL', 'matplotlib', 'rich'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert all(f"    {name} " in done.stdout for name in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_with_an_example(command: str, capsys: Capture) -> None:
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    text = capsys.readouterr().out
    assert not stop.value.code
    assert "example" in text and f"minidl {command}" in text


def test_the_version_is_printed(capsys: Capture) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"minidl {minidl.__version__}\n"


def test_no_command_prints_the_help_and_is_wrong_use(capsys: Capture) -> None:
    assert main([]) == 2
    assert "usage: minidl" in capsys.readouterr().out


def test_a_run_folder_holds_checkpoints_metrics_and_pictures(run: Path) -> None:
    names = {p.name for p in run.iterdir()}
    expected = {
        "best.safetensors",
        "best.json",
        "last.safetensors",
        "last.json",
        "metrics.csv",
        "predictions.png",
    }
    assert expected <= names
    assert names - expected <= {"curves.png", "confusion.png"}  # these need matplotlib
    document = json.loads((run / "last.json").read_text())
    assert document["classes"] == ["blue", "red"]
    assert document["model"] == "resnet20"
    assert document["options"]["widths"] == [4, 8, 8]
    assert document["preprocessing"]["input_size"] == [3, 32, 32]
    assert document["settings"]["epochs"] == 2
    assert document["epoch"] == 2
    assert set(document["versions"]) >= {"minidl", "numpy", "numba", "python"}
    with Image.open(run / "predictions.png") as picture:
        assert picture.width > 300


def test_a_checkpoint_is_one_file_that_can_be_moved(
    run: Path, photos: Path, tmp_path: Path, capsys: Capture
) -> None:
    moved = tmp_path / "classifier.safetensors"
    moved.write_bytes((run / "best.safetensors").read_bytes())
    assert main(["predict", str(photos / "val/red/000.png"), "--checkpoint", str(moved)]) == 0
    assert capsys.readouterr().out.rstrip().endswith("%")


def test_evaluate_prints_the_figures(run: Path, photos: Path, capsys: Capture) -> None:
    assert main(["evaluate", str(photos), "--checkpoint", str(run)]) == 0
    text = capsys.readouterr().out
    for word in ("accuracy", "of 6 images", "precision", "recall", "F1", "confusion matrix"):
        assert word in text


def test_evaluate_prints_one_json_object(run: Path, photos: Path, capsys: Capture) -> None:
    assert main(["evaluate", str(photos), "--checkpoint", str(run), "--split", "train", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["images"] == 16
    assert figures["correct"] == np.trace(figures["confusion"])
    assert figures["accuracy"] == figures["correct"] / 16
    assert figures["top5"] is None
    assert [c["name"] for c in figures["classes"]] == ["blue", "red"]


def test_evaluate_a_model_with_a_weights_file_agrees_with_the_checkpoint(
    run: Path, photos: Path, capsys: Capture
) -> None:
    assert main(["evaluate", str(photos), "--checkpoint", str(run), "--json"]) == 0
    expected = json.loads(capsys.readouterr().out)
    file = str(run / "best.safetensors")
    assert main(["evaluate", str(photos), *MODEL_ARGUMENTS, "--weights", file, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == expected


def test_predict_names_the_most_probable_classes(run: Path, photos: Path, capsys: Capture) -> None:
    images = [str(photos / "val/red/000.png"), str(photos / "val/blue/001.png")]
    assert main(["predict", *images, "--checkpoint", str(run), "--top", "2", "--json"]) == 0
    results = json.loads(capsys.readouterr().out)
    assert [r["image"] for r in results] == images
    for result in results:
        shares = [c["probability"] for c in result["classes"]]
        assert len(shares) == 2 and shares[0] >= shares[1]
        assert sum(shares) == pytest.approx(1.0)
    assert main(["predict", images[0], "--checkpoint", str(run)]) == 0
    best = results[0]["classes"][0]
    assert capsys.readouterr().out == f"{images[0]}: {best['name']} {100 * best['probability']:.1f} %\n"


def test_predict_goes_on_after_an_image_that_cannot_be_read(
    run: Path, photos: Path, tmp_path: Path, capsys: Capture
) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8\xff\xe0 not much of a photo")
    good = str(photos / "val/red/000.png")
    assert main(["predict", str(broken), good, "--checkpoint", str(run)]) == 1
    out, err = capsys.readouterr()
    assert out.startswith(good)
    assert err.startswith("minidl: error: ") and "broken.jpg" in err and err.count("\n") == 1


def test_convert_there_and_back_keeps_every_bit(run: Path, tmp_path: Path, capsys: Capture) -> None:
    first, second = tmp_path / "a.pth", tmp_path / "b.safetensors"
    assert main(["convert", str(run / "best.safetensors"), str(first)]) == 0
    assert main(["convert", str(first), str(second)]) == 0
    before, after = weights.load(run / "best.safetensors"), weights.load(second)
    assert before.keys() == after.keys()
    assert all(a.tobytes() == after[name].tobytes() for name, a in before.items())
    assert main(["convert", str(first), str(second)]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert main(["convert", str(first), str(second), "--overwrite"]) == 0
    assert main(["convert", str(first), str(tmp_path / "c.onnx")]) == 2


def test_summary_counts_the_parameters(capsys: Capture) -> None:
    assert main(["summary", "resnet20"]) == 0
    assert "269,722" in capsys.readouterr().out
    assert main(["summary", "resnet20", "--input-size", "1,16,16", "--num-classes", "3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["input_shape"] == [1, 1, 16, 16]
    assert main(["summary", "resnet20", "--input-size", "32"]) == 2


def test_models_lists_names(capsys: Capture) -> None:
    assert main(["models"]) == 0
    assert {"resnet18", "resnet50", "resnet20"} <= {
        line.split()[0] for line in capsys.readouterr().out.splitlines()
    }
    assert main(["models", "resnet5", "--json"]) == 0
    assert all("resnet5" in entry["name"] for entry in json.loads(capsys.readouterr().out))


def test_the_log_says_when_the_classifier_is_replaced_or_kept(
    run: Path, photos: Path, tmp_path: Path, capsys: Capture
) -> None:
    three = write_photos(tmp_path / "three", train=2, val=1, classes=("blue", "green", "red"))
    start = [
        *MODEL_ARGUMENTS,
        "--weights",
        str(run / "best.safetensors"),
        "--epochs",
        "1",
        "--batch-size",
        "4",
    ]
    assert main(["finetune", str(three), *start, "--out", str(tmp_path / "a")]) == 0
    assert (
        "classifier 'linear': the weights have 2 classes, the data 3: replaced by a new one"
        in capsys.readouterr().out
    )
    assert main(["finetune", str(photos), *start, "--out", str(tmp_path / "b")]) == 0
    assert "classifier 'linear': kept" in capsys.readouterr().out
    assert main(["finetune", str(photos), *start, "--out", str(tmp_path / "c"), "--new-classifier"]) == 0
    assert "replaced by a new one, as asked for" in capsys.readouterr().out


def test_a_frozen_trunk_leaves_all_weights_but_the_classifier(
    run: Path, photos: Path, tmp_path: Path
) -> None:
    start = [*MODEL_ARGUMENTS, "--weights", str(run / "best.safetensors"), "--batch-size", "4"]
    options = {"trunk": "--epochs 3", "bn": "--epochs 1", "until:layer2": "--epochs 1"}
    before = weights.load(run / "best.safetensors")
    changed = {}
    for freeze, more in options.items():
        out = tmp_path / freeze.replace(":", "-")
        assert (
            main(["finetune", str(photos), *start, "--freeze", freeze, *more.split(), "--out", str(out)]) == 0
        )
        after = weights.load(out / "last.safetensors")
        changed[freeze] = {name for name in after if after[name].tobytes() != before[name].tobytes()}
    assert changed["trunk"] == {"linear.weight", "linear.bias"}
    assert changed["bn"] == {name for name in before if "bn" not in name}
    assert changed["until:layer2"] == {name for name in before if name.startswith(("layer3", "linear"))}


def test_photos_of_every_kind_are_read(photos: Path, tmp_path: Path, capsys: Capture) -> None:
    root = write_photos(tmp_path / "mixed", train=2, val=2)
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 256, (20, 30, 3)).astype(np.uint8)
    picture = Image.fromarray(pixels)
    folder = root / "train/blue"
    picture.convert("P").save(folder / "still.gif")
    picture.save(folder / "moving.gif", save_all=True, append_images=[Image.fromarray(255 - pixels)])
    picture.convert("CMYK").save(folder / "print.jpg")
    picture.convert("L").save(folder / "grey.png")
    picture.convert("RGBA").save(folder / "clear.png")
    Image.fromarray(pixels[..., 0].astype(np.uint16) * 257).save(folder / "deep.png")
    options = [*MODEL_ARGUMENTS, "--epochs", "1", "--batch-size", "4"]
    assert main(["finetune", str(root), *options, "--out", str(tmp_path / "run")]) == 0
    assert "10 training and 4 validation images" in capsys.readouterr().out


def test_data_without_a_validation_part_is_split(tmp_path: Path, capsys: Capture) -> None:
    root = write_photos(tmp_path / "all", train=5, val=1) / "train"
    options = [*MODEL_ARGUMENTS, "--epochs", "1", "--batch-size", "4", "--val-split", "0.4"]
    assert main(["finetune", str(root), *options, "--out", str(tmp_path / "run")]) == 0
    assert "6 training and 4 validation images" in capsys.readouterr().out
    for part, count in (((), 4), (("--split", "train"), 6), (("--split", "all"), 10)):
        evaluate = ["evaluate", str(root), "--checkpoint", str(tmp_path / "run"), *part]
        assert main([*evaluate, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["images"] == count
    assert main(evaluate[:-2]) == 0
    assert "4 of 10 images, those of its val part (--split all takes every one)" in capsys.readouterr().out


def test_all_of_data_with_two_parts_is_evaluated(run: Path, photos: Path, capsys: Capture) -> None:
    assert main(["evaluate", str(photos), "--checkpoint", str(run), "--split", "all", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["images"] == 16 + 6


def test_warmup_shows_what_it_compiles(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    pieces = [(name, lambda name=name: done.append(name)) for name in ("this", "that")]
    monkeypatch.setattr("minidl.training.warmup.steps", lambda: pieces)
    assert main(["warmup"]) == 0
    assert done == ["this", "that"]
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines[:2]] == ["this", "that"]
    assert lines[-1].startswith("the kernels are ready (")


def test_warmup_covers_a_training_step_of_every_optimizer() -> None:
    from minidl import optim
    from minidl.training import warmup

    titles = " ".join(title for title, _ in warmup.steps())
    kinds = [
        name
        for name, kind in vars(optim).items()
        if isinstance(kind, type) and issubclass(kind, optim.Optimizer)
    ]
    assert all(name in titles for name in kinds if name != "Optimizer")
    assert "training" in titles and "inference" in titles
