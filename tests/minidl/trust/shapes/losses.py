"""Losses and distances, with every reduction."""

from __future__ import annotations

from typing import Any

import numpy as np

import minidl.nn.functional as F
from minidl import Tensor
from tests.minidl.trust.shapes.draws import Case, Draw, strategy

REDUCE = {"mean": np.mean, "sum": np.sum, "none": lambda a: a}


def _reduction(d: Draw) -> str:
    return d.pick("mean", "sum", "none")


def _apart(d: Draw, shape: tuple[int, ...], *kinks: float) -> list[np.ndarray]:
    """x and a target whose difference lies at no kink."""
    target = d.normal(shape)
    return [target + d.avoiding(shape, *kinks), target]


@strategy("mse_loss", "l1_loss", "huber_loss", "smooth_l1_loss")
def distances(d: Draw, name: str) -> Case:
    reduction, shape = _reduction(d), d.shape(low=1)
    corner = d.pick(0.7, 1.0)
    options: dict[str, Any] = {"huber_loss": {"delta": corner}, "smooth_l1_loss": {"beta": corner}}.get(
        name, {}
    )

    def exact(x: np.ndarray, t: np.ndarray) -> np.ndarray:
        size = np.abs(x - t)
        huber = np.where(size < corner, size**2 / 2, corner * (size - corner / 2))
        loss = {
            "mse_loss": size**2,
            "l1_loss": size,
            "huber_loss": huber,
            "smooth_l1_loss": huber / corner,
        }[name]
        return np.asarray(REDUCE[reduction](loss))

    return Case(
        lambda x, t: getattr(F, name)(x, t, reduction=reduction, **options),
        _apart(d, shape, -corner, 0, corner),
        exact,
    )


@strategy("binary_cross_entropy", "binary_cross_entropy_with_logits")
def binary(d: Draw, name: str) -> Case:
    reduction, shape = _reduction(d), d.shape(low=1)
    logits = name.endswith("logits")
    x = d.normal(shape) if logits else d.uniform(shape, 0.1, 0.9)
    positive = d.uniform(shape[-1:], 0.5, 2) if logits and shape and d.flag() else None

    def run(x: Any, t: Any) -> Any:
        if positive is not None:
            return F.binary_cross_entropy_with_logits(x, t, pos_weight=Tensor(positive), reduction=reduction)
        return getattr(F, name)(x, t, reduction=reduction)

    def exact(x: np.ndarray, t: np.ndarray) -> np.ndarray:
        p = 1 / (1 + np.exp(-x)) if logits else x
        w = 1.0 if positive is None else positive
        return np.asarray(REDUCE[reduction](-(w * t * np.log(p) + (1 - t) * np.log(1 - p))))

    return Case(run, [x, d.uniform(shape, 0.1, 0.9)], exact)


@strategy("cross_entropy", "nll_loss")
def classes(d: Draw, name: str) -> Case:
    """Class labels, of which some may be ignored, or (cross-entropy) soft targets."""
    reduction, count = _reduction(d), d.int(2, 4)
    lead = (d.int(1, 4),)
    rest = d.shape(0, 2, 1, 3)
    x = d.normal((*lead, count, *rest))
    weight = Tensor(d.uniform((count,), 0.3, 2)) if d.flag() else None
    options: dict[str, Any] = {"reduction": reduction}
    if name == "cross_entropy":
        options["label_smoothing"] = d.pick(0.0, 0.1)
        if d.flag():
            return Case(
                lambda x, t: F.cross_entropy(x, F.softmax(t, 1), weight, **options), [x, d.normal(x.shape)]
            )
    labels = d.ints((*lead, *rest), count)
    ignored = labels.copy()
    ignored.reshape(-1)[1:] = np.where(d.rng.random(labels.size - 1) < 0.3, -100, labels.reshape(-1)[1:])

    def exact(x: np.ndarray) -> np.ndarray:
        logp = x - np.log(np.exp(x).sum(1, keepdims=True)) if name == "cross_entropy" else x
        w = np.ones(count) if weight is None else weight.data
        kept = ignored != -100
        safe = np.where(kept, ignored, 0)
        smooth = options.get("label_smoothing", 0.0)
        picked = np.take_along_axis(logp, safe[:, None], 1)[:, 0]
        wide = w.reshape(count, *[1] * len(rest))
        loss = -(1 - smooth) * w[safe] * picked - smooth / count * (logp * wide).sum(1)
        loss = np.where(kept, loss, 0)
        total = (w[safe] * kept).sum()
        return np.asarray(loss if reduction == "none" else loss.sum() / (total if reduction == "mean" else 1))

    return Case(lambda x: getattr(F, name)(x, ignored, weight, **options), [x], exact)


