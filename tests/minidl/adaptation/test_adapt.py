"""Whole runs on tiny data: every method, resuming, reports, and that no label of the target is learned from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import minidl.weights.files as files
from minidl import weights
from minidl.adaptation import METHODS, AdaptSettings, adapt, read_report
from minidl.adaptation.report import domain_distances, look
from minidl.data import ArrayDataset, Splits
from minidl.errors import MinidlError, UsageError
from minidl.kernels.devices import DeviceError
from minidl.models import create
from minidl.training import Reporter, Settings, fine_tune, load_checkpoint, run_status
from minidl.training.finetune import eval_loader
from tests.minidl.training.test_resume import Killed, kill_at, same
from tests.minidl.training.tiny import OPTIONS

CLASSES = ["blue", "green", "red"]


def photos(count: int, seed: int, contrast: float = 1.0) -> ArrayDataset:
    """Noise with one channel brighter for each class."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    pixels = rng.integers(0, 160, (count, 16, 16, 3))
    pixels[np.arange(count), :, :, labels] += 60
    return ArrayDataset((pixels * contrast).astype(np.uint8), labels, CLASSES)


SOURCE = Splits(photos(24, 0), photos(12, 1), CLASSES, "folder")
TARGET = Splits(photos(20, 2, 0.4), photos(12, 3, 0.4), CLASSES, "folder")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained") / "run"
    settings = Settings("resnet20", model_options=OPTIONS, epochs=3, batch_size=8, lr=0.1)
    fine_tune(SOURCE, settings, out, workers=0, step_seconds=None, draw=False)
    return out


def settings(trained: Path, method: str = "coral", **changes: Any) -> AdaptSettings:
    given = {"epochs": 2, "steps_per_epoch": 2, "batch_size": 6, "source_batch_size": 4, "seed": 1, **changes}
    if method == "finetune":
        given["labels_per_class"] = 2
    return AdaptSettings("resnet20", model_options=OPTIONS, weights=str(trained), method=method, **given)


def run(
    trained: Path, out: Path, target: Splits = TARGET, resume: bool = False, **changes: Any
) -> dict[str, Any]:
    """The last weights of a run that saves its state after every step."""
    adapt(
        SOURCE,
        target,
        settings(trained, **changes),
        out,
        resume=resume,
        workers=0,
        step_seconds=1e-9,
        draw=False,
    )
    return weights.load(out / "last.safetensors")


@pytest.mark.parametrize("self_training", [False, True], ids=["alone", "self-training"])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_leaves_a_network_that_can_be_used_and_a_report(
    trained: Path, tmp_path: Path, method: str, self_training: bool
) -> None:
    state = run(trained, tmp_path / "run", method=method, self_training=self_training, threshold=0.4)
    start = load_checkpoint(trained)
    assert state.keys() == start.state.keys()
    assert not same(state, dict(start.state))
    network = load_checkpoint(tmp_path / "run").build_model()
    report = read_report(tmp_path / "run")
    loader = eval_loader(TARGET.val, network.pretrained_cfg.to_dict(), 0)
    seen = look(network, network.classifier_name, loader, Reporter(), "")
    assert report["target"]["after"]["correct"] == (seen.predictions == TARGET.val.targets).sum()
    assert np.sum(report["given"], axis=1).tolist() == [12, 12]
    assert set(report["distances"]) == {"coral", "mmd"}
    assert run_status(tmp_path / "run") == "finished"


def test_a_device_that_is_not_there_is_an_error(trained: Path, tmp_path: Path) -> None:
    with pytest.raises((ImportError, DeviceError)):
        adapt(SOURCE, TARGET, settings(trained), tmp_path / "run", workers=0, device="cuda:99")


@pytest.mark.parametrize("method", [name for name in METHODS if name != "finetune"])
def test_no_label_of_the_target_is_learned_from(trained: Path, tmp_path: Path, method: str) -> None:
    images = TARGET.train.images  # type: ignore[attr-defined]
    wrong = ArrayDataset(images, np.random.default_rng(0).permutation(TARGET.train.targets), CLASSES)
    mislabelled = Splits(wrong, TARGET.val, CLASSES, "folder")
    given = {"method": method, "self_training": True, "threshold": 0.4, "balance": True, "epochs": 1}
    right = run(trained, tmp_path / "right", **given)
    assert same(right, run(trained, tmp_path / "wrong", mislabelled, **given))


@pytest.mark.parametrize(
    "changes",
    [
        {
            "method": "dann",
            "self_training": True,
            "balance": True,
            "threshold": 0.4,
            "mix_share": 0.3,
            "mix_signs": True,
        }
    ],
)
@pytest.mark.parametrize("number", [1, 4, 9])
def test_killed_and_resumed_ends_in_the_same_weights(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, changes: dict[str, Any]
) -> None:
    whole = run(trained, tmp_path / "whole", **changes)
    with monkeypatch.context() as patch:
        kill_at(patch, number, renamed=True)
        with pytest.raises(Killed):
            run(trained, tmp_path / "cut", **changes)
    assert same(run(trained, tmp_path / "cut", resume=True, **changes), whole)
    figures = [json.loads((tmp_path / name / "report.json").read_text()) for name in ("whole", "cut")]
    assert figures[0] == figures[1]


