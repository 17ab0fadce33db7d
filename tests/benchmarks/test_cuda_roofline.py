"""The estimate for graphics cards: ResNet-50's layers, lower bounds, occupancy."""

from __future__ import annotations

import pytest

from benchmarks import cuda_roofline
from benchmarks.cuda_roofline import CARDS, Layer, estimate, occupancy, resnet50, shared_traffic
from minidl.kernels.cuda.inventory import Kernel
from minidl.kernels.cuda.tiling import TILINGS, Tiling


def test_resnet50_has_53_convolutions_of_4_billion_multiply_adds() -> None:
    layers = resnet50()
    assert sum(layer.count for layer in layers) == 53
    flops = sum(estimate(CARDS[0], layer, 1, "bf16")["flops"] * layer.count for layer in layers)
    assert flops / 2 == pytest.approx(4.09e9, rel=0.01)


def test_an_estimate_counts_operations_and_bytes() -> None:
    e = estimate(CARDS[0], Layer(56, 64, 64, 3, 1, 1), 1, "strict")
    assert e["flops"] == 2 * 56 * 56 * 64 * 64 * 9
    assert e["bytes"] == 4 * (2 * 56 * 56 * 64 + 64 * 64 * 9)
    assert e["compute"] == e["flops"] / 19.5e12 and e["memory"] == e["bytes"] / 1.555e12
    assert 0 < e["efficiency"] <= 1


def test_warpgroups_pass_less_through_shared_memory_but_for_float32_that_is_rounded_there() -> None:
    (mma, *_), (wgmma, *_) = TILINGS["TENSOR"], TILINGS["WARPGROUP"]

    def per_product(tile: Tiling, size: int) -> float:
        return shared_traffic(tile, size) * size / (tile.bm * tile.bn * tile.slice_bytes)

    assert shared_traffic(mma, 2) == 64 * (128 + 128 + 8 * (64 + 32))
    assert shared_traffic(wgmma, 2) == 128 * (128 + 256 + 2 * (64 + 256))
    assert per_product(mma, 2) == 2 * per_product(wgmma, 2)
    assert per_product(wgmma, 4) == 2 * 1.25 * per_product(wgmma, 2)


def test_occupancy_is_bound_by_registers_shared_memory_or_warps() -> None:
    assert occupancy(Kernel("a.cu", "a", 256, 4), 32, 0, 80) == 1
    assert occupancy(Kernel("a.cu", "a", 256, 1), 200, 0, 80) == 8 / 64
    assert occupancy(Kernel("a.cu", "a", 256, 2, shared_bytes=65536), 64, 0, 80) == 16 / 64


def test_the_table_is_printed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["cuda_roofline", "--batch", "8"])
    cuda_roofline.main()
    text = capsys.readouterr().out
    assert text.count("ms forward") == 12 and "H100 with wgmma, bf16, batch 8" in text
