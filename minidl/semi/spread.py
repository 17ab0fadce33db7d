"""Label spreading: labels flow along a graph of nearest neighbours until they settle.

Zhou et al.: Learning with local and global consistency, 2004. W joins each sample with its nearest neighbours
(symmetrically), S = D^-1/2 W D^-1/2 with the degrees D, Y holds the known labels one-hot and zeros elsewhere:

    F <- alpha * S F + (1 - alpha) * Y,     whose limit is F* = (1 - alpha) (I - alpha S)^-1 Y

A sample's label is the largest entry of its row; scikit-learn's `LabelSpreading` iterates.
"""

from __future__ import annotations

import warnings

import numpy as np

from minidl.errors import MinidlError

__all__ = ["NO_SCIKIT_LEARN", "spread_labels", "standardised"]

NO_SCIKIT_LEARN = 'spread and cluster need scikit-learn, which is not installed (pip install "minidl[semi]")'


def spread_labels(
    features: np.ndarray, labels: np.ndarray, neighbours: int = 10, alpha: float = 0.5
) -> tuple[np.ndarray, np.ndarray]:
    """Labels int64 (N,) of all samples, and how sure they are, float64 (N,) in 0..1.

    `features` is float (N, D); `labels` int64 (N,) holds -1 where unknown. Known labels are kept (sureness 1);
    a sample that no label reaches has sureness 0. Raises ValueError when no label or no class but one is known,
    MinidlError without scikit-learn.
    """
    labels = known_labels("spread_labels", features, labels)
    try:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.neighbors import kneighbors_graph
        from sklearn.semi_supervised import LabelSpreading
    except ImportError as error:
        raise MinidlError(NO_SCIKIT_LEARN) from error

    def graph(x: np.ndarray, _: np.ndarray) -> object:
        joined = kneighbors_graph(x, min(neighbours, len(x) - 1))
        return joined.maximum(joined.T)

    # alpha must lie inside of (0, 1) there
    spreading = LabelSpreading(kernel=graph, alpha=float(np.clip(alpha, 1e-6, 1 - 1e-6)), max_iter=200)
    with warnings.catch_warnings(), np.errstate(invalid="ignore", divide="ignore"):
        warnings.simplefilter("ignore", ConvergenceWarning)  # 200 rounds suffice for the largest entry
        warnings.filterwarnings("ignore", "invalid value encountered", RuntimeWarning)
        spreading.fit(standardised(features), labels)
    shares = np.nan_to_num(spreading.label_distributions_)  # 0 / 0 where no label arrives
    found = spreading.classes_[shares.argmax(axis=1)].astype(np.int64)
    sure = shares.max(axis=1)
    known = labels >= 0
    return np.where(known, labels, found), np.where(known, 1.0, sure)


def known_labels(name: str, features: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """`labels` as int64, checked to fit `features` and to name two classes at least."""
    labels = np.asarray(labels, np.int64)
    if features.ndim != 2 or labels.shape != (len(features),):
        raise ValueError(
            f"{name}: features (N, D) and labels (N,) expected, got {features.shape}, {labels.shape}"
        )
    if len(np.unique(labels[labels >= 0])) < 2:
        raise ValueError(f"{name}: labels of two classes at least must be known")
    return labels


def standardised(features: np.ndarray, dimensions: int = 64) -> np.ndarray:
    """The first principal components of features (N, D), scaled by one number to a mean square of 1.

    Distances between neighbours hardly change, and cost a fraction.
    """
    centred = np.asarray(features, np.float64) - features.mean(axis=0)
    if centred.shape[1] > dimensions:
        # from the covariance: N is usually far larger than D
        _, axes = np.linalg.eigh(centred.T @ centred)
        centred = centred @ axes[:, : -dimensions - 1 : -1]
    return np.asarray(centred / max(float(np.sqrt((centred**2).mean())), 1e-12))
