"""What all steps share: the sizes, a padded copy of the images, and how Numba compiles a step.

Every step is one function ``conv2d(x, w, stride, pad)``:

    x  (N, H, W, C)     images, channels last: the C numbers of a pixel lie next to each other
    w  (O, KH, KW, C)   weights
    y  (N, OH, OW, O)   y[n, i, j, o] = sum of  x[n, i*stride + r - pad, j*stride + s - pad, c] * w[o, r, s, c]

all float32 and C-contiguous, ``stride`` and ``pad`` the same in both directions, pixels outside of x are 0.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]

# As the production kernels are compiled (a*b + c may be one instruction, sums are never reordered), but
# without a cache on disk: a reader who changes a step runs what the file says.
step: Any = numba.njit(nogil=True, fastmath={"contract"}, error_model="numpy")


def output_size(x: Array, w: Array, stride: int, pad: int) -> tuple[int, int]:
    """Rows and columns of the output.

    Raises:
        ValueError: the channels differ, or the window is larger than the padded image.
    """
    if x.ndim != 4 or w.ndim != 4 or x.shape[3] != w.shape[3]:
        raise ValueError(
            f"conv2d: x (N, H, W, C) and w (O, KH, KW, C) expected, with the same C; got {x.shape} and {w.shape}"
        )
    rows = (x.shape[1] + 2 * pad - w.shape[1]) // stride + 1
    cols = (x.shape[2] + 2 * pad - w.shape[2]) // stride + 1
    if rows < 1 or cols < 1:
        raise ValueError(
            f"conv2d: a window of {w.shape[1:3]} does not fit into x {x.shape} with padding {pad}"
        )
    return rows, cols


def padded(x: Array, pad: int) -> Array:
    """x with ``pad`` zero pixels on each side, so that no loop has to ask whether it is inside the image."""
    return np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
