"""Compile what fine-tuning needs: one tiny training step and one evaluation of each kind of block."""

from __future__ import annotations

import numpy as np

import minidl
from minidl import models, optim
from minidl.nn import functional as F


def warm_up() -> None:
    """Train tiny networks of both kinds for one step with each optimizer, so that every kernel is compiled
    and kept.
    """
    pixels = np.random.default_rng(0).standard_normal((4, 32, 32, 3), dtype=np.float32).transpose(0, 3, 1, 2)
    labels = np.array([0, 1, 0, 1])
    for block, stem in (("basic", "imagenet"), ("bottleneck", "cifar")):
        model = models.ResNet(block, (1, 1), (16, 32), 2, stem=stem)
        for kind in (optim.SGD, optim.AdamW, optim.RMSprop):
            optimizer = kind(model.parameters(), 1e-3)
            optimizer.zero_grad()
            F.cross_entropy(model(minidl.Tensor(pixels)), labels).backward()
            optimizer.step()
        model.eval()
        with minidl.no_grad():
            model(minidl.Tensor(pixels))