@strategy("kl_div")
def kl_div(d: Draw, name: str) -> Case:
    shape, reduction, log = d.shape(1, low=1), d.pick("mean", "sum", "none", "batchmean"), d.flag()
    target = d.normal(shape) if log else d.uniform(shape, 0.1, 0.9)

    def exact(x: np.ndarray, t: np.ndarray) -> np.ndarray:
        loss = np.exp(t) * (t - x) if log else t * (np.log(t) - x)
        return np.asarray(loss.sum() / shape[0] if reduction == "batchmean" else REDUCE[reduction](loss))

    return Case(lambda x, t: F.kl_div(x, t, reduction, log), [d.normal(shape), target], exact)


@strategy("cosine_similarity", "pairwise_distance", "normalize")
def lengths(d: Draw, name: str) -> Case:
    if name == "cosine_similarity":
        shape = d.shape(1, low=2)
        dim = d.axis(len(shape))
        exact = lambda a, b: (a * b).sum(dim) / np.sqrt((a * a).sum(dim) * (b * b).sum(dim))  # noqa: E731
        return Case(lambda a, b: F.cosine_similarity(a, b, dim), [d.normal(shape), d.normal(shape)], exact)
    p = d.pick(2.0, 3.0, 1.0)
    if name == "normalize":
        shape = d.shape(1, low=1)
        dim = d.axis(len(shape))
        return Case(
            lambda x: F.normalize(x, p, dim),
            [d.avoiding(shape, 0)],
            lambda x: x / (np.abs(x) ** p).sum(dim, keepdims=True) ** (1 / p),
        )
    shape = d.shape(1, 2, 1)
    arrays = _apart(d, shape, -1e-6)
    keep = d.flag()
    return Case(
        lambda a, b: F.pairwise_distance(a, b, p, keepdim=keep),
        arrays,
        lambda a, b: (np.abs(a - b + 1e-6) ** p).sum(-1, keepdims=keep) ** (1 / p),
    )


@strategy("cosine_embedding_loss", "triplet_margin_loss")
def embeddings(d: Draw, name: str) -> Case:
    """Margins that every sample is inside of: no kinks."""
    reduction, n, width = _reduction(d), d.int(1, 4), d.int(2, 4)
    a, b, c = (d.normal((n, width)) for _ in range(3))
    if name == "triplet_margin_loss":
        return Case(
            lambda a, p, n: F.triplet_margin_loss(a, p, n, margin=20.0, reduction=reduction), [a, b, c]
        )
    signs = np.sign(d.normal((n,))).astype(int)
    return Case(lambda a, b: F.cosine_embedding_loss(a, b, signs, -1.1, reduction), [a, b])


@strategy("hinge_embedding_loss", "margin_ranking_loss")
def hinges(d: Draw, name: str) -> Case:
    reduction, shape = _reduction(d), d.shape(1, low=1)
    signs = np.where(d.mask(shape), 1, -1)

    def exact(x: np.ndarray) -> np.ndarray:
        return np.asarray(REDUCE[reduction](np.where(signs == 1, x, np.maximum(0, 0.7 - x))))

    if name == "hinge_embedding_loss":
        return Case(
            lambda x: F.hinge_embedding_loss(x, signs, 0.7, reduction), [d.avoiding(shape, 0.7)], exact
        )
    return Case(
        lambda a, b: F.margin_ranking_loss(a, b, signs, 0.3, reduction),
        _apart(d, shape, -0.3, 0.3),
        lambda a, b: np.asarray(REDUCE[reduction](np.maximum(0, -signs * (a - b) + 0.3))),
    )
