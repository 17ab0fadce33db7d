"""Activations, losses, distances, embedding, dropout, attention."""

from __future__ import annotations

import numpy as np

from minidl.testing.cases.wrong.use import IMAGES, INTS, MATRIX, SIGNALS, VECTOR3, VECTOR4, Wrong

TABLE = [
    Wrong(
        "prelu",
        lambda m, F: F.prelu(IMAGES, m.ones(3)),
        ValueError,
        "prelu: weight expects shape (1,) or (4,), got (3,)",
    ),
    Wrong(
        "glu",
        lambda m, F: F.glu(IMAGES, 3),
        ValueError,
        "glu: dim 3 expects an even size, got 5 in shape (2, 4, 6, 5)",
    ),
    Wrong(
        "gelu",
        lambda m, F: F.gelu(IMAGES, "erf"),
        ValueError,
        "gelu: approximate expects 'none' or 'tanh', got 'erf'",
    ),
    Wrong(
        "softplus",
        lambda m, F: F.softplus(IMAGES, 0),
        ValueError,
        "softplus: beta expects a number other than 0, got 0",
    ),
    Wrong("elu", lambda m, F: F.elu(INTS), TypeError, "elu: x expects a floating dtype, got int64"),
    Wrong(
        "celu", lambda m, F: F.celu(MATRIX, 0), ValueError, "celu: alpha expects a number other than 0, got 0"
    ),
    Wrong("selu", lambda m, F: F.selu(INTS), TypeError, "selu: x expects a floating dtype, got int64"),
    Wrong("silu", lambda m, F: F.silu(INTS), TypeError, "silu: x expects a floating dtype, got int64"),
    Wrong("mish", lambda m, F: F.mish(INTS), TypeError, "mish: x expects a floating dtype, got int64"),
    Wrong(
        "hardswish",
        lambda m, F: F.hardswish(INTS),
        TypeError,
        "hardswish: x expects a floating dtype, got int64",
    ),
    Wrong(
        "hardsigmoid",
        lambda m, F: F.hardsigmoid(INTS),
        TypeError,
        "hardsigmoid: x expects a floating dtype, got int64",
    ),
    Wrong(
        "hardtanh",
        lambda m, F: F.hardtanh(MATRIX, 1, -1),
        ValueError,
        "hardtanh: min_val 1 is greater than max_val -1",
    ),
    Wrong(
        "hardtanh",
        lambda m, F: F.hardtanh(INTS),
        TypeError,
        "hardtanh: x expects a floating dtype, got int64",
    ),
    Wrong("relu6", lambda m, F: F.relu6(INTS), TypeError, "relu6: x expects a floating dtype, got int64"),
    Wrong(
        "leaky_relu",
        lambda m, F: F.leaky_relu(INTS),
        TypeError,
        "leaky_relu: x expects a floating dtype, got int64",
    ),
    Wrong(
        "logsigmoid",
        lambda m, F: F.logsigmoid(INTS),
        TypeError,
        "logsigmoid: x expects a floating dtype, got int64",
    ),
    Wrong(
        "softsign",
        lambda m, F: F.softsign(INTS),
        TypeError,
        "softsign: x expects a floating dtype, got int64",
    ),
    Wrong(
        "cross_entropy",
        lambda m, F: F.cross_entropy(MATRIX, [0, 1]),
        ValueError,
        "cross_entropy: logits of shape (3, 4) expect a target of shape (N, ...) without C, got (2,)",
    ),
    Wrong(
        "cross_entropy",
        lambda m, F: F.cross_entropy(MATRIX, [0, 1, 4]),
        ValueError,
        "cross_entropy: target 4 is not a class index in [0, 4)",
    ),
    Wrong(
        "cross_entropy",
        lambda m, F: F.cross_entropy(MATRIX, [0, 1, 2], VECTOR4[:3]),
        ValueError,
        "cross_entropy: weight expects shape (4,), got (3,)",
    ),
    Wrong(
        "cross_entropy",
        lambda m, F: F.cross_entropy(MATRIX, [0, 1, 2], reduction="avg"),
        ValueError,
        "cross_entropy: reduction expects 'mean', 'sum' or 'none', got 'avg'",
    ),
    Wrong(
        "cross_entropy",
        lambda m, F: F.cross_entropy(MATRIX, [0, 1, 2], label_smoothing=2),
        ValueError,
        "cross_entropy: label_smoothing expects a value from 0 to 1, got 2",
    ),
    Wrong(
        "nll_loss",
        lambda m, F: F.nll_loss(MATRIX, [0, 1]),
        ValueError,
        "nll_loss: x of shape (3, 4) expects a target of that shape without C, got (2,)",
    ),
    Wrong(
        "nll_loss",
        lambda m, F: F.nll_loss(MATRIX, [0, 1, 4]),
        ValueError,
        "nll_loss: target 4 is not a class index in [0, 4)",
    ),
    Wrong(
        "mse_loss",
        lambda m, F: F.mse_loss(MATRIX, VECTOR3),
        ValueError,
        "mse_loss: target expects the shape of x (3, 4), got (3,)",
    ),
    Wrong(
        "mse_loss",
        lambda m, F: F.mse_loss(MATRIX, MATRIX, "avg"),
        ValueError,
        "mse_loss: reduction expects 'mean', 'sum' or 'none', got 'avg'",
    ),
    Wrong(
        "l1_loss",
        lambda m, F: F.l1_loss(MATRIX, VECTOR3),
        ValueError,
        "l1_loss: target expects the shape of x (3, 4), got (3,)",
    ),
    Wrong(
        "l1_loss", lambda m, F: F.l1_loss(MATRIX, "a"), TypeError, "l1_loss: target expects numbers, got str"
    ),
    Wrong(
        "smooth_l1_loss",
        lambda m, F: F.smooth_l1_loss(MATRIX, VECTOR3),
        ValueError,
        "smooth_l1_loss: target expects the shape of x (3, 4), got (3,)",
    ),
    Wrong(
        "smooth_l1_loss",
        lambda m, F: F.smooth_l1_loss(MATRIX, MATRIX, beta=-1),
        ValueError,
        "smooth_l1_loss: beta expects a number >= 0, got -1",
    ),
    Wrong(
        "huber_loss",
        lambda m, F: F.huber_loss(MATRIX, MATRIX, delta=0),
        ValueError,
        "huber_loss: delta expects a number > 0, got 0",
    ),
    Wrong(
        "binary_cross_entropy",
        lambda m, F: F.binary_cross_entropy(MATRIX + 1, MATRIX),
        ValueError,
        "binary_cross_entropy: x expects values in [0, 1], got 1.5 to 1.5",
    ),
    Wrong(
        "binary_cross_entropy",
        lambda m, F: F.binary_cross_entropy(MATRIX, VECTOR3),
        ValueError,
        "binary_cross_entropy: target expects the shape of x (3, 4), got (3,)",
    ),
    Wrong(
        "binary_cross_entropy_with_logits",
        lambda m, F: F.binary_cross_entropy_with_logits(MATRIX, VECTOR3),
        ValueError,
        "binary_cross_entropy_with_logits: target expects the shape of x (3, 4), got (3,)",
    ),
    Wrong(
        "kl_div",
        lambda m, F: F.kl_div(MATRIX, VECTOR3),
        ValueError,
        "kl_div: target expects the shape of x (3, 4), got (3,)",
    ),
    Wrong(
        "kl_div",
        lambda m, F: F.kl_div(MATRIX, MATRIX, "avg"),
        ValueError,
        "kl_div: reduction expects 'mean', 'sum' or 'none', got 'avg'",
    ),
    Wrong(
        "cosine_embedding_loss",
        lambda m, F: F.cosine_embedding_loss(MATRIX, MATRIX, np.zeros(3)),
        ValueError,
        "cosine_embedding_loss: target expects 1 and -1, got other values",
    ),
    Wrong(
        "hinge_embedding_loss",
        lambda m, F: F.hinge_embedding_loss(MATRIX, VECTOR3),
        ValueError,
        "hinge_embedding_loss: target expects shape (3, 4), got (3,)",
    ),
    Wrong(
        "hinge_embedding_loss",
        lambda m, F: F.hinge_embedding_loss(MATRIX, MATRIX * 0),
        ValueError,
        "hinge_embedding_loss: target expects 1 and -1, got other values",
    ),
    Wrong(
        "margin_ranking_loss",
        lambda m, F: F.margin_ranking_loss(VECTOR4, VECTOR3, 1),
        ValueError,
        "margin_ranking_loss: x2 expects the shape of x (4,), got (3,)",
    ),
    Wrong(
        "margin_ranking_loss",
        lambda m, F: F.margin_ranking_loss(VECTOR4, VECTOR4, VECTOR4 * 0),
        ValueError,
        "margin_ranking_loss: target expects 1 and -1, got other values",
    ),
    Wrong(
        "triplet_margin_loss",
        lambda m, F: F.triplet_margin_loss(MATRIX, MATRIX, MATRIX, margin=0),
        ValueError,
        "triplet_margin_loss: margin expects a number > 0, got 0",
    ),
    Wrong(
        "triplet_margin_loss",
        lambda m, F: F.triplet_margin_loss(MATRIX, VECTOR3, MATRIX),
        ValueError,
        "triplet_margin_loss: positive expects the shape of x (3, 4), got (3,)",
    ),
    Wrong(
        "cosine_similarity",
        lambda m, F: F.cosine_similarity(MATRIX, VECTOR3),
        ValueError,
        "cosine_similarity: shapes (3, 4) and (3,) do not broadcast",
    ),
    Wrong(
        "cosine_similarity",
        lambda m, F: F.cosine_similarity(MATRIX, MATRIX, 2),
        IndexError,
        "cosine_similarity: dim 2 is out of range for a tensor of 2 dimensions",
    ),
    Wrong(
        "pairwise_distance",
        lambda m, F: F.pairwise_distance(MATRIX, MATRIX, p=-1),
        ValueError,
        "pairwise_distance: p expects a number > 0, got -1",
    ),
    Wrong(
        "pairwise_distance",
        lambda m, F: F.pairwise_distance(MATRIX, VECTOR3),
        ValueError,
        "pairwise_distance: shapes (3, 4) and (3,) do not broadcast",
    ),
    Wrong(
        "normalize",
        lambda m, F: F.normalize(MATRIX, dim=2),
        IndexError,
        "normalize: dim 2 is out of range for a tensor of 2 dimensions",
    ),
    Wrong(
        "embedding",
        lambda m, F: F.embedding(np.array([3]), MATRIX),
        IndexError,
        "embedding: index expects values in [0, 3), got 3 to 3",
    ),
    Wrong(
        "embedding",
        lambda m, F: F.embedding(np.array([0.5]), MATRIX),
        TypeError,
        "embedding: index expects integers, got float64",
    ),
    Wrong(
        "embedding",
        lambda m, F: F.embedding(np.array([0]), MATRIX, 4),
        ValueError,
        "embedding: padding_idx expects a row in [-3, 3), got 4",
    ),
    Wrong(
        "embedding",
        lambda m, F: F.embedding(np.array([0]), VECTOR4),
        ValueError,
        "embedding: weight expects shape (V, D), got (4,)",
    ),
    Wrong(
        "dropout",
        lambda m, F: F.dropout(MATRIX, 1.5),
        ValueError,
        "dropout: p expects a probability from 0 to 1, got 1.5",
    ),
    Wrong(
        "dropout", lambda m, F: F.dropout(INTS), TypeError, "dropout: x expects a floating dtype, got int64"
    ),
    Wrong(
        "dropout1d",
        lambda m, F: F.dropout1d(VECTOR4),
        ValueError,
        "dropout1d: x expects 3 dimensions (N, C, L) or one sample, got shape (4,)",
    ),
    Wrong(
        "dropout2d",
        lambda m, F: F.dropout2d(MATRIX),
        ValueError,
        "dropout2d: x expects 4 dimensions (N, C, H, W) or one sample, got shape (3, 4)",
    ),
    Wrong(
        "stochastic_depth",
        lambda m, F: F.stochastic_depth(MATRIX, 0.5, "column"),
        ValueError,
        "stochastic_depth: mode expects 'row' or 'batch', got 'column'",
    ),
    Wrong(
        "stochastic_depth",
        lambda m, F: F.stochastic_depth(MATRIX, 2),
        ValueError,
        "stochastic_depth: p expects a probability from 0 to 1, got 2",
    ),
    Wrong(
        "scaled_dot_product_attention",
        lambda m, F: F.scaled_dot_product_attention(SIGNALS, SIGNALS, SIGNALS[:, :3]),
        ValueError,
        "scaled_dot_product_attention: query (2, 4, 9), key (2, 4, 9) and value (2, 3, 9) do not fit "
        "together: expected (..., L, E), (..., S, E) and (..., S, V)",
    ),
    Wrong(
        "scaled_dot_product_attention",
        lambda m, F: F.scaled_dot_product_attention(SIGNALS, SIGNALS, SIGNALS, np.ones((4, 3), bool)),
        ValueError,
        "scaled_dot_product_attention: attn_mask of shape (4, 3) does not broadcast to (2, 4, 4)",
    ),
    Wrong(
        "scaled_dot_product_attention",
        lambda m, F: F.scaled_dot_product_attention(VECTOR4, VECTOR4, VECTOR4),
        ValueError,
        "scaled_dot_product_attention: query expects at least 2 dimensions (..., L, E), got shape (4,)",
    ),
]
