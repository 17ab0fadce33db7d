"""Transforms that move or cut pixels, and `Compose`. See `color` for those that change values.

A transform is a callable `(image, rng) -> image`. Images are Pillow images (RGB or L) or uint8 arrays (H,
W, C); all randomness is drawn from `rng`, a `numpy.random.Generator`, so a sample's augmentation is decided
by its generator alone. Transforms whose `random` is False ignore `rng`, which may then be left out. No
transform writes to its input.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from minidl.data.dataset import ImageLike
from minidl.data.pixels import as_pil, color, crop, flip, resize, size_of

Rng = np.random.Generator
INTERPOLATIONS = ("nearest", "box", "bilinear", "hamming", "bicubic", "lanczos")


def pair(value: int | Sequence[int], name: str) -> tuple[int, int]:
    """(height, width) from one number or two. Raises ValueError naming the argument unless both are
    positive.
    """
    both = (value, value) if isinstance(value, int) else tuple(value)
    if len(both) != 2 or any(not isinstance(size, int) or size < 1 for size in both):
        raise ValueError(f"{name}: expected a positive integer or (height, width), got {value!r}")
    return both[0], both[1]


def check_interpolation(name: str, interpolation: str) -> None:
    """Raises ValueError for an unknown interpolation."""
    if interpolation not in INTERPOLATIONS:
        raise ValueError(
            f"{name}: interpolation must be one of {', '.join(INTERPOLATIONS)}, got {interpolation!r}"
        )


def check_probability(name: str, p: float) -> None:
    """Raises ValueError unless p is between 0 and 1."""
    if not 0.0 <= p <= 1.0:
        raise ValueError(f"{name}: p must be between 0 and 1, got {p!r}")


def draw(rng: Rng | None, name: str) -> Rng:
    """`rng`, or a ValueError that says who needs one."""
    if rng is None:
        raise ValueError(f"{name}: a random transform needs a numpy.random.Generator as second argument")
    return rng


def below(rng: Rng, limit: int) -> int:
    """A uniform integer in 0..limit-1 (several times faster than `rng.integers` for one value)."""
    return int(rng.random() * limit)


@dataclass(frozen=True)
class Compose:
    """Applies transforms one after the other."""

    transforms: tuple[Callable[..., Any], ...]

    def __init__(self, transforms: Sequence[Callable[..., Any]]) -> None:
        object.__setattr__(self, "transforms", tuple(transforms))

    @property
    def random(self) -> bool:
        """Whether any of the transforms is random; one without the attribute counts as random."""
        return any(getattr(transform, "random", True) for transform in self.transforms)

    def __call__(self, image: Any, rng: Rng | None = None) -> Any:
        for transform in self.transforms:
            image = transform(image, rng)
        return image

    def __repr__(self) -> str:
        return "Compose([\n" + "".join(f"    {transform!r},\n" for transform in self.transforms) + "])"

    def divide(self) -> tuple[Compose, Compose]:
        """(fixed, rest): the leading transforms that give the same image every time, and those after them.

        Conversion to float32 belongs to the rest, so what comes between is a uint8 image that is worth
        keeping.
        """
        count = 0
        for transform in self.transforms:
            if getattr(transform, "random", True) or getattr(transform, "final", False):
                break
            count += 1
        return Compose(self.transforms[:count]), Compose(self.transforms[count:])


def short_side_size(height: int, width: int, size: int) -> tuple[int, int]:
    """(height, width) after scaling the short side to `size`: the long side is int(size * long / short), as
    torchvision's.
    """
    if height <= width:
        return size, int(size * width / height)
    return int(size * height / width), size


@dataclass(frozen=True)
class Resize:
    """Resizes with antialias: the short side to `size`, or to (height, width).

    Gives a Pillow image. Rounding as torchvision's `Resize`: `short_side_size`. `interpolation` is one
    of `INTERPOLATIONS`.
    """

    size: int | tuple[int, int]
    interpolation: str = "bilinear"
    random: ClassVar[bool] = False

    def __post_init__(self) -> None:
        pair(self.size, "Resize: size")
        check_interpolation("Resize", self.interpolation)

    def __call__(self, image: ImageLike, rng: Rng | None = None) -> ImageLike:
        rows, columns = size_of(image)
        height, width = short_side_size(rows, columns, self.size) if isinstance(self.size, int) else self.size
        return (
            image if (height, width) == (rows, columns) else resize(image, height, width, self.interpolation)
        )


@dataclass(frozen=True)
class Shrink:
    """`Resize` of images whose short side is longer than `size`; others stay as they are."""

    size: int
    interpolation: str = "bilinear"
    random: ClassVar[bool] = False

    def __post_init__(self) -> None:
        pair(self.size, "Shrink: size")
        check_interpolation("Shrink", self.interpolation)

    def __call__(self, image: ImageLike, rng: Rng | None = None) -> ImageLike:
        rows, columns = size_of(image)
        if min(rows, columns) <= self.size:
            return image
        return resize(image, *short_side_size(rows, columns, self.size), self.interpolation)


@dataclass(frozen=True)
class CenterCrop:
    """The `size` rectangle in the middle; a smaller image is padded with `fill`. Rounding as torchvision's
    `CenterCrop`.
    """

    size: int | tuple[int, int]
    fill: int = 0
    random: ClassVar[bool] = False

    def __post_init__(self) -> None:
        pair(self.size, "CenterCrop: size")

    def __call__(self, image: ImageLike, rng: Rng | None = None) -> ImageLike:
        height, width = pair(self.size, "CenterCrop: size")
        rows, columns = size_of(image)
        if (height, width) == (rows, columns):
            return image
        return crop(image, self._start(rows, height), self._start(columns, width), height, width, self.fill)

    @staticmethod
    def _start(available: int, wanted: int) -> int:
        if wanted > available:
            return -((wanted - available) // 2)
        return round((available - wanted) / 2.0)


@dataclass(frozen=True)
class Fit:
    """Brings small images to `size` for networks with small inputs.

    An image that is at most `size` and at least 3/4 of it (28 for 32) is padded with black, which keeps its
    pixels; any other is resized by its short side and cut in the middle.
    """

    size: int | tuple[int, int]
    interpolation: str = "bilinear"
    random: ClassVar[bool] = False

    def __post_init__(self) -> None:
        pair(self.size, "Fit: size")
        check_interpolation("Fit", self.interpolation)

    def __call__(self, image: ImageLike, rng: Rng | None = None) -> ImageLike:
        height, width = pair(self.size, "Fit: size")
        rows, columns = size_of(image)
        if (rows, columns) == (height, width):
            return image
        if not (0.75 * height <= rows <= height and 0.75 * width <= columns <= width):
            scale = max(height / rows, width / columns)
            image = resize(
                image, max(height, int(rows * scale)), max(width, int(columns * scale)), self.interpolation
            )
        return CenterCrop((height, width))(image)


@dataclass(frozen=True)
class Pad:
    """Pads with `fill`: `padding` pixels on all sides, or (left, top, right, bottom)."""

    padding: int | tuple[int, int, int, int]
    fill: int = 0
    random: ClassVar[bool] = False

    def __post_init__(self) -> None:
        sides = (self.padding,) if isinstance(self.padding, int) else tuple(self.padding)
        if len(sides) not in (1, 4) or any(not isinstance(side, int) or side < 0 for side in sides):
            raise ValueError(
                f"Pad: padding must be an integer or (left, top, right, bottom), got {self.padding!r}"
            )

    def __call__(self, image: ImageLike, rng: Rng | None = None) -> ImageLike:
        left, top, right, bottom = (self.padding,) * 4 if isinstance(self.padding, int) else self.padding
        rows, columns = size_of(image)
        return crop(image, -top, -left, rows + top + bottom, columns + left + right, self.fill)


@dataclass(frozen=True)
class RandomCrop:
    """A uniformly placed `size` rectangle of the image padded by `padding` pixels of `fill` on all sides.

    Raises ValueError for an image that is still smaller than `size`.
    """

    size: int | tuple[int, int]
    padding: int = 0
    fill: int = 0
    random: ClassVar[bool] = True

    def __post_init__(self) -> None:
        pair(self.size, "RandomCrop: size")
        if not isinstance(self.padding, int) or self.padding < 0:
            raise ValueError(f"RandomCrop: padding must be an integer of at least 0, got {self.padding!r}")

    def __call__(self, image: ImageLike, rng: Rng | None = None) -> ImageLike:
        rng = draw(rng, "RandomCrop")
        height, width = pair(self.size, "RandomCrop: size")
        rows, columns = size_of(image)
        spare_rows, spare_columns = rows + 2 * self.padding - height, columns + 2 * self.padding - width
        if spare_rows < 0 or spare_columns < 0:
            padded = f"an image of {rows} x {columns} with padding {self.padding}"
            raise ValueError(f"RandomCrop: {padded} is smaller than {height} x {width}")
        top = below(rng, spare_rows + 1) - self.padding
        left = below(rng, spare_columns + 1) - self.padding
        return crop(image, top, left, height, width, self.fill)


@dataclass(frozen=True)
class RandomResizedCrop:
    """A random part of the image, resized to `size`: torchvision's algorithm (Szegedy et al. 2015,
    "Inception" cropping).

    The part covers a uniformly drawn fraction `scale` of the area with an aspect ratio drawn log-uniformly
    from `ratio`; after ten draws that do not fit, the largest centred part with an allowed ratio is taken.
    """

    size: int | tuple[int, int]
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3.0 / 4.0, 4.0 / 3.0)
    interpolation: str = "bilinear"
    random: ClassVar[bool] = True

    def __post_init__(self) -> None:
        pair(self.size, "RandomResizedCrop: size")
        check_interpolation("RandomResizedCrop", self.interpolation)
        for name, (low, high) in (("scale", self.scale), ("ratio", self.ratio)):
            if not 0.0 < low <= high:
                raise ValueError(
                    f"RandomResizedCrop: {name} must be (low, high) with 0 < low <= high, got {(low, high)}"
                )

    def part(self, rows: int, columns: int, rng: Rng) -> tuple[int, int, int, int]:
        """(top, left, height, width) of the part to take from an image of `rows` x `columns`."""
        low, high = math.log(self.ratio[0]), math.log(self.ratio[1])
        for _ in range(10):
            area = rows * columns * (self.scale[0] + (self.scale[1] - self.scale[0]) * rng.random())
            aspect = math.exp(low + (high - low) * rng.random())
            width, height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < width <= columns and 0 < height <= rows:
                return below(rng, rows - height + 1), below(rng, columns - width + 1), height, width
        aspect = columns / rows
        width, height = columns, rows
        if aspect < self.ratio[0]:
            height = round(columns / self.ratio[0])
        elif aspect > self.ratio[1]:
            width = round(rows * self.ratio[1])
        return (rows - height) // 2, (columns - width) // 2, height, width

    def __call__(self, image: ImageLike, rng: Rng | None = None) -> ImageLike:
        rng = draw(rng, "RandomResizedCrop")
        # Cut first: the filters must not see pixels outside of the part.
        piece = crop(image, *self.part(*size_of(image), rng))
        return resize(piece, *pair(self.size, "RandomResizedCrop: size"), self.interpolation)


@dataclass(frozen=True)
class RandomHorizontalFlip:
    """Mirrors left to right with probability `p`."""

    p: float = 0.5
    random: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_probability("RandomHorizontalFlip", self.p)

    def __call__(self, image: ImageLike, rng: Rng | None = None) -> ImageLike:
        return flip(image, horizontal=True) if draw(rng, "RandomHorizontalFlip").random() < self.p else image


@dataclass(frozen=True)
class RandomVerticalFlip:
    """Mirrors top to bottom with probability `p`."""

    p: float = 0.5
    random: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_probability("RandomVerticalFlip", self.p)

    def __call__(self, image: ImageLike, rng: Rng | None = None) -> ImageLike:
        return flip(image, horizontal=False) if draw(rng, "RandomVerticalFlip").random() < self.p else image


@dataclass(frozen=True)
class RandomRotation:
    """Turns about the centre by an angle drawn uniformly from `degrees` = (low, high), or (-degrees,
    degrees).

    Counter-clockwise; `fill` where nothing was; the size stays unless `expand`. Gives a Pillow image.
    """

    degrees: float | tuple[float, float]
    interpolation: str = "bilinear"
    expand: bool = False
    fill: int = 0
    random: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.interpolation not in ("nearest", "bilinear", "bicubic"):
            known = "nearest, bilinear or bicubic"
            raise ValueError(f"RandomRotation: interpolation must be {known}, got {self.interpolation!r}")
        low, high = self._range()
        if not low <= high:
            raise ValueError(
                f"RandomRotation: degrees must be a number >= 0 or (low, high), got {self.degrees!r}"
            )

    def _range(self) -> tuple[float, float]:
        return self.degrees if isinstance(self.degrees, tuple) else (-self.degrees, self.degrees)

    def __call__(self, image: ImageLike, rng: Rng | None = None) -> ImageLike:
        from PIL.Image import Resampling

        low, high = self._range()
        angle = low + (high - low) * draw(rng, "RandomRotation").random()
        picture = as_pil(image)
        return picture.rotate(
            angle, Resampling[self.interpolation.upper()], self.expand, fillcolor=color(picture, self.fill)
        )
