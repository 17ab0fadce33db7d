"""Softmax cross-entropy over rows, with class weights, an ignored label and label smoothing, PyTorch's way.

With p = softmax(logits), t the target, w the class weights (ones when None), K classes and smoothing e:

    loss = -(1 - e) * w[t] * log p[t]  -  e / K * sum over j of w[j] * log p[j]
    row_weight = w[t]

Both are 0 for an ignored row. The 'mean' reduction is sum(loss) / sum(row_weight). Label smoothing: Szegedy
et al. (2015), arXiv:1512.00567.
"""

from __future__ import annotations

from typing import Any

from minidl.kernels.reference.checks import Array, expect, expect_ndim, expect_shape


class Losses:
    """The loss family of the reference back end."""

    xp: Any

    def _check_loss(
        self,
        kernel: str,
        logits: Array,
        target: Array,
        weight: Array | None,
        ignore_index: int,
        label_smoothing: float,
    ) -> None:
        expect_ndim(kernel, "logits", logits, 2)
        n, k = logits.shape
        expect_shape(kernel, "target", target, (n,))
        expect(target.dtype.kind in "iu", kernel, f"target expects integers, got {target.dtype}")
        expect(0 <= label_smoothing <= 1, kernel, f"label_smoothing expects 0 to 1, got {label_smoothing}")
        if weight is not None:
            expect_shape(kernel, "weight", weight, (k,))
        wrong = (target != ignore_index) & ((target < 0) | (target >= k))
        if bool(wrong.any()):
            row = int(wrong.argmax())
            raise ValueError(
                f"{kernel}: target expects classes 0 to {k - 1}, row {row} has {int(target[row])}"
            )

    def _log_softmax(self, logits: Array) -> Array:
        """log softmax of each row, in float64; the row's own maximum is taken out first."""
        xp = self.xp
        wide = logits.astype(xp.float64)
        if wide.shape[1]:
            wide = wide - wide.max(axis=1, keepdims=True)
        return wide - xp.log(xp.exp(wide).sum(axis=1, keepdims=True))

    def _rows(
        self, target: Array, weight: Array | None, ignore_index: int, classes: int
    ) -> tuple[Array, Array, Array]:
        """Class weights (K,), a safe target (ignored rows point at class 0) and row weights (N,), in
        float64.
        """
        xp = self.xp
        weights = xp.ones(classes, xp.float64) if weight is None else weight.astype(xp.float64)
        kept = target != ignore_index
        safe = xp.where(kept, target, xp.zeros((), target.dtype))
        return weights, safe, xp.where(kept, weights[safe], 0.0)

    def softmax_cross_entropy(
        self, logits: Array, target: Array, weight: Array | None, ignore_index: int, label_smoothing: float
    ) -> tuple[Array, Array]:
        """logits (N, K), target (N,) integers, weight (K,) or None -> (loss_per_row, row_weight), both (N,).

        loss_per_row is already multiplied by the class weight. Raises ValueError when a target is no class.
        """
        xp = self.xp
        self._check_loss("softmax_cross_entropy", logits, target, weight, ignore_index, label_smoothing)
        n, k = logits.shape
        weights, safe, row_weight = self._rows(target, weight, ignore_index, k)
        logp = self._log_softmax(logits)
        kept = target != ignore_index
        loss = -(1 - label_smoothing) * weights[safe] * logp[xp.arange(n), safe]
        if label_smoothing > 0:
            loss = loss - label_smoothing / k * (logp * weights).sum(axis=1)
        return xp.where(kept, loss, 0.0).astype(logits.dtype), row_weight.astype(logits.dtype)

    def softmax_cross_entropy_backward(
        self,
        g_per_row: Array,
        logits: Array,
        target: Array,
        weight: Array | None,
        ignore_index: int,
        label_smoothing: float,
    ) -> Array:
        """Gradient of loss_per_row by logits (N, K), each row times g_per_row (N,); ignored rows get zeros.

        glogits[j] = g * ((1 - e) * w[t] * (p[j] - [j == t])  +  e / K * (p[j] * sum(w) - w[j]))
        """
        xp = self.xp
        kernel = "softmax_cross_entropy_backward"
        self._check_loss(kernel, logits, target, weight, ignore_index, label_smoothing)
        n, k = logits.shape
        expect_shape(kernel, "g_per_row", g_per_row, (n,))
        weights, safe, row_weight = self._rows(target, weight, ignore_index, k)
        p = xp.exp(self._log_softmax(logits))
        glogits = p * row_weight[:, None]
        glogits[xp.arange(n), safe] -= row_weight
        if label_smoothing > 0:
            glogits = (1 - label_smoothing) * glogits + label_smoothing / k * (p * weights.sum() - weights)
        glogits = glogits * g_per_row[:, None]
        kept = (target != ignore_index)[:, None]
        return xp.where(kept, glogits, 0.0).astype(logits.dtype)
