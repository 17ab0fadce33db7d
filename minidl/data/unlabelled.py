"""Images whose labels, where there are any, are not used for learning."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from minidl.data.cifar import cifar_folder
from minidl.data.dataset import ArrayDataset, Dataset, Subset, stratified_split
from minidl.data.files import Source, open_source
from minidl.data.folder import IMAGE_EXTENSIONS, ImageFiles
from minidl.data.idx import idx_files, idx_images, idx_pixels
from minidl.data.opening import Splits, folders_in, open_dataset, part_names
from minidl.errors import MinidlError

__all__ = ["ANY_CLASS", "open_images"]

ANY_CLASS = "image"
"""The only class of images of which nothing is known."""


def open_images(path: str | Path, val_split: float = 0.1, seed: int = 0, channels: int = 3) -> Splits:
    """Opens images to learn from without labels, in a training and a validation part.

    Known are all layouts of `open_dataset`, and besides: a folder or zip archive of images at any depth, and
    a folder with `train-images-idx3-ubyte` and no labels. Where there is no validation part, `val_split` of
    the images becomes one. Class folders and label files, where there are any, give `targets` and `classes`,
    for pictures and reports; otherwise the only class is "image".

    Raises MinidlError, naming the file or folder, for what is missing, damaged or has no images.
    """
    if not 0.0 <= val_split <= 1.0:
        raise ValueError(f"open_images: val_split must be between 0 and 1, got {val_split}")
    place = Path(path)
    if not place.exists():
        raise MinidlError(f"{place}: no such file or folder")
    if cifar_folder(place) is not None or idx_files(place, train=True) or idx_files(place, train=False):
        return open_dataset(place, None, val_split, seed)
    if (images := idx_images(place)) is not None:
        pixels = idx_pixels(images)
        if not len(pixels):
            raise MinidlError(f"{images}: has no images")
        whole: Dataset = ArrayDataset(pixels, np.zeros(len(pixels), np.int64), [ANY_CLASS])
        return _divided(whole, val_split, seed, "idx")
    source = open_source(place)
    kind = "folder" if place.is_dir() else "zip"
    prefix = ""
    while (train := part_names(source, prefix)[0]) is None and len(folders_in(source, prefix)) == 1:
        inner = f"{prefix}{folders_in(source, prefix)[0]}/"
        if any(not n.startswith(inner) for n in source.files if n.startswith(prefix)):
            break
        prefix = inner
    if train is None:
        return _divided(_image_files(source, prefix, channels), val_split, seed, kind)
    val = part_names(source, prefix)[1]
    learned = _image_files(source, f"{prefix}{train}/", channels)
    if val is None:
        return _divided(learned, val_split, seed, kind)
    held_out = _image_files(source, f"{prefix}{val}/", channels)
    if learned.classes != held_out.classes:  # labels of one part only, or other ones, mean nothing together
        for part in (learned, held_out):
            part.classes, part.targets = [ANY_CLASS], np.zeros(len(part), np.int64)
    return Splits(learned, held_out, learned.classes, kind)


def _divided(whole: Dataset, val_split: float, seed: int, kind: str) -> Splits:
    train, val = stratified_split(whole.targets, val_split, seed)
    return Splits(Subset(whole, train), Subset(whole, val), whole.classes, kind)


def _image_files(source: Source, prefix: str, channels: int) -> ImageFiles:
    """All images under `prefix`; its folders are classes where there are several and all images lie in them."""
    files = [n for n in source.files if n.startswith(prefix) and n.lower().endswith(IMAGE_EXTENSIONS)]
    if not files:
        where = source.where(prefix.rstrip("/")) if prefix else str(source.path)
        raise MinidlError(f"{where}: no images here ({', '.join(IMAGE_EXTENSIONS)})")
    folders = [name[len(prefix) :].rpartition("/")[0].partition("/")[0] for name in files]
    classes = sorted(set(folders))
    if "" in classes or len(classes) < 2:
        return ImageFiles(source, files, np.zeros(len(files)), [ANY_CLASS], channels)
    numbers = {name: number for number, name in enumerate(classes)}
    return ImageFiles(source, files, [numbers[name] for name in folders], classes, channels)
