"""Pretraining without labels, and classifiers made of its encoders with few labels."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import minidl.weights.files as files
from minidl import weights
from minidl.data import ArrayDataset, Splits, Subset
from minidl.errors import MinidlError, UsageError
from minidl.training import (
    DivergedError,
    PretrainSettings,
    Reporter,
    Settings,
    fine_tune,
    load_checkpoint,
    pretrain,
    run_status,
)
from minidl.training.network import known_model
from minidl.training.sheets import draw_rows, principal_plane

OPTIONS: dict[str, dict[str, Any]] = {
    "conv_autoencoder": {"channels": [4, 6], "mask": 0.5},
    "variational_autoencoder": {"channels": [4, 6], "hidden": 8, "latent": 3},
    "dense_autoencoder": {"widths": [8], "latent": 3},
    "resnet_autoencoder": {"trunk_options": {"layers": [1, 1], "widths": [4, 4]}, "width": 4, "noise": 0.1},
}


class Log(Reporter):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def log(self, text: str) -> None:
        self.lines.append(text)


def blocks(count: int, seed: int) -> ArrayDataset:
    """A bright block in the upper or the lower half, of random width and height, 12 x 10 pixels, in noise."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    pixels = rng.integers(0, 60, (count, 12, 10, 1))
    for number, label in enumerate(labels):
        top, left = 6 * label + rng.integers(0, 2), rng.integers(1, 3)
        pixels[number, top : top + rng.integers(4, 6), left : left + rng.integers(5, 8)] += 180
    return ArrayDataset(pixels.astype(np.uint8), labels, ["above", "below"])


DATA = Splits(blocks(48, 0), blocks(20, 1), ["above", "below"], "idx")


def settings(model: str = "conv_autoencoder", **changes: Any) -> PretrainSettings:
    given = {"epochs": 2, "batch_size": 16, "lr": 0.01, "seed": 2, **changes}
    return PretrainSettings(model, model_options=OPTIONS[model], **given)


