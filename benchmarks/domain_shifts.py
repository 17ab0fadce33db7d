"""The two domain shifts of benchmarks/adaptation.py.

`jpeg`: CIFAR-10. The source are lossless images in the original files, the target the same data set as JPEG files
in a zip. `fashion`: Fashion-MNIST. The source are its gray images, the target the same kind of images blended over
patches of colour photos as MNIST-M was made (Ganin et al. 2016, sec. 5.2.3): |patch - image| in each channel.

The parts of Fashion-MNIST's training set that become source and target are disjoint; for CIFAR-10 see `jpeg_shift`.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from minidl.data import ArrayDataset, ConcatDataset, Dataset, FashionMNIST, Splits, Subset, open_dataset
from minidl.errors import MinidlError

SIDE = 32


def pixels_of(dataset: Dataset, indices: np.ndarray) -> np.ndarray:
    """Images uint8 (N, 32, 32, 3) of a CIFAR-10 data set."""
    return np.stack([np.asarray(dataset[int(i)][0]) for i in indices])


def jpeg_shift(cifar: Path, jpeg_zip: Path, protocol: str) -> tuple[Splits, Splits]:
    """(source, target) of the shift from lossless to JPEG-degraded CIFAR-10.

    `protocol` says which target images are learned from, without labels: "train", the 50,000 of the training
    part, and all 10,000 test images score; published weights were trained on the lossless originals of those
    50,000. "unseen": half of the test images, which the network never saw in any form, and the other half score.
    """
    source = open_dataset(cifar)
    target = open_dataset(jpeg_zip)
    if protocol == "train":
        return source, target
    if protocol != "unseen":
        raise ValueError(f"protocol must be train or unseen, got {protocol!r}")
    order = np.random.default_rng(0).permutation(len(target.val))
    half = len(order) // 2
    learned, scored = (Subset(target.val, np.sort(part)) for part in (order[:half], order[half:]))
    return source, Splits(learned, scored, target.classes, target.kind)


def resolution_shift(cifar: Path, side: int = 26) -> tuple[Splits, Splits]:
    """(source, target) for development: the target is CIFAR-10's lossless part brought to `side` pixels and back."""
    from PIL import Image

    source = open_dataset(cifar)

    def coarse(part: Dataset) -> Dataset:
        images = pixels_of(part, np.arange(len(part)))
        small = [Image.fromarray(x).resize((side, side), Image.Resampling.BILINEAR) for x in images]
        back = [np.asarray(x.resize((SIDE, SIDE), Image.Resampling.BICUBIC)) for x in small]
        return ArrayDataset(np.stack(back), part.targets, part.classes)

    return source, Splits(coarse(source.train), coarse(source.val), source.classes, source.kind)


def with_jpeg_copies(source: Splits, quality: int = 75) -> Splits:
    """The source with a JPEG copy of every training image: augmentation by somebody who knows what changed."""
    from PIL import Image

    images = pixels_of(source.train, np.arange(len(source.train)))
    copies = np.empty_like(images)
    for slot, image in enumerate(images):
        packed = io.BytesIO()
        Image.fromarray(image).save(packed, "JPEG", quality=quality)
        copies[slot] = np.asarray(Image.open(packed))
    both = ConcatDataset([source.train, ArrayDataset(copies, source.train.targets, source.classes)])
    return Splits(both, source.val, source.classes, source.kind)


def centred(images: np.ndarray) -> np.ndarray:
    """Gray images (N, 28, 28) or (N, 28, 28, 1) on a black ground of 32 x 32: uint8 (N, 32, 32, 1)."""
    flat = images.reshape(len(images), *images.shape[1:3])
    margin = [(SIDE - size) // 2 for size in flat.shape[1:]]
    rest = [SIDE - size - low for size, low in zip(flat.shape[1:], margin, strict=True)]
    padding = ((0, 0), (margin[0], rest[0]), (margin[1], rest[1]))
    return np.pad(flat, padding)[..., None]


def blend(images: np.ndarray, photos: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """|patch - image| as uint8 (N, 32, 32, 3): `images` uint8 (N, 32, 32, 1), for each a photo of `photos` uint8
    (M, 32, 32, 3), mirrored or not, drawn from `rng`.
    """
    patches = photos[rng.integers(0, len(photos), len(images))].astype(np.int16)
    mirrored = rng.random(len(images)) < 0.5
    patches[mirrored] = patches[mirrored][:, :, ::-1]
    return np.abs(patches - images).astype(np.uint8)


def noise_patches(count: int, rng: np.random.Generator) -> np.ndarray:
    """Smooth colour noise uint8 (count, 32, 32, 3): random numbers on a 5 x 5 grid, enlarged."""
    from PIL import Image

    grids = rng.integers(0, 256, (count, 5, 5, 3), np.uint8)
    return np.stack(
        [np.asarray(Image.fromarray(grid).resize((SIDE, SIDE), Image.Resampling.BICUBIC)) for grid in grids]
    )


def fashion_shift(
    fashion: Path, cifar: Path | None, train: int = 20_000, test: int = 5_000
) -> tuple[Splits, Splits]:
    """(source, target) of the shift from Fashion-MNIST to the same blended over photos.

    `train` images of the training set are the source, `train` others the target; the first `test` test images
    score in both. The patches of the target's training and test images come from CIFAR-10's training and test
    images. `cifar` None gives the shift for development: a third part of the training set blended over smooth
    noise is the target. Always the same images: the seed of an experiment is that of its training.
    """
    rng = np.random.default_rng(0)
    clothes, checked = FashionMNIST(fashion, train=True), FashionMNIST(fashion, train=False)
    if 3 * train > len(clothes):
        raise MinidlError(f"{fashion}: {len(clothes)} training images, fewer than {3 * train}")
    order = rng.permutation(len(clothes))
    first, second, third = order[:train], order[train : 2 * train], order[2 * train : 3 * train]
    classes = clothes.classes

    def gray(images: np.ndarray, labels: np.ndarray) -> Dataset:
        return ArrayDataset(np.repeat(centred(images), 3, axis=3), labels, classes)

    def colour(images: np.ndarray, labels: np.ndarray, patches: np.ndarray) -> Dataset:
        return ArrayDataset(blend(centred(images), patches, rng), labels, classes)

    shown = slice(0, test)
    source = Splits(
        gray(clothes.images[first], clothes.targets[first]),
        gray(checked.images[shown], checked.targets[shown]),
        classes,
        "idx",
    )
    if cifar is None:
        learned, scored = third[test:], third[:test]
        patches = noise_patches(8000, rng)
        target = Splits(
            colour(clothes.images[learned], clothes.targets[learned], patches[1000:]),
            colour(clothes.images[scored], clothes.targets[scored], patches[:1000]),
            classes,
            "idx",
        )
        return source, target
    photos = [
        pixels_of(part, np.arange(len(part))) for part in (open_dataset(cifar).train, open_dataset(cifar).val)
    ]
    target = Splits(
        colour(clothes.images[second], clothes.targets[second], photos[0]),
        colour(checked.images[shown], checked.targets[shown], photos[1]),
        classes,
        "idx",
    )
    return source, target
