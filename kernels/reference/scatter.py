"""Rows added at places that may occur several times: the adjoint of picking rows."""

from __future__ import annotations

from typing import Any

import numpy

from minidl.kernels.reference.checks import Array, expect, expect_ndim, expect_shape


class Scattering:
    """The scatter family of the reference back end."""

    xp: Any

    def scatter_add(self, values: Array, index: Array, rows: int) -> Array:
        """values (M, D), index (M,) int64 in [0, rows) -> zeros (rows, D) with each row of values added at its index.

        Rows of one index are added in a fixed order: no atomics, so the result is the same at every run.
        """
        self._expect_scatter(values, index)
        xp = self.xp
        out = xp.zeros((rows, values.shape[1]), values.dtype)
        if xp is numpy and values.shape[1] == 1:
            numpy.add.at(out[:, 0], index, values[:, 0])
        elif values.size:
            order = xp.argsort(index, kind="stable")
            places = index[order]
            starts = xp.flatnonzero(xp.concatenate([xp.ones(1, bool), places[1:] != places[:-1]]))
            out[places[starts]] = xp.add.reduceat(values[order], starts, 0)
        return out

    def _expect_scatter(self, values: Array, index: Array) -> None:
        expect_ndim("scatter_add", "values", values, 2)
        expect_shape("scatter_add", "index", index, values.shape[:1])
        expect(index.dtype == numpy.int64, "scatter_add", f"index expects int64, got {index.dtype}")
