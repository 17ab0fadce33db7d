"""Modules as text, to be built in both libraries with ``nn`` at hand, and the shapes of their inputs."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np

Shape = tuple[int, ...]
SIGNAL, IMAGE, ROWS = (2, 4, 9), (2, 4, 7, 6), (5, 4)

CASES: dict[str, tuple[Shape, ...]] = {
    "nn.Conv1d(4, 6, 3)": (SIGNAL,),
    "nn.Conv1d(4, 6, 3, 2, 1, 2, 2, False)": (SIGNAL,),
    "nn.Conv1d(4, 6, 3, padding=2, padding_mode='circular')": (SIGNAL,),
    "nn.Conv2d(4, 6, 3, padding='same')": (IMAGE,),
    "nn.Conv2d(4, 6, (3, 2), (2, 1), 1, 1, 2)": (IMAGE,),
    "nn.Conv2d(4, 6, 3, padding=(2, 1), padding_mode='reflect', bias=False)": (IMAGE,),
    "nn.Conv2d(4, 6, 4, padding='same', dilation=(1, 2), padding_mode='replicate')": (IMAGE,),
    "nn.ConvTranspose1d(4, 6, 3, 2, 1, 1)": (SIGNAL,),
    "nn.ConvTranspose2d(4, 6, 3)": (IMAGE,),
    "nn.ConvTranspose2d(4, 6, 3, 2, (1, 0), 1, 2, False, 2)": (IMAGE,),
    "nn.Linear(4, 3)": (ROWS,),
    "nn.Linear(4, 3, bias=False)": ((2, 5, 4),),
    "nn.Identity()": (ROWS,),
    "nn.Identity(54, unused=3)": (ROWS,),
    "nn.Flatten()": (IMAGE,),
    "nn.Unflatten(1, (2, 2))": (IMAGE,),
    "nn.BatchNorm1d(4)": (ROWS,),
    "nn.BatchNorm1d(4, affine=False)": (SIGNAL,),
    "nn.BatchNorm2d(4, 1e-3, None, track_running_stats=False)": (IMAGE,),
    "nn.LayerNorm(6)": (IMAGE,),
    "nn.LayerNorm((7, 6), 1e-3, bias=False)": (IMAGE,),
    "nn.LayerNorm([4, 7, 6], elementwise_affine=False)": (IMAGE,),
    "nn.GroupNorm(2, 4)": (IMAGE,),
    "nn.GroupNorm(4, 4, affine=False)": ((5, 4, 3),),
    "nn.InstanceNorm1d(4, affine=True)": (SIGNAL,),
    "nn.InstanceNorm2d(4)": (IMAGE,),
    "nn.InstanceNorm2d(4, track_running_stats=True)": (IMAGE,),
    "nn.InstanceNorm2d(4, 1e-2)": (IMAGE[1:],),
    "nn.MaxPool1d(2)": (SIGNAL,),
    "nn.MaxPool1d(3, 2, 1, 2, ceil_mode=True)": (SIGNAL,),
    "nn.MaxPool2d(2)": (IMAGE,),
    "nn.MaxPool2d(3, (2, 1), 1, 1, False, True)": (IMAGE,),
    "nn.AvgPool1d(2, padding=1)": (SIGNAL,),
    "nn.AvgPool2d(3, 2, 1, True, False)": (IMAGE,),
    "nn.AvgPool2d((3, 2), divisor_override=4)": (IMAGE,),
    "nn.AdaptiveAvgPool1d(4)": (SIGNAL,),
    "nn.AdaptiveAvgPool2d((None, 4))": (IMAGE,),
    "nn.AdaptiveAvgPool2d(1)": (IMAGE,),
    "nn.AdaptiveMaxPool1d(4)": (SIGNAL,),
    "nn.AdaptiveMaxPool2d(3)": (IMAGE,),
    "nn.MaxUnpool2d(2)": (),
    "nn.MaxUnpool1d(3, 2)": (),
    "nn.Unfold(2)": (IMAGE,),
    "nn.Fold((3, 4), kernel_size=(2, 2))": ((2, 8, 6),),
    "nn.Upsample(scale_factor=2)": (IMAGE,),
    "nn.Upsample((3, 4), mode='bilinear', align_corners=True)": (IMAGE,),
    "nn.Upsample(scale_factor=(1.5, 0.7), mode='bicubic')": (IMAGE,),
    "nn.UpsamplingNearest2d(scale_factor=2)": (IMAGE,),
    "nn.UpsamplingBilinear2d(size=(5, 3))": (IMAGE,),
    "nn.PixelShuffle(2)": (IMAGE,),
    "nn.PixelUnshuffle(2)": ((2, 3, 4, 6),),
    "nn.ZeroPad1d((1, 2))": (SIGNAL,),
    "nn.ZeroPad2d((1, -2, 0, 3))": (IMAGE,),
    "nn.ConstantPad1d(2, 3.5)": (SIGNAL,),
    "nn.ConstantPad2d(1, 2.5)": (IMAGE,),
    "nn.ReflectionPad1d((3, 8))": (SIGNAL,),
    "nn.ReflectionPad2d((1, 2, 3, 0))": (IMAGE,),
    "nn.ReplicationPad1d(2)": (SIGNAL,),
    "nn.ReplicationPad2d((1, 2, 0, 9))": (IMAGE,),
    "nn.CircularPad1d((9, 0))": (SIGNAL,),
    "nn.CircularPad2d((1, 2, 3, 0))": (IMAGE,),
    "nn.ReLU()": (ROWS,),
    "nn.ReLU(inplace=True)": (ROWS,),
    "nn.ReLU6()": (ROWS,),
    "nn.LeakyReLU(0.2, True)": (ROWS,),
    "nn.PReLU()": (ROWS,),
    "nn.PReLU(4, init=0.1)": (IMAGE,),
    "nn.ELU(1.5)": (ROWS,),
    "nn.CELU()": (ROWS,),
    "nn.SELU()": (ROWS,),
    "nn.GELU()": (ROWS,),
    "nn.GELU('tanh')": (ROWS,),
    "nn.SiLU()": (ROWS,),
    "nn.Mish()": (ROWS,),
    "nn.Hardswish()": (ROWS,),
    "nn.Hardsigmoid()": (ROWS,),
    "nn.Hardtanh(-0.5, 0.7)": (ROWS,),
    "nn.Sigmoid()": (ROWS,),
    "nn.LogSigmoid()": (ROWS,),
    "nn.Tanh()": (ROWS,),
    "nn.Softsign()": (ROWS,),
    "nn.Softplus(2.0)": (ROWS,),
    "nn.Softmax(1)": (ROWS,),
    "nn.LogSoftmax(dim=-1)": (ROWS,),
    "nn.Softmin(0)": (ROWS,),
    "nn.GLU()": (ROWS,),
    "nn.Dropout(0.2).eval()": (ROWS,),
    "nn.Dropout1d().eval()": (SIGNAL,),
    "nn.Dropout2d(inplace=True).eval()": (IMAGE,),
    "nn.CosineSimilarity()": (ROWS, ROWS),
    "nn.PairwiseDistance(1, keepdim=True)": (ROWS, ROWS),
    "nn.MSELoss(reduction='sum')": (ROWS, ROWS),
    "nn.L1Loss()": (ROWS, ROWS),
    "nn.SmoothL1Loss(beta=0.5)": (ROWS, ROWS),
    "nn.HuberLoss('none', 0.5)": (ROWS, ROWS),
    "nn.BCEWithLogitsLoss()": (ROWS, ROWS),
    "nn.KLDivLoss(reduction='batchmean', log_target=True)": (ROWS, ROWS),
    "nn.TripletMarginLoss(2.0, swap=True)": (ROWS, ROWS, ROWS),
    "nn.CrossEntropyLoss(label_smoothing=0.1)": (ROWS, ROWS),
    "nn.NLLLoss()": (),
    "nn.BCELoss()": (),
    "nn.CosineEmbeddingLoss()": (),
    "nn.HingeEmbeddingLoss()": (),
    "nn.MarginRankingLoss()": (),
    "nn.Embedding(7, 3)": (),
    "nn.Embedding(7, 3, -2, 1.5)": (),
    "nn.ModuleList([nn.ReLU(), nn.ReLU(), nn.Linear(2, 3)])": (),
    "nn.ModuleList([nn.Sequential(nn.ReLU(), nn.PReLU())] * 2)": (),
    "nn.ModuleList()": (),
    "nn.ModuleDict({'a': nn.ReLU(), 'b': nn.Linear(2, 3)})": (),
    "nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.BatchNorm1d(3))": (ROWS,),
    "nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))[:2]": (ROWS,),
}


def numbers(name: str, shape: Shape) -> np.ndarray:
    """The same numbers for one name on every machine."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    return rng.standard_normal(shape)


def state(text: str, shapes: dict[str, Shape]) -> dict[str, np.ndarray]:
    """Values for the parameters and buffers of a module; running variances are positive."""
    values = {name: numbers(f"{text}/{name}", shape) for name, shape in shapes.items()}
    return {
        name: np.abs(v) + 0.5 if name.endswith("running_var") else v
        for name, v in values.items()
        if not name.endswith("num_batches_tracked")
    }


def inputs(text: str, shapes: tuple[Shape, ...]) -> list[np.ndarray]:
    """The inputs of a case."""
    return [numbers(f"{text}/input{i}", shape) for i, shape in enumerate(shapes)]


def build(text: str, nn: Any) -> Any:
    """The module of a case in a library."""
    return eval(text, {"nn": nn})
