"""Losses and distances."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from minidl.testing.cases.entry import Entry, ints

A = (4, 5)
PAIR = (A, A)
LABELS = np.array([1, 0, 4, 2])
IGNORED = np.array([1, -100, 4, -100])
MAP_LABELS = np.random.default_rng(4).integers(0, 5, (2, 3, 2))
CLASS_WEIGHTS = np.array([0.2, 1.0, 3.0, 0.5, 1.7])
SIGNS = np.array([1, -1, -1, 1])
SIGN_TABLE = np.random.default_rng(7).choice([-1, 1], A)


def _call(name: str, **options: Any) -> Callable[..., Any]:
    """F.name(*inputs, **options)."""
    return lambda m, F, *inputs: getattr(F, name)(*inputs, **options)


def _labelled(name: str, labels: np.ndarray, **options: Any) -> Callable[..., Any]:
    """The same with constant labels after the inputs."""
    return lambda m, F, *inputs: getattr(F, name)(*inputs, ints(m, labels), **options)


def _nll(labels: np.ndarray, weighted: bool = False, **options: Any) -> Callable[..., Any]:
    def run(m: Any, F: Any, x: Any) -> Any:
        weight = m.tensor(CLASS_WEIGHTS, dtype=x.dtype) if weighted else None
        return F.nll_loss(x, ints(m, labels), weight, **options)

    return run


def _soft(weighted: bool = False, **options: Any) -> Callable[..., Any]:
    """Soft targets, themselves a softmax, so that they are probabilities and have gradients."""

    def run(m: Any, F: Any, x: Any, t: Any) -> Any:
        weight = m.tensor(CLASS_WEIGHTS, dtype=x.dtype) if weighted else None
        return F.cross_entropy(x, F.softmax(t, 1), weight, **options)

    return run


def _bce_logits(m: Any, F: Any, x: Any, t: Any) -> Any:
    w, p = (m.tensor(a, dtype=x.dtype) for a in (np.linspace(0.5, 2, 4)[:, None], np.linspace(0.3, 3, 5)))
    return F.binary_cross_entropy_with_logits(x, t, weight=w, pos_weight=p)


TABLE = [
    Entry("mse_loss", _call("mse_loss"), PAIR),
    Entry("mse_loss_none", _call("mse_loss", reduction="none"), PAIR),
    Entry("mse_loss_sum", _call("mse_loss", reduction="sum"), PAIR),
    Entry("l1_loss", _call("l1_loss"), PAIR),
    Entry("smooth_l1_loss", _call("smooth_l1_loss", reduction="none"), PAIR),
    Entry("smooth_l1_loss_beta", _call("smooth_l1_loss", beta=0.4), PAIR),
    Entry("smooth_l1_loss_zero", _call("smooth_l1_loss", beta=0.0, reduction="sum"), PAIR),
    Entry("huber_loss", _call("huber_loss", delta=0.7), PAIR),
    Entry("binary_cross_entropy", _call("binary_cross_entropy"), PAIR, low=0.1, high=0.9),
    Entry(
        "binary_cross_entropy_weight",
        lambda m, F, x, t: F.binary_cross_entropy(x, t, t.detach() * 0 + 2.5, reduction="none"),
        PAIR,
        low=0.1,
        high=0.9,
    ),
    Entry(
        "binary_cross_entropy_with_logits",
        _call("binary_cross_entropy_with_logits", reduction="sum"),
        PAIR,
    ),
    Entry("binary_cross_entropy_with_logits_weights", _bce_logits, PAIR),
    Entry("nll_loss", _nll(LABELS), (A,)),
    Entry("nll_loss_weight_ignore", _nll(IGNORED, True), (A,)),
    Entry("nll_loss_none", _nll(IGNORED, True, reduction="none"), (A,)),
    Entry("nll_loss_sum", _nll(LABELS, reduction="sum", ignore_index=4), (A,)),
    Entry("nll_loss_map", _nll(MAP_LABELS, True), ((2, 5, 3, 2),)),
    Entry("nll_loss_one_sample", _nll(np.array(3), reduction="none"), ((5,),)),
    Entry("cross_entropy_one_sample", _labelled("cross_entropy", np.array(3)), ((5,),)),
    Entry("cross_entropy_soft", _soft(), PAIR),
    Entry("cross_entropy_soft_weight", _soft(True, label_smoothing=0.2), PAIR),
    Entry("cross_entropy_soft_none", _soft(reduction="none"), PAIR),
    Entry("cross_entropy_soft_map", _soft(True), ((2, 5, 3), (2, 5, 3))),
    Entry("kl_div", _call("kl_div"), PAIR, low=0.1, high=0.9),
    Entry("kl_div_batchmean", _call("kl_div", reduction="batchmean"), PAIR, low=0.1, high=0.9),
    Entry("kl_div_log_target", _call("kl_div", reduction="sum", log_target=True), PAIR),
    Entry("cosine_similarity", _call("cosine_similarity"), PAIR),
    Entry("cosine_similarity_broadcast", _call("cosine_similarity", dim=-1), ((4, 1, 5), (3, 5))),
    Entry("cosine_embedding_loss", _labelled("cosine_embedding_loss", SIGNS, margin=-0.9), PAIR),
    Entry(
        "cosine_embedding_loss_none",
        _labelled("cosine_embedding_loss", SIGNS, margin=-0.9, reduction="none"),
        PAIR,
    ),
    Entry("pairwise_distance", _call("pairwise_distance"), PAIR),
    Entry("pairwise_distance_cubic", _call("pairwise_distance", p=3.0, keepdim=True), PAIR),
    Entry("pairwise_distance_sum", _call("pairwise_distance", p=1.0, eps=0.0), PAIR),
    Entry("triplet_margin_loss", _call("triplet_margin_loss", margin=4.0), (A, A, A)),
    Entry(
        "triplet_margin_loss_swap",
        _call("triplet_margin_loss", margin=4.0, swap=True, reduction="none"),
        (A, A, A),
    ),
    Entry(
        "hinge_embedding_loss", _labelled("hinge_embedding_loss", SIGN_TABLE, margin=0.35), (A,), spread=True
    ),
    Entry("margin_ranking_loss", _labelled("margin_ranking_loss", SIGN_TABLE, margin=0.3), PAIR),
    Entry("normalize", _call("normalize"), (A,)),
    Entry("normalize_options", _call("normalize", p=3.0, dim=0), (A,)),
]
