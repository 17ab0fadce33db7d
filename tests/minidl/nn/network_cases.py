"""Whole networks in user code, written once for both libraries: a small vision transformer, an autoencoder
with transposed convolutions, attention in all its forms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tests.minidl.nn.module_cases import numbers


def vision_transformer(lib: Any, nn: Any) -> Any:
    """ViT (Dosovitskiy et al. 2020) of 2 blocks, 16 channels, 4 x 4 patches of an 8 x 8 image."""

    class Block(nn.Module):
        def __init__(self, dim: int, heads: int) -> None:
            super().__init__()
            self.norm1 = nn.LayerNorm(dim)
            self.attn = nn.MultiheadAttention(dim, heads, batch_first=True)
            self.norm2 = nn.LayerNorm(dim)
            self.mlp = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))

        def forward(self, x: Any) -> Any:
            y = self.norm1(x)
            x = x + self.attn(y, y, y, need_weights=False)[0]
            return x + self.mlp(self.norm2(x))

    class ViT(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patches = nn.Conv2d(3, 16, 4, 4)
            self.cls_token = nn.Parameter(lib.zeros(1, 1, 16))
            self.positions = nn.Parameter(lib.zeros(1, 5, 16))
            self.blocks = nn.Sequential(*[Block(16, 4) for _ in range(2)])
            self.norm = nn.LayerNorm(16)
            self.head = nn.Linear(16, 10)

        def forward(self, x: Any) -> Any:
            x = self.patches(x).flatten(2).transpose(1, 2)
            x = lib.cat([self.cls_token.expand(x.shape[0], 1, 16), x], 1) + self.positions
            return self.head(self.norm(self.blocks(x))[:, 0])

    return ViT()


def autoencoder(lib: Any, nn: Any) -> Any:
    """Strided convolutions down, transposed ones up."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1),
        nn.GroupNorm(2, 8),
        nn.SiLU(),
        nn.Conv2d(8, 12, 3, 2, 1),
        nn.BatchNorm2d(12),
        nn.LeakyReLU(0.2),
        nn.ConvTranspose2d(12, 8, 3, 2, 1, output_padding=1),
        nn.InstanceNorm2d(8, affine=True),
        nn.PReLU(8),
        nn.ConvTranspose2d(8, 3, 4, 2, 1),
        nn.Sigmoid(),
    )


NETWORKS: dict[str, Callable[[Any, Any], Any]] = {
    "vision_transformer": vision_transformer,
    "autoencoder": autoencoder,
}


def image() -> np.ndarray:
    """Two images of 8 x 8 pixels."""
    return numbers("networks/image", (2, 3, 8, 8))


def loss(name: str, F: Any, y: Any, x: Any, labels: Any) -> Any:
    """What the network is trained for."""
    return F.cross_entropy(y, labels) if name == "vision_transformer" else F.mse_loss(y, x)


LABELS = np.array([3, 7])
PADDING = np.array([[False, False, False, True, True], [False, True, False, False, False]])
PAIRS = numbers("attention/pairs", (4, 5)) > 0.6
SCORES = numbers("attention/scores", (2 * 2, 4, 5))

# constructor, forward options, whether key and value have their own sizes, whether it is self-attention
ATTENTION: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("nn.MultiheadAttention(8, 2)", {}),
    "batch_first": ("nn.MultiheadAttention(8, 2, batch_first=True)", {"average_attn_weights": False}),
    "no_bias": ("nn.MultiheadAttention(8, 4, bias=False)", {}),
    "own_sizes": ("nn.MultiheadAttention(8, 2, kdim=3, vdim=5)", {}),
    "appended": ("nn.MultiheadAttention(8, 2, add_bias_kv=True, add_zero_attn=True)", {"attn_mask": PAIRS}),
    "bool_masks": ("nn.MultiheadAttention(8, 2)", {"attn_mask": PAIRS, "key_padding_mask": PADDING}),
    "float_mask": ("nn.MultiheadAttention(8, 2)", {"attn_mask": SCORES}),
    "one_sequence": ("nn.MultiheadAttention(8, 2)", {"key_padding_mask": PADDING[0]}),
    "self": ("nn.MultiheadAttention(8, 2)", {}),
}


def attention_inputs(name: str) -> list[np.ndarray]:
    """Query, key and value: batch 2, lengths 4 and 5; one array for self-attention."""
    key, value = (3, 5) if name == "own_sizes" else (8, 8)
    shapes = [(4, 2, 8), (5, 2, key), (5, 2, value)]
    if name == "batch_first":
        shapes = [(b, a, c) for a, b, c in shapes]
    if name == "one_sequence":
        shapes = [(a, c) for a, _, c in shapes]  # type: ignore[misc]
    return [numbers(f"attention/{name}/{i}", s) for i, s in enumerate(shapes[: 1 if name == "self" else 3])]
