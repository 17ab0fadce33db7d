"""Training an autoencoder from start to end: images, network, loop, checkpoints, pictures."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import minidl
from minidl import models
from minidl.data import DataLoader, Dataset, Splits, Subset, eval_transform, open_images
from minidl.errors import UsageError
from minidl.models import Autoencoder, VariationalAutoencoder
from minidl.training import plots, sheets
from minidl.training.checkpoint import load_checkpoint
from minidl.training.finetune import (
    VAL_CACHE,
    check_out,
    describer,
    eval_loader,
    fingerprint,
    make_optimizer,
    make_schedule,
    opened,
    train_loader,
)
from minidl.training.reporting import EpochRow, Reporter
from minidl.training.run_folder import BEST, PICTURES, RunFolder, train
from minidl.training.settings import PretrainSettings
from minidl.training.trainer import Loader, Trainer, device_of

LARGEST_OWN_SIZE = 64
"""Images of up to so many pixels a side are learned in their own size, larger ones in this size."""
SHOWN = 16
MAX_POINTS = 2000
"""Codes in the picture of the latent space."""


@dataclass(frozen=True)
class Pretrained:
    """What a run brought: the figures of its best epoch, mean squared error per value of the validation images
    (None without any), and the history.
    """

    path: Path
    best: EpochRow
    error: float | None
    history: list[EpochRow]


class AutoencoderTrainer(Trainer):
    """Minimises an autoencoder's `losses`; nothing is classified. `val_loader` yields images as well."""

    classifies = False

    def loss(self, inputs: minidl.Tensor, labels: np.ndarray) -> tuple[minidl.Tensor, int]:
        assert isinstance(self.model, Autoencoder)
        return self.model.losses(inputs.to(device_of(self.model)))["loss"], 0

    def validate(self, loader: Loader) -> tuple[float, float | None]:
        """The loss of clean images, without noise in the code."""
        assert isinstance(self.model, Autoencoder)
        return reconstruction_loss(self.model, loader), None


def pretrain(
    data: str | Path | Splits,
    settings: PretrainSettings,
    out: str | os.PathLike[str],
    *,
    resume: bool = False,
    workers: int = 2,
    step_seconds: float | None = 60.0,
    draw: bool = True,
    device: str = "cpu",
    reporter: Reporter | None = None,
) -> Pretrained:
    """Train an autoencoder on images and leave checkpoints, metrics and pictures in the folder `out`.

    `data` is a path that `minidl.data.open_images` knows, or what it returned; labels are used for colours in
    one picture only. Without `input_size` in `settings.preprocess`, the images' own size is taken (of the
    first image), at most 64 x 64. Reproducibility and `resume`: as for `fine_tune`.

    Raises UsageError when `out` exists and `resume` is false and for an unknown model or option, MinidlError
    for bad data, a loss that is not finite, or a file that cannot be written.
    """
    reporter = reporter or Reporter()
    out = Path(out)
    status = check_out(out, resume)
    minidl.manual_seed(settings.seed)
    splits, where = opened(data, settings, open_images)
    reporter.log(
        f"{where}: {splits.kind}, {len(splits.train):,} training and {len(splits.val):,} validation images; "
        "labels are not used"
    )
    network = build_autoencoder(settings, splits.train).to(device)
    cfg = network.pretrained_cfg.to_dict()
    size = " x ".join(map(str, network.input_size))
    total = sum(p.size for p in network.parameters())
    reporter.log(f"{settings.model}: {total:,} parameters, images of {size}")
    val = eval_loader(splits.val, cfg, workers, VAL_CACHE) if len(splits.val) else None
    if status == "finished":
        reporter.log(f"{out}: this run is finished, nothing to do")
        checkpoint = load_checkpoint(out)
        network.load_state_dict(checkpoint.state)
        row = EpochRow(**checkpoint.metrics)
        return Pretrained(out, row, None if val is None else squared_error(network, val), [row])
    describe = describer(settings, network.options, cfg, [])
    identity = {"settings": settings.to_dict(), "data": fingerprint(splits.train, splits.val)}
    folder = RunFolder(out, network, describe, identity, step_seconds=step_seconds)
    if status == "unfinished":
        folder.read()
    loader = train_loader(splits.train, settings, cfg, workers, device)
    epochs = settings.epochs or 0
    optimizer = make_optimizer(settings, network)
    shown = _shown(splits, cfg) if draw else None
    trainer = AutoencoderTrainer(
        network,
        optimizer,
        loader,
        val,
        [],
        scheduler=make_schedule(settings, optimizer, epochs * len(loader)),
        clip_norm=settings.clip_norm,
        reporter=reporter,
        on_step=folder.on_step,
        on_epoch=_saving_and_drawing(folder, network, shown, out),
    )
    history = train(trainer, folder, epochs, status, resume, reporter)
    network.load_state_dict(load_checkpoint(out / BEST).state)
    error = None if val is None else squared_error(network, val)
    if shown is not None:
        draw_latent_space(network, splits.val if len(splits.val) else splits.train, workers, out, reporter)
        if isinstance(network, VariationalAutoencoder):
            draw_samples(network, shown, settings.seed, out)
        if not plots.draw_curves(history, out / "curves.png"):
            reporter.log(plots.NO_MATPLOTLIB)
    folder.finish()
    assert trainer.best is not None
    return Pretrained(out, trainer.best, error, history)


def build_autoencoder(settings: PretrainSettings, images: Dataset) -> Autoencoder:
    """The autoencoder of the settings for the size of the images; UsageError for unknown names and options."""
    try:
        entry = models.architecture(settings.model)
        chosen = dict(settings.preprocess)
        size = chosen.pop("input_size", None) or own_size(images)
        config = entry.config.with_input(size).replace(**chosen)
        return models.create_autoencoder(settings.model, pretrained_cfg=config, **settings.model_options)
    except (TypeError, ValueError) as error:
        raise UsageError(str(error)) from error


