"""Every step of the convolution ladder computes the same convolution."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from minidl.kernels.ladder import STEPS
from minidl.kernels.reference import ReferenceBackend

FOLDER = Path(__file__).parents[2] / "kernels" / "ladder" / "cpu"

CASES = [  # x (N, H, W, C), w (O, KH, KW, C), stride, pad
    ((2, 9, 11, 5), (7, 3, 3, 5), 1, 1),
    ((2, 9, 10, 5), (7, 3, 3, 5), 2, 1),
    ((1, 13, 15, 3), (33, 7, 7, 3), 2, 3),
    ((1, 7, 6, 40), (65, 1, 1, 40), 1, 0),
    ((1, 3, 40, 32), (32, 3, 3, 32), 1, 0),
    ((3, 4, 4, 300), (20, 3, 3, 300), 1, 2),
    ((1, 3, 3, 2), (1, 3, 3, 2), 1, 0),
]


@pytest.mark.parametrize("step", STEPS, ids=[s.module for s in STEPS])
def test_step_agrees_with_the_reference(step):
    conv2d = step.load()
    rng = np.random.default_rng(step.number)
    for x_shape, w_shape, stride, pad in CASES:
        x, w = rng.standard_normal(x_shape, np.float32), rng.standard_normal(w_shape, np.float32)
        expected = ReferenceBackend().conv2d(
            x.astype(np.float64),
            w.astype(np.float64),
            None,
            (stride, stride),
            ((pad, pad), (pad, pad)),
            (1, 1),
            1,
        )
        y = conv2d(x, w, stride, pad)
        assert y.dtype == np.float32
        assert y.shape == expected.shape
        assert np.abs(y - expected).max() <= 3e-6 * np.abs(expected).max(), (x_shape, w_shape, stride, pad)


@pytest.mark.parametrize("step", STEPS, ids=[s.module for s in STEPS])
def test_step_refuses_shapes_that_do_not_fit(step):
    conv2d = step.load()
    x = np.zeros((1, 4, 4, 3), np.float32)
    with pytest.raises(ValueError, match="same C"):
        conv2d(x, np.zeros((2, 3, 3, 4), np.float32))
    with pytest.raises(ValueError, match="does not fit"):
        conv2d(x, np.zeros((2, 5, 5, 3), np.float32))


def test_every_file_of_a_step_is_on_the_ladder():
    files = {path.stem for path in FOLDER.glob("step*.py")}
    assert files == {step.module for step in STEPS}
