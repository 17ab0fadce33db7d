"""Cluster-then-label: samples are grouped by their features, and each group takes the label of its known members.

The "cluster assumption" of Chapelle, Schoelkopf and Zien: Semi-supervised learning, 2006, sec. 1.2.2. k-means
(Lloyd, through scikit-learn) minimises sum |x - centre(x)|^2; of a group whose known members have the labels
n_1, ..., n_C times, the label is argmax n_c, and its sureness max n_c / sum n_c.
"""

from __future__ import annotations

import numpy as np

from minidl.errors import MinidlError
from minidl.semi.spread import NO_SCIKIT_LEARN, known_labels, standardised

__all__ = ["cluster_labels"]


def cluster_labels(
    features: np.ndarray, labels: np.ndarray, clusters: int = 100, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Labels int64 (N,) of all samples, and how sure they are, float64 (N,) in 0..1.

    `features` is float (N, D); `labels` int64 (N,) holds -1 where unknown. Known labels are kept (sureness 1).
    A group without a known member takes the label of the nearest group that has one, with half its sureness.
    Within a group, samples near the centre count as a little surer. Raises ValueError when no class or only
    one is known, MinidlError without scikit-learn.
    """
    labels = known_labels("cluster_labels", features, labels)
    try:
        from sklearn.cluster import KMeans
    except ImportError as error:
        raise MinidlError(NO_SCIKIT_LEARN) from error
    points = standardised(features)
    count = min(clusters, len(points))
    means = KMeans(count, n_init=1, random_state=seed % 2**32).fit(points)
    groups, centres = means.labels_, means.cluster_centers_
    known = labels >= 0
    votes = np.zeros((count, int(labels.max()) + 1))
    np.add.at(votes, (groups[known], labels[known]), 1)
    heard = votes.sum(axis=1) > 0
    label, share = votes.argmax(axis=1), votes.max(axis=1) / np.maximum(votes.sum(axis=1), 1)
    distances = ((centres[:, None] - centres[None, heard]) ** 2).sum(axis=2)
    nearest = np.flatnonzero(heard)[distances.argmin(axis=1)]
    label = np.where(heard, label, label[nearest])
    share = np.where(heard, share, share[nearest] / 2)
    spread = ((points - centres[groups]) ** 2).sum(axis=1)
    near = 1.0 / (1.0 + spread / max(float(spread.mean()), 1e-12))
    sure = share[groups] * (0.9 + 0.1 * near)
    return np.where(known, labels, label[groups]), np.where(known, 1.0, sure)
