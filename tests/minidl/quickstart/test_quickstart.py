"""The demonstration runs on what ships with the package, and what ships is small, balanced and documented."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from minidl import models, weights
from minidl.cli.main import main
from minidl.data import MNIST
from minidl.errors import UsageError
from minidl.kernels import set_num_threads
from minidl.kernels.devices import DeviceError
from minidl.quickstart import ASSETS, WEIGHTS, demo, make_assets, quickstart
from minidl.training import Reporter

Capture = pytest.CaptureFixture[str]


def test_the_assets_are_balanced_and_at_most_four_megabytes() -> None:
    train, test = MNIST(ASSETS, train=True), MNIST(ASSETS, train=False)
    assert train.classes[0] == "T-shirt/top" and len(train.classes) == 10
    assert np.bincount(train.targets).tolist() == [make_assets.TRAIN] * 10
    assert np.bincount(test.targets).tolist() == [make_assets.TEST] * 10
    assert sum(p.stat().st_size for p in ASSETS.iterdir()) < 4_000_000
    assert "MIT License" in (ASSETS / "fashion-mnist-LICENSE.txt").read_text()
    assert "Zalando" in (ASSETS / "fashion-mnist-LICENSE.txt").read_text()


def test_training_validation_and_test_images_do_not_overlap() -> None:
    train, val, test = demo.open_assets(20, seed=1)
    pixels = [{np.asarray(part[i][0]).tobytes() for i in range(len(part))} for part in (train, val, test)]
    assert [len(part) for part in pixels] == [200, 200, 10 * make_assets.TEST]
    assert not pixels[0] & pixels[1] and not (pixels[0] | pixels[1]) & pixels[2]
    assert np.bincount(train.targets).tolist() == [20] * 10
    with pytest.raises(ValueError, match="train_per_class must be at most"):
        demo.open_assets(90, seed=0)


def test_the_asset_files_are_made_from_the_complete_data_set_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    source = tmp_path / "source"
    source.mkdir()
    for part, count in (("train", 60), ("t10k", 40)):
        labels = np.arange(count, dtype=np.uint8) % 10
        images = rng.integers(0, 256, (count, 4, 4)).astype(np.uint8)
        make_assets.write(source / f"{part}-images-idx3-ubyte.gz", make_assets.idx_bytes(images))
        make_assets.write(source / f"{part}-labels-idx1-ubyte.gz", make_assets.idx_bytes(labels))
    (source / "LICENSE").write_text("The MIT License")
    monkeypatch.setattr(make_assets, "TRAIN", 3)
    monkeypatch.setattr(make_assets, "TEST", 2)
    made = []
    for name in ("a", "b"):
        monkeypatch.setattr("sys.argv", ["make_assets", str(source), "--out", str(tmp_path / name)])
        make_assets.main()
        made.append({p.name: p.read_bytes() for p in (tmp_path / name).iterdir()})
    assert made[0] == made[1]
    part = MNIST(tmp_path / "a", train=False)
    assert part.targets.tolist() == [*range(10), *range(10)]
    assert np.array_equal(np.asarray(part[13][0])[..., 0], images[13])


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Weights in place of the embedded ones, and a test set of 20 images, so that the demonstration takes a second."""
    set_num_threads(1)
    whole = demo.open_assets

    def fewer(train_per_class: int, seed: int):  # type: ignore[no-untyped-def]
        train, val, test = whole(train_per_class, seed)
        return train, demo.Subset(val, np.arange(0, 200, 20)), demo.Subset(test, np.arange(20))

    monkeypatch.setattr(demo, "open_assets", fewer)
    monkeypatch.setattr(demo, "TRAIN_PER_CLASS", 1)
    file = tmp_path / "weights.safetensors"
    weights.save(models.create("resnet20").state_dict(), file)
    return file


def test_the_demonstration_leaves_figures_pictures_and_both_runs(small: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = quickstart(out, Reporter(), seed=1, epochs=1, weights=small, train_per_class=1)
    assert set(result.evaluations) == {"pretrained", "random"}
    figures = json.loads((out / demo.MARKER).read_text())
    assert figures["seed"] == 1 and figures["pretrained"]["images"] == 20
    assert (out / "predictions.png").stat().st_size > 1000
    assert (out / "pretrained/best.safetensors").exists() and (out / "random/best.safetensors").exists()
    quickstart(out, Reporter(), epochs=1, weights=small, train_per_class=1)  # its own folder is replaced


def test_a_device_that_is_not_there_is_an_error(small: Path, tmp_path: Path) -> None:
    with pytest.raises((ImportError, DeviceError)):
        quickstart(tmp_path / "out", Reporter(), epochs=1, weights=small, train_per_class=1, device="cuda:99")


def test_a_folder_of_someone_else_is_refused(small: Path, tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("mine")
    with pytest.raises(UsageError, match="was not written by quickstart"):
        quickstart(tmp_path, Reporter(), epochs=1, weights=small)
    with pytest.raises(UsageError, match="is a file"):
        quickstart(tmp_path / "letter.txt", Reporter(), epochs=1, weights=small)


@pytest.mark.skipif(not WEIGHTS.exists(), reason="the embedded weights are not there")
def test_the_command_ends_with_the_next_command(
    small: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["quickstart", "--out", str(tmp_path / "out"), "--epochs", "1", "--threads", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "finetune PHOTOS --model resnet20 --weights" in lines[-1]
    assert str(WEIGHTS) in lines[-1].replace('"', "").replace("'", "")
    assert any("points" in line for line in lines)
    assert models.create("resnet20", weights=WEIGHTS).num_classes == 10
