"""Every step of the CUDA ladder computes the same convolution, on the emulated device with all checks on."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from benchmarks.ladder_cuda import table
from minidl.kernels.emulator import EmulatedDevice
from minidl.kernels.ladder.cuda import HEADERS, STEPS, Step
from minidl.kernels.reference import ReferenceBackend
from tests.kernels.cuda import on_device
from tests.kernels.cuda.on_device import back, there
from tests.kernels.emulator.needs import emulator
from tests.minidl.test_documents import blocks
from tests.target import needs_device

ROOT = Path(__file__).parents[3]
CASES = [  # x (N, H, W, C), w (O, KH, KW, C), stride, pad
    ((2, 6, 7, 5), (7, 3, 3, 5), 1, 1),
    ((1, 9, 8, 16), (70, 3, 3, 16), 2, 1),
    ((1, 9, 9, 32), (33, 1, 1, 32), 1, 0),
    ((3, 3, 3, 2), (1, 3, 3, 2), 1, 0),
]
by_file = pytest.mark.parametrize("step", STEPS, ids=[step.file for step in STEPS])


@pytest.fixture(scope="module")
def device() -> EmulatedDevice:
    return EmulatedDevice(80)


@needs_device()
@by_file
def test_step_agrees_with_the_reference(step: Step) -> None:
    with on_device.on_hopper() if step.warpgroup else nullcontext():
        agree(step)


def agree(step: Step) -> None:
    rng = np.random.default_rng(step.number)
    for x_shape, w_shape, stride, pad in CASES:
        x, w = rng.standard_normal(x_shape, np.float32), rng.standard_normal(w_shape, np.float32)
        exact = [a.astype(ml_dtypes.bfloat16) if step.bfloat16 else a for a in (x, w)]
        expected = ReferenceBackend().conv2d(
            *[a.astype(np.float64) for a in exact],
            None,
            (stride, stride),
            ((pad, pad), (pad, pad)),
            (1, 1),
            1,
        )
        y = back(step.conv2d(on_device.device(), there(x), there(w), stride, pad))
        assert y.dtype == np.float32
        assert y.shape == expected.shape
        assert np.abs(y - expected).max() <= 2e-6 * np.abs(expected).max(), (x_shape, w_shape, stride, pad)


@emulator
def test_each_step_asks_less_of_memory_than_the_one_before(device: EmulatedDevice) -> None:
    """What the comments claim: sectors of global memory fall until the tile no longer grows."""
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((1, 8, 8, 32), np.float32), rng.standard_normal((64, 3, 3, 32), np.float32)
    sectors = []
    for step in STEPS:
        chosen = EmulatedDevice(90) if step.warpgroup else device
        with chosen.count_traffic() as lines:
            step.conv2d(chosen, x, w, 1, 1)
        sectors.append(sum(line.real for line in lines if line.memory == "global"))
        conflicts = [line for line in lines if line.memory == "shared" and line.file == "warp_tile.cuh"]
        assert all(line.real == line.ideal for line in conflicts)  # ldmatrix, by the padded lines
    assert sectors[1] < sectors[0] / 4
    assert sectors[2] < sectors[1] / 5
    assert sectors[3] < sectors[2] / 2
    assert sectors[4] < sectors[3]
    assert sectors[4] >= sectors[5] >= sectors[6] > 0.9 * sectors[4]


def test_a_step_names_the_architecture_that_it_needs(device: EmulatedDevice) -> None:
    x = np.zeros((1, 4, 4, 8), np.float32)
    with pytest.raises(
        ValueError, match=r"step6_warpgroup.cu needs sm_90a \(Hopper\); emulated is compute_80"
    ):
        STEPS[6].conv2d(device, x, np.zeros((2, 3, 3, 8), np.float32))


def test_steps_refuse_shapes_that_do_not_fit() -> None:
    x = np.zeros((1, 4, 4, 3), np.float32)
    with pytest.raises(ValueError, match="same C"):
        STEPS[0].conv2d(EmulatedDevice(), x, np.zeros((2, 3, 3, 4), np.float32))
    with pytest.raises(ValueError, match="does not fit"):
        STEPS[0].conv2d(EmulatedDevice(), x, np.zeros((2, 5, 5, 3), np.float32))


def test_every_file_is_on_the_ladder_and_on_its_page() -> None:
    folder = ROOT / "kernels" / "ladder" / "cuda" / "source"
    assert {path.name for path in folder.iterdir()} == {step.file for step in STEPS} | set(HEADERS)
    page = (ROOT / "docs" / "convolution-cuda.md").read_text(encoding="utf8")
    for step in STEPS:
        assert f"../kernels/ladder/cuda/source/{step.file}" in page
        assert f"| {step.number} {step.title} |" in page


@emulator
def test_the_pages_counts_are_the_kernels() -> None:
    page = (ROOT / "docs" / "convolution-cuda.md").read_text(encoding="utf8")
    assert "\n".join(table()) in page  # else: python -m benchmarks.ladder_cuda --docs


@emulator
def test_the_pages_code_runs(capsys: pytest.CaptureFixture[str]) -> None:
    scope = {"x": np.zeros((1, 4, 4, 8), np.float32), "w": np.zeros((2, 3, 3, 8), np.float32)}
    exec(compile(blocks("docs/convolution-cuda.md"), "convolution-cuda.md", "exec"), scope)
    assert scope["y"].shape == (1, 4, 4, 2) and "step2_shared.cu:" in capsys.readouterr().out