def own_size(images: Dataset) -> tuple[int, int, int]:
    """(C, H, W) of the first image, or (C, 64, 64) where it is larger than that."""
    pixels = np.asarray(images[0][0])
    channels = pixels.shape[2] if pixels.ndim == 3 else 1
    if max(pixels.shape[:2]) > LARGEST_OWN_SIZE:
        return channels, LARGEST_OWN_SIZE, LARGEST_OWN_SIZE
    return channels, pixels.shape[0], pixels.shape[1]


def reconstruction_loss(model: Autoencoder, loader: Loader) -> float:
    """The mean of `losses(x)["loss"]` over all images, in evaluation mode; the mode is restored afterwards.

    A variational autoencoder draws its codes from the same noise each time, whatever was drawn before.
    """
    was_training, state = model.training, minidl.random.get_state()
    model.eval()
    minidl.manual_seed(0)
    total = count = 0.0
    try:
        with minidl.no_grad():
            for images, _ in loader.iterate():
                total += float(model.losses(images.to(device_of(model)))["loss"].item()) * len(images)
                count += len(images)
    finally:
        minidl.random.set_state(state)
        model.train(was_training)
    return total / count


def squared_error(model: Autoencoder, loader: Loader) -> float:
    """The mean squared difference between images and reconstructions, per value in 0..1."""
    was_training = model.training
    model.eval()
    total = count = 0.0
    try:
        with minidl.no_grad():
            for images, _ in loader.iterate():
                restored = model.reconstruct(images.to(device_of(model))).cpu()
                difference = np.asarray(restored.data - images.data, np.float64)
                total += float((difference**2).sum())
                count += difference.size
    finally:
        model.train(was_training)
    return total / count


def _shown(splits: Splits, cfg: dict[str, Any]) -> minidl.Tensor:
    """Images of the validation part (else of the training part), evenly spread, as the network sees them."""
    part = splits.val if len(splits.val) else splits.train
    chosen = np.unique(np.linspace(0, len(part) - 1, SHOWN).round().astype(np.int64))
    loader = DataLoader(Subset(part, chosen), SHOWN, False, eval_transform(cfg), 0)
    return next(iter(loader))[0]


def _saving_and_drawing(
    folder: RunFolder, network: Autoencoder, shown: minidl.Tensor | None, out: Path
) -> Callable[[Trainer, EpochRow, bool], None]:
    def on_epoch(trainer: Trainer, row: EpochRow, best: bool) -> None:
        folder.on_epoch(trainer, row, best)
        if shown is not None:
            (out / PICTURES).mkdir(exist_ok=True)
            path = out / PICTURES / f"epoch-{row.epoch:04}.png"
            sheets.draw_rows([_pixels(shown, network), _pixels(_restored(network, shown), network)], path)

    return on_epoch


def _restored(network: Autoencoder, images: minidl.Tensor) -> minidl.Tensor:
    was_training = network.training
    network.eval()
    try:
        with minidl.no_grad():
            return network.reconstruct(images.to(device_of(network))).cpu()
    finally:
        network.train(was_training)


def _pixels(images: minidl.Tensor, network: Autoencoder) -> np.ndarray:
    """uint8 (N, H, W, C) in RGB of the network's images: its preprocessing undone."""
    cfg = network.pretrained_cfg
    values = images.data.transpose(0, 2, 3, 1) * np.array(cfg.std) + np.array(cfg.mean)
    pixels = np.clip(np.round(values / cfg.scale), 0, 255).astype(np.uint8)
    return pixels[..., ::-1] if cfg.channel_order == "bgr" else pixels


def draw_latent_space(
    network: Autoencoder, images: Dataset, workers: int, out: Path, reporter: Reporter
) -> None:
    """Draw the codes of images in the plane of their two principal components, coloured by class, into
    OUT/latent.png.
    """
    chosen = np.unique(np.linspace(0, len(images) - 1, min(len(images), MAX_POINTS)).round().astype(np.int64))
    part = Subset(images, chosen)
    loader = eval_loader(part, network.pretrained_cfg.to_dict(), workers)
    network.eval()
    codes = []
    reporter.begin("codes of the images", len(loader))
    try:
        with minidl.no_grad():
            for number, (batch, _) in enumerate(loader.iterate(), 1):
                code = network.encode(batch.to(device_of(network))).flatten(1)
                codes.append(np.array(code.cpu().data))
                reporter.advance(number)
    finally:
        reporter.end()
    sheets.draw_plane(np.concatenate(codes), part.targets, part.classes, out / "latent.png")


def draw_samples(network: VariationalAutoencoder, shown: minidl.Tensor, seed: int, out: Path) -> None:
    """Draw images of random codes into OUT/samples.png, and between pairs of images into OUT/interpolations.png."""
    state = minidl.random.get_state()
    minidl.manual_seed(seed)
    network.eval()
    rows = [_pixels(network.sample(12).cpu(), network) for _ in range(4)]
    minidl.random.set_state(state)
    sheets.draw_rows(rows, out / "samples.png")
    device = device_of(network)
    with minidl.no_grad():
        codes = network.encode(shown.to(device)).cpu().data
        shares = np.linspace(0.0, 1.0, 12, dtype=codes.dtype)[:, None]
        pairs = list(zip(codes[0::2], codes[1::2], strict=False))[:4]
        between = [minidl.Tensor((1 - shares) * first + shares * second) for first, second in pairs]
        rows = [_pixels(network.decode(z.to(device)).cpu(), network) for z in between]
    if rows:
        sheets.draw_rows(rows, out / "interpolations.png")