def test_adabn_trains_no_weight(trained: Path, tmp_path: Path) -> None:
    state, start = run(trained, tmp_path / "run", method="adabn"), load_checkpoint(trained).state
    changed = {
        name.rpartition(".")[2] for name, array in state.items() if array.tobytes() != start[name].tobytes()
    }
    assert (
        {"running_mean", "running_var"} <= changed <= {"running_mean", "running_var", "num_batches_tracked"}
    )


def test_statistics_of_the_source_stay_while_scales_and_shifts_are_trained(
    trained: Path, tmp_path: Path
) -> None:
    start = load_checkpoint(trained).state
    kept, moved = (run(trained, tmp_path / kind, statistics=kind) for kind in ("source", "batch"))
    assert kept["bn1.running_mean"].tobytes() == start["bn1.running_mean"].tobytes()
    assert moved["bn1.running_mean"].tobytes() != start["bn1.running_mean"].tobytes()
    assert kept["bn1.weight"].tobytes() != start["bn1.weight"].tobytes()


def test_fewer_target_images_than_a_batch_are_said_and_used(trained: Path, tmp_path: Path) -> None:
    told: list[str] = []

    class Told(Reporter):
        def log(self, text: str) -> None:
            told.append(text)

    given = settings(trained, batch_size=64, epochs=1)
    adapt(SOURCE, TARGET, given, tmp_path / "run", workers=0, draw=False, reporter=Told())
    assert any(
        "has 20 images, fewer than a batch of 64: every batch has all of them" in text for text in told
    )


def test_the_network_must_know_the_sources_classes(trained: Path, tmp_path: Path) -> None:
    names = ["a", "b", "c"]
    parts = [ArrayDataset(part.images, part.targets, names) for part in (photos(6, 0), photos(6, 1))]
    renamed = Splits(*parts, names, "folder")
    with pytest.raises(MinidlError, match="has 3 classes of other names, the source has 3"):
        adapt(renamed, renamed, settings(trained), tmp_path / "a")
    file = tmp_path / "two.safetensors"
    weights.save(create("resnet20", num_classes=2, **OPTIONS).state_dict(), file)
    with pytest.raises(MinidlError, match=r"two\.safetensors: has 2 classes, the source has 3"):
        adapt(SOURCE, TARGET, settings(file), tmp_path / "b")
    with pytest.raises(UsageError, match="starts from a network that was trained on the source"):
        adapt(SOURCE, TARGET, AdaptSettings("resnet20", model_options=OPTIONS), tmp_path / "c")


def test_a_finished_run_is_left_alone(trained: Path, tmp_path: Path) -> None:
    run(trained, tmp_path / "run", method="adabn")
    stamp = (tmp_path / "run" / "last.safetensors").stat().st_mtime_ns
    with pytest.raises(UsageError, match="holds a finished run"):
        run(trained, tmp_path / "run", method="adabn")
    run(trained, tmp_path / "run", method="adabn", resume=True)
    assert (tmp_path / "run" / "last.safetensors").stat().st_mtime_ns == stamp


def test_pictures_show_clouds_classes_and_confusion(trained: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    adapt(SOURCE, TARGET, settings(trained, epochs=1), tmp_path / "run", workers=0)
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"clouds.png", "classes.png", "confusion.png", "curves.png", "report.json", "metrics.csv"} <= names


def test_without_a_label_the_report_counts_what_each_class_is_given(trained: Path, tmp_path: Path) -> None:
    adapt(
        SOURCE,
        TARGET,
        settings(trained, "adabn"),
        tmp_path / "run",
        ignore_target_labels=True,
        workers=0,
        draw=False,
    )
    report = read_report(tmp_path / "run")
    assert report["target"] is None and np.sum(report["given"]) == 24
    assert 0.0 <= report["changed"] <= 1.0


def test_a_disk_that_is_full_leaves_a_run_to_resume(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "fsync", full)
        with pytest.raises(MinidlError, match="No space left on device"):
            run(trained, tmp_path / "run")
    assert run_status(tmp_path / "run") == "absent"


def test_distances_do_not_depend_on_the_scale_of_features(trained: Path) -> None:
    network = load_checkpoint(trained).build_model()
    cfg = network.pretrained_cfg.to_dict()
    looks = [
        look(network, network.classifier_name, eval_loader(part, cfg, 0), Reporter(), "")
        for part in (SOURCE.val, TARGET.val)
    ]
    larger = [type(one)(one.features * 8, one.logits, one.labels) for one in looks]
    first, second = domain_distances(*looks), domain_distances(*larger)
    assert first == pytest.approx(second, rel=1e-6) and first["mmd"] > 0
