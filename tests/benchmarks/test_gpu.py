"""``python -m benchmarks --device cuda``: run on the emulated device, its tables, what it refuses."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import gpu, gpu_kernels, gpu_limits, gpu_networks, gpu_report
from benchmarks.cuda_roofline import Layer, resnet50
from tests.kernels.emulator.needs import emulator


@pytest.fixture
def data() -> dict[str, Any]:
    """Results as a card would give them."""
    convolution = {
        "convolution": "3x3, 64 -> 64, 56x56",
        "direction": "forward",
        "precision": "bf16",
        "count": 3,
        "gflop": 50.0,
        "gbytes": 0.1,
        "limit": 500_000.0,
        "seconds": {"minidl": [2e-4] * 5, "cuDNN": [1e-4] * 5},
    }
    network = {
        "network": "resnet50, batch 128 at 224x224, training step",
        "precision": "tf32",
        "batch": 128,
        "missing": {"torch.compile": "no compiler"},
        "seconds": {
            "minidl": [0.2] * 5,
            "minidl graph": [0.1] * 5,
            "torch": [0.16] * 5,
            "torch graph": [0.15] * 5,
        },
    }
    return {
        "machine": {
            "card": "NVIDIA H200",
            "compute_capability": 90,
            "multiprocessors": 132,
            "processor": "A processor",
            "versions": {"minidl": "0.1", "torch": "2.13"},
        },
        "time": "2026-01-02 03:04",
        "turns": 5,
        "limits": {"bandwidth": 4000.0, "float32": 60e3, "tf32": 400e3, "bf16": 800e3},
        "convolution": [convolution],
        "networks": [network],
    }


def test_the_document_says_what_was_measured(data: dict[str, Any]) -> None:
    text = gpu_report.markdown(data)
    assert "NVIDIA H200 (sm_90, 132 multiprocessors)" in text
    assert "4000 GB/s of memory bandwidth; TFLOP/s: 60.0 in float32, 400.0 in tf32, 800.0 in bf16" in text
    assert "| 200 | 250.0 | 50% | 50% | 100 | 0.50 (0.50-0.50) |" in text
    assert "all of ResNet-50's 0.60 ms, cuDNN 0.30 ms; times as fast: geometric mean 0.50" in text
    assert "| tf32 | 640 | 1280 | 800 | 853 | - | 0.80 | 1.50 |" in text
    assert "torch.compile did not take part: no compiler" in text
    for part in gpu.PARTS:
        columns = gpu_report.head(part)[-2].count("|")
        assert all(gpu_report.line(part, row, data).count("|") == columns for row in data[part])


def test_results_without_pytorch_are_tables_too(data: dict[str, Any]) -> None:
    for row in (*data["convolution"], *data["networks"]):
        row["seconds"] = {name: s for name, s in row["seconds"].items() if name.startswith("minidl")}
    assert "all of ResNet-50's 0.60 ms\n" in gpu_report.markdown(data)


def test_a_folder_is_called_as_the_card() -> None:
    assert gpu_report.slug("NVIDIA H100 80GB HBM3") == "nvidia-h100-80gb-hbm3"


def test_every_distinct_convolution_of_resnet50_is_measured() -> None:
    assert sum(layer.count for layer in resnet50()) == 53
    assert len({gpu_kernels.name_of(layer) for layer in resnet50()}) == len(resnet50()) == 23
    names = [case.name for case in gpu_networks.cases(False)]
    assert len(names) == 4 and "resnet50, batch 128 at 224x224, training step" in names


def test_images_repeat_so_that_a_large_batch_is_made_quickly() -> None:
    x, w, gy = gpu_kernels.operands(Layer(4, 3, 5, 3, 2, 1), 19)
    assert (x.shape, w.shape, gy.shape) == ((19, 4, 4, 3), (5, 3, 3, 3), (19, 2, 2, 5))
    np.testing.assert_array_equal(x[0], x[16])
    assert (x[0] != x[1]).any()


@emulator
def test_the_benchmark_of_cards_runs_on_the_emulated_device(tmp_path: Path) -> None:
    args = argparse.Namespace(
        device="emulated",
        quick=True,
        only=None,
        select="1x1|inference",
        turns=1,
        no_compile=True,
        out=tmp_path,
    )
    gpu.run(args)
    data = json.loads((tmp_path / "results.json").read_text(encoding="utf8"))
    rows = {(r["direction"], r["precision"]) for r in data["convolution"]}
    assert len(rows) == len(data["convolution"]) == 9
    assert {r["precision"] for r in data["networks"]} == set(gpu_limits.PRECISIONS)
    assert all(set(r["seconds"]) == {"minidl", "minidl graph"} for r in data["networks"])
    assert all(value > 0 for value in data["limits"].values())
    assert "# Benchmark on a graphics card" in (tmp_path / "results.md").read_text(encoding="utf8")


@emulator
def test_a_wrong_result_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    right = gpu_kernels.reference
    monkeypatch.setattr(gpu_kernels, "reference", lambda *args: right(*args) + 1)
    with pytest.raises(SystemExit, match=r"1x1 /2, 16 -> 8, 5x5, forward, float32: differs by .*; not timed"):
        gpu.measure("emulated", quick=True, only=["convolution"], select="1x1", turns=1, compiled=False)


@pytest.mark.parametrize(
    ("device", "only", "message"),
    [
        ("cuda:x", None, "--device: device 'cuda:x' is not available"),
        ("emulated", ["memory"], "--device emulated: --only expects convolution or networks, got memory"),
    ],
)
def test_what_is_not_there_is_told(device: str, only: list[str] | None, message: str) -> None:
    with pytest.raises(SystemExit, match=message):
        gpu.run(argparse.Namespace(device=device, only=only, quick=True))


def test_pytorchs_directions_are_those_that_are_compared() -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    layer = Layer(6, 3, 8, 3, 2, 1)
    arrays = gpu_kernels.operands(layer, gpu_kernels.COMPARED)
    for d, run in enumerate(gpu_kernels.theirs(torch, "cpu", layer, arrays, "float32")):
        found, expected = gpu_kernels.host(run(), None, d), gpu_kernels.reference(layer, arrays, d)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