def run(out: Path, resume: bool = False, model: str = "conv_autoencoder", **changes: Any) -> Any:
    return pretrain(
        DATA, settings(model, **changes), out, resume=resume, workers=0, step_seconds=1e-9, draw=False
    )


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with pictures, of 12 epochs."""
    out = tmp_path_factory.mktemp("pretrained") / "run"
    pretrain(DATA, settings(epochs=12), out, workers=0)
    return out


def test_the_loss_falls_and_a_run_leaves_checkpoints_metrics_and_pictures(pretrained: Path) -> None:
    with (pretrained / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 12 and float(rows[-1]["val_loss"]) < 0.9 * float(rows[0]["val_loss"])
    assert all(row["train_accuracy"] == row["val_accuracy"] == "" for row in rows)
    assert run_status(pretrained) == "finished"
    assert sorted(p.name for p in (pretrained / "pictures").iterdir()) == [
        f"epoch-{n:04}.png" for n in range(1, 13)
    ]
    with Image.open(pretrained / "pictures" / "epoch-0012.png") as picture:
        assert picture.height == 2 * (12 * 4 + 2) + 2
    checkpoint = load_checkpoint(pretrained)
    assert checkpoint.is_autoencoder and checkpoint.classes == []
    assert checkpoint.preprocessing["input_size"] == [1, 12, 10]
    assert checkpoint.epoch == int(min(rows, key=lambda row: float(row["val_loss"]))["epoch"])
    with pytest.raises(
        MinidlError, match=r"holds an autoencoder \(conv_autoencoder\), which knows no classes"
    ):
        checkpoint.build_model()


@pytest.mark.parametrize("model", OPTIONS)
def test_every_autoencoder_is_pretrained_and_its_encoder_fine_tuned(model: str, tmp_path: Path) -> None:
    log = Log()
    done = pretrain(DATA, settings(model), tmp_path / "a", workers=0, reporter=log)
    assert done.error is not None and 0 < done.error < 0.2 and done.best.val_loss is not None
    expected = (
        {"latent.png", "curves.png", "pictures"} if "matplotlib" not in str(log.lines) else {"pictures"}
    )
    if model == "variational_autoencoder":
        expected |= {"samples.png", "interpolations.png"}
    assert expected <= {p.name for p in (tmp_path / "a").iterdir()}
    weights_of = str(tmp_path / "a")
    classifier = Settings(**known_model(weights_of), weights=weights_of, epochs=1, freeze="encoder")
    fine = fine_tune(DATA, classifier, tmp_path / "b", workers=0, draw=False)
    assert fine.evaluation is not None and fine.evaluation.total == 20
    before = weights.load(tmp_path / "a" / "best.safetensors")
    after = weights.load(tmp_path / "b" / "last.safetensors")
    prefix = "encoder." if model == "resnet_autoencoder" else ""  # there the names are the ResNet's own
    shared = [name for name in after if prefix + name in before]
    assert shared and all(np.array_equal(before[prefix + name], after[name]) for name in shared)


class Killed(BaseException):
    """Stands for a process that is gone."""


@pytest.mark.parametrize("number", [1, 2, 4, 7])
@pytest.mark.parametrize("model", ["conv_autoencoder", "variational_autoencoder"])
def test_a_killed_run_that_is_resumed_ends_in_the_same_weights(
    model: str, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path / "whole", model=model)
    replace, count = os.replace, 0

    def dying(source: str, target: str) -> None:
        nonlocal count
        count += 1
        if count == number:
            raise Killed
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "replace", dying)
        with pytest.raises(Killed):
            run(tmp_path / "killed", model=model)
    run(tmp_path / "killed", resume=True, model=model)
    for name in ("best.safetensors", "last.safetensors"):
        whole, killed = (weights.load(tmp_path / place / name) for place in ("whole", "killed"))
        assert all(whole[key].tobytes() == killed[key].tobytes() for key in whole)


def test_a_finished_run_is_measured_again_and_not_overwritten(pretrained: Path) -> None:
    again = pretrain(DATA, settings(epochs=12), pretrained, resume=True, workers=0)
    assert again.error is not None and again.error < 0.1
    with pytest.raises(UsageError, match="holds a finished run"):
        pretrain(DATA, settings(epochs=12), pretrained)


def test_a_loss_that_is_not_finite_leaves_no_folder(tmp_path: Path) -> None:
    bad = PretrainSettings(
        "conv_autoencoder", model_options={"channels": [4], "loss": "mse"}, lr=1e30, optimizer="sgd", epochs=3
    )
    with pytest.raises(DivergedError, match="training stopped"), np.errstate(all="ignore"):
        pretrain(DATA, bad, tmp_path / "run", workers=0)
    assert not (tmp_path / "run").exists()


def test_large_images_of_mixed_sizes_are_learned_in_64_by_64(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(6):
        pixels = rng.integers(0, 256, (70 + 9 * number, 100 - 5 * number, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    log = Log()
    pretrain(tmp_path, settings(epochs=1), tmp_path.parent / "out", workers=0, draw=False, reporter=log)
    assert any("images of 3 x 64 x 64" in line for line in log.lines)


def classify(out: Path, source: Path | None, log: Log | None = None, **changes: Any) -> Any:
    known = (
        known_model(str(source))
        if source
        else {"model": "conv_encoder", "model_options": {"channels": [4, 6]}}
    )
    given = {"epochs": 3, "batch_size": 8, "augment": "none", "seed": 1, **changes}
    weights_of = str(source) if source else None
    return fine_tune(
        DATA, Settings(**known, weights=weights_of, **given), out, workers=0, draw=False, reporter=log
    )


def test_few_labels_are_those_of_the_seed(pretrained: Path, tmp_path: Path) -> None:
    log = Log()
    classify(tmp_path / "run", pretrained, log, labels_per_class=3, freeze="encoder")
    assert "labels of 6 training images are used, 3 of each class" in log.lines
    with pytest.raises(MinidlError, match=r"class 'above' has 24 training images, fewer than the 25 of"):
        classify(tmp_path / "more", pretrained, labels_per_class=25)


@pytest.mark.parametrize("freeze", ["none", "encoder", "until:encoder.0"])
@pytest.mark.parametrize("method", ["fixmatch", "spread", "cluster"])
def test_every_method_learns_from_images_without_labels(
    method: str, freeze: str, pretrained: Path, tmp_path: Path
) -> None:
    if method != "fixmatch":
        pytest.importorskip("sklearn")
    options = {
        "fixmatch": {"threshold": 0.6, "ratio": 2},
        "spread": {"neighbours": 4},
        "cluster": {"clusters": 6},
    }
    log = Log()
    changes = {"labels_per_class": 4, "semi": method, "semi_options": options[method], "freeze": freeze}
    changes |= {"epochs": 10, "lr": 0.03, "optimizer": "adam", "augment": None, "warmup": 0.0}
    done = classify(tmp_path / "run", pretrained, log, **changes)
    assert done.evaluation.accuracy >= 0.8
    text = "\n".join(log.lines)
    assert f"{method}: 40 images without labels, the training images whose labels are not used" in text
    assert method == "fixmatch" or "of 40 images are given a label, " in text


@pytest.mark.parametrize("method", ["fixmatch", "spread"])
def test_a_semi_supervised_run_can_be_resumed(
    method: str, pretrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if method == "spread":
        pytest.importorskip("sklearn")
    known = known_model(str(pretrained))
    given: dict[str, Any] = {"weights": str(pretrained), "epochs": 2, "batch_size": 4, "labels_per_class": 4}
    chosen = Settings(
        **known, **given, semi=method, semi_options={"ratio": 2} if method == "fixmatch" else {}
    )

    def go(out: Path, resume: bool = False) -> dict[str, np.ndarray]:
        fine_tune(DATA, chosen, out, resume=resume, workers=0, step_seconds=1e-9, draw=False)
        return weights.load(out / "last.safetensors")

    whole, replace, count = go(tmp_path / "whole"), os.replace, 0

    def dying(source: str, target: str) -> None:
        nonlocal count
        count += 1
        if count == 5:
            raise Killed
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "replace", dying)
        with pytest.raises(Killed):
            go(tmp_path / "killed")
    killed = go(tmp_path / "killed", resume=True)
    assert all(whole[key].tobytes() == killed[key].tobytes() for key in whole)


def test_images_of_another_place_are_used_whatever_their_classes(pretrained: Path, tmp_path: Path) -> None:
    place = tmp_path / "many" / "anything"
    place.mkdir(parents=True)
    for number in range(5):  # fewer than a batch
        Image.fromarray(DATA.train[number][0][..., 0]).save(place / f"{number}.png")
    log = Log()
    options = {"unlabelled": str(tmp_path / "many"), "semi": "fixmatch", "epochs": 1, "augment": "light"}
    classify(tmp_path / "run", pretrained, log, **options)
    assert f"fixmatch: 5 images without labels, {tmp_path / 'many'}" in log.lines
    with pytest.raises(MinidlError, match="absent: no such file or folder"):
        classify(tmp_path / "other", pretrained, **{**options, "unlabelled": str(tmp_path / "absent")})


def test_no_image_is_left_without_a_label(pretrained: Path, tmp_path: Path) -> None:
    with pytest.raises(MinidlError, match="there are no images to learn from without labels"):
        classify(tmp_path / "run", pretrained, labels_per_class=24, semi="fixmatch")
    with pytest.raises(ValueError, match="needs images without labels: give unlabelled or labels_per_class"):
        Settings("conv_encoder", semi="spread")
    with pytest.raises(ValueError, match="used by a method only: semi must be fixmatch or spread or cluster"):
        Settings("conv_encoder", unlabelled="somewhere")


def test_weights_of_another_kind_are_refused(pretrained: Path, tmp_path: Path) -> None:
    known = known_model(str(pretrained))
    with pytest.raises(UsageError, match="its encoder makes the model conv_encoder, not resnet20"):
        fine_tune(DATA, Settings("resnet20", weights=str(pretrained)), tmp_path / "a")
    wrong = {**known, "model_options": {**known["model_options"], "channels": [4, 7]}}
    with pytest.raises(
        MinidlError, match=r"does not fit conv_encoder with these options: .* of another shape"
    ):
        fine_tune(DATA, Settings(**wrong, weights=str(pretrained)), tmp_path / "a")
    with pytest.raises(UsageError, match="conv_autoencoder is an autoencoder, no classifier"):
        fine_tune(DATA, Settings("conv_autoencoder"), tmp_path / "a")
    with pytest.raises(UsageError, match="resnet20 is no autoencoder"):
        pretrain(DATA, PretrainSettings("resnet20"), tmp_path / "a")
    with pytest.raises(MinidlError, match="has no training images"):
        empty = Splits(Subset(DATA.train, []), DATA.val, DATA.classes, "idx")
        pretrain(empty, settings(), tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_the_weights_of_a_classifiers_run_know_their_model(tmp_path: Path) -> None:
    classify(
        tmp_path / "first",
        None,
        preprocess={"input_size": [1, 12, 10], "resize": 10, "mean": [0], "std": [1]},
    )
    known = known_model(str(tmp_path / "first"))
    assert known["model"] == "conv_encoder"
    log = Log()
    again = Settings(**known, weights=str(tmp_path / "first"), epochs=1)
    fine_tune(DATA, again, tmp_path / "second", workers=0, draw=False, reporter=log)
    assert (
        "classifier 'fc': kept, the weights and the data have 2 classes each (a new one: --new-classifier)"
        in log.lines
    )


def test_rows_of_pictures_keep_their_pixels(tmp_path: Path) -> None:
    rows = [np.full((3, 4, 5, 1), 10, np.uint8), np.full((2, 4, 5, 3), 200, np.uint8)]
    draw_rows(rows, tmp_path / "rows.png")
    with Image.open(tmp_path / "rows.png") as picture:
        pixels = np.asarray(picture)
    assert pixels.shape == (2 * (4 * 11 + 2) + 2, 3 * (5 * 11 + 2) + 2, 3)
    assert (pixels == 10).all(axis=2).sum() == 3 * 44 * 55 and (pixels == 200).all(
        axis=2
    ).sum() == 2 * 44 * 55


def test_the_principal_plane_holds_the_widest_directions() -> None:
    rng = np.random.default_rng(0)
    points = rng.standard_normal((500, 6)) * [0.1, 5.0, 0.1, 2.0, 0.1, 0.1]
    plane = principal_plane(points)
    assert abs(np.corrcoef(plane[:, 0], points[:, 1])[0, 1]) > 0.999
    assert abs(np.corrcoef(plane[:, 1], points[:, 3])[0, 1]) > 0.99
    assert principal_plane(points[:1]).shape == (1, 2) and principal_plane(points[:, :1]).shape == (500, 2)
