"""Floors of accuracy on real photos and published weights (see MINIDL_TEST_DATA in the contributors' notes)."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from minidl.cli.main import main
from minidl.kernels import get_num_threads, set_num_threads

DATA = Path(os.environ.get("MINIDL_TEST_DATA", ""))
real = pytest.mark.skipif(not os.environ.get("MINIDL_TEST_DATA"), reason="MINIDL_TEST_DATA is not set")
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def two_threads() -> object:
    """These networks are large enough for two."""
    before = get_num_threads()
    set_num_threads(min(2, os.cpu_count() or 1))
    yield
    set_num_threads(before)


@real
def test_the_published_resnet20_is_right_on_932_of_1017_images(two_threads: None, capsys: Capture) -> None:
    file = DATA / "weights/cifar_resnet/resnet20-12fca82f.th"
    arguments = ["evaluate", DATA / "cifar-10-batches-py", "--model", "resnet20", "--weights", file, "--json"]
    assert main([str(a) for a in arguments]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert (figures["images"], figures["split"]) == (1017, "val")
    assert abs(figures["correct"] - 932) <= 1
    assert figures["top5"] > 0.99


@real
def test_bfloat16_costs_the_published_resnet20_few_of_its_images(two_threads: None, capsys: Capture) -> None:
    pytest.importorskip("ml_dtypes")
    file = DATA / "weights/cifar_resnet/resnet20-12fca82f.th"
    arguments = ["evaluate", DATA / "cifar-10-batches-py", "--model", "resnet20", "--weights", file, "--json"]
    assert main([str(a) for a in arguments] + ["--dtype", "bfloat16"]) == 0
    assert abs(json.loads(capsys.readouterr().out)["correct"] - 932) <= 8


@real
def test_a_frozen_trunk_tells_ants_from_bees(two_threads: None, tmp_path: Path) -> None:
    file = DATA / "weights/resnet50_thin/resnet50_thin.pth"
    arguments = ["finetune", DATA / "images/hymenoptera", "--model", "resnet50_thin", "--weights", file]
    options = ["--freeze", "trunk", "--no-pictures", "--out", tmp_path / "run"]
    assert main([str(a) for a in (*arguments, *options)]) == 0
    document = json.loads((tmp_path / "run/best.json").read_text())
    assert document["classes"] == ["ants", "bees"]
    assert document["metrics"]["val_accuracy"] >= 0.93
