"""Transforms that change pixel values, and the one that ends a chain: uint8 image in, float32 (C, H, W)
out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from minidl.data.dataset import ImageLike
from minidl.data.pixels import as_array, as_pil, size_of
from minidl.data.transforms import Rng, below, check_probability, draw

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class Grayscale:
    """ITU-R 601 luma, as 1 channel or as 3 equal ones. Gives a Pillow image."""

    channels: int = 1
    random: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.channels not in (1, 3):
            raise ValueError(f"Grayscale: channels must be 1 or 3, got {self.channels!r}")

    def __call__(self, image: ImageLike, rng: Rng | None = None) -> ImageLike:
        gray = as_pil(image).convert("L")
        return gray if self.channels == 1 else gray.convert("RGB")


@dataclass(frozen=True)
class ColorJitter:
    """Random brightness, contrast, saturation and hue, in random order: torchvision's algorithm on Pillow
    images.

    The first three are factors drawn from (max(0, 1 - value), 1 + value); hue is a shift drawn from (-hue,
    hue) in turns of the colour circle, with hue at most 0.5. Grayscale images get brightness and contrast
    only.
    """

    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    random: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name in ("brightness", "contrast", "saturation", "hue"):
            value = getattr(self, name)
            if value < 0 or (name == "hue" and value > 0.5):
                allowed = "0..0.5" if name == "hue" else "at least 0"
                raise ValueError(f"ColorJitter: {name} must be {allowed}, got {value!r}")

    def __call__(self, image: ImageLike, rng: Rng | None = None) -> ImageLike:
        from PIL import ImageEnhance

        rng = draw(rng, "ColorJitter")
        order = rng.permutation(4)
        draws = rng.random(4)
        picture = as_pil(image)
        enhancers: tuple[tuple[Callable[..., Any], float], ...] = (
            (ImageEnhance.Brightness, self.brightness),
            (ImageEnhance.Contrast, self.contrast),
            (ImageEnhance.Color, self.saturation),
        )
        for step in order.tolist():
            if step == 3:
                if self.hue and picture.mode == "RGB":
                    picture = _shift_hue(picture, self.hue * (2.0 * float(draws[3]) - 1.0))
                continue
            enhancer, amount = enhancers[step]
            if amount and not (step == 2 and picture.mode == "L"):
                low, high = max(0.0, 1.0 - amount), 1.0 + amount
                picture = enhancer(picture).enhance(low + (high - low) * float(draws[step]))
        return picture


def _shift_hue(picture: Image.Image, turns: float) -> Image.Image:
    from PIL import Image

    hue, saturation, value = picture.convert("HSV").split()
    shifted = np.asarray(hue) + np.uint8(int(turns * 255) % 256)  # uint8 wraps around, as hue does
    return Image.merge("HSV", (Image.fromarray(shifted), saturation, value)).convert("RGB")


@dataclass(frozen=True)
class Cutout:
    """Covers a square of `size` pixels with `fill`, its centre anywhere on the image (DeVries and Taylor,
    2017).
    """

    size: int
    fill: int = 0
    random: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not isinstance(self.size, int) or self.size < 1:
            raise ValueError(f"Cutout: size must be a positive integer, got {self.size!r}")

    def __call__(self, image: ImageLike, rng: Rng | None = None) -> NDArray[np.uint8]:
        rng = draw(rng, "Cutout")
        rows, columns = size_of(image)
        top, left = below(rng, rows) - self.size // 2, below(rng, columns) - self.size // 2
        pixels = as_array(image).copy()
        pixels[max(top, 0) : max(top + self.size, 0), max(left, 0) : max(left + self.size, 0)] = self.fill
        return pixels


@dataclass(frozen=True)
class RandomErasing:
    """With probability `p`, fills a random rectangle with `fill` (Zhong et al., 2017; torchvision's
    algorithm).

    The rectangle covers a fraction of the area drawn from `scale`, with an aspect ratio drawn log-uniformly
    from `ratio`. Works on uint8 images, before normalisation.
    """

    p: float = 0.5
    scale: tuple[float, float] = (0.02, 0.33)
    ratio: tuple[float, float] = (0.3, 3.3)
    fill: int = 0
    random: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_probability("RandomErasing", self.p)
        for name, (low, high) in (("scale", self.scale), ("ratio", self.ratio)):
            if not 0.0 < low <= high:
                raise ValueError(
                    f"RandomErasing: {name} must be (low, high) with 0 < low <= high, got {(low, high)}"
                )

    def __call__(self, image: ImageLike, rng: Rng | None = None) -> ImageLike:
        rng = draw(rng, "RandomErasing")
        if rng.random() >= self.p:
            return image
        rows, columns = size_of(image)
        low, high = math.log(self.ratio[0]), math.log(self.ratio[1])
        for _ in range(10):
            area = rows * columns * (self.scale[0] + (self.scale[1] - self.scale[0]) * rng.random())
            aspect = math.exp(low + (high - low) * rng.random())
            height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < height < rows and 0 < width < columns:
                top, left = below(rng, rows - height + 1), below(rng, columns - width + 1)
                pixels = as_array(image).copy()
                pixels[top : top + height, left : left + width] = self.fill
                return pixels
        return image


@dataclass(frozen=True)
class Normalize:
    """Ends a chain: (pixels * scale - mean) / std as float32 (C, H, W), channels-last in memory.

    `mean` and `std` are in the units of the scaled pixels and in the network's channel order: "bgr"
    reverses the channels first. They have one value, or one per channel. With `channels` 3 a grayscale
    image is repeated, with 1 a colour image becomes luma; by default `channels` is the length of `mean` if
    that is 3, else the image's own.
    """

    mean: Sequence[float] = (0.0,)
    std: Sequence[float] = (1.0,)
    scale: float = 1.0 / 255.0
    channel_order: str = "rgb"
    channels: int | None = None
    random: ClassVar[bool] = False
    final: ClassVar[bool] = True
    _rows: dict[tuple[int, int], tuple[NDArray[np.float32], NDArray[np.float32]]] = field(
        init=False, repr=False, compare=False, default_factory=dict
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "mean", tuple(float(value) for value in self.mean))
        object.__setattr__(self, "std", tuple(float(value) for value in self.std))
        if self.channel_order not in ("rgb", "bgr"):
            raise ValueError(f'Normalize: channel_order must be "rgb" or "bgr", got {self.channel_order!r}')
        if self.channels not in (None, 1, 3):
            raise ValueError(f"Normalize: channels must be 1, 3 or None, got {self.channels!r}")
        if self.channels is None and 3 in (len(self.mean), len(self.std)):
            object.__setattr__(self, "channels", 3)
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, self.channels):
                raise ValueError(
                    f"Normalize: {name} needs 1 or {self.channels or 3} values, got {len(values)}"
                )
        if not all(value > 0 for value in self.std) or not self.scale > 0:
            raise ValueError(f"Normalize: std and scale must be positive, got {self.std} and {self.scale}")

    def _row(self, width: int, channels: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Factor and offset of one row of pixels: inner loops over 3 channels would cost most of the time."""
        found = self._rows.get((width, channels))
        if found is None:
            std = np.broadcast_to(np.array(self.std), channels)
            factor, offset = self.scale / std, -np.array(self.mean) / std
            found = tuple(np.tile(values, width).astype(np.float32) for values in (factor, offset))  # type: ignore[assignment]
            assert found is not None
            self._rows[width, channels] = found
        return found

    def __call__(self, image: ImageLike, rng: Rng | None = None) -> NDArray[np.float32]:
        pixels = as_array(image)
        if self.channels == 1 and pixels.shape[2] == 3:
            pixels = as_array(as_pil(image).convert("L"))
        elif self.channels == 3 and pixels.shape[2] == 1:
            pixels = np.broadcast_to(pixels, (*pixels.shape[:2], 3))
        elif self.channel_order == "bgr":
            pixels = np.take(pixels, (2, 1, 0), axis=2)  # three times faster than a reversed view
        height, width, channels = pixels.shape
        factor, offset = self._row(width, channels)
        result = np.empty((height, width, channels), np.float32)
        result[...] = pixels
        rows = result.reshape(height, width * channels)
        rows *= factor
        rows += offset
        return result.transpose(2, 0, 1)


@dataclass(frozen=True)
class ToArray(Normalize):
    """Ends a chain without normalising: pixels / 255 as float32 (C, H, W), channels-last in memory."""
