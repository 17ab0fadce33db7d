"""The handful of operations that Pillow images and uint8 arrays (H, W, C) share. Transforms are written on
these.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from minidl.data.dataset import ImageLike
from minidl.data.decode import MAX_PIXELS
from minidl.errors import MinidlError

if TYPE_CHECKING:
    from PIL import Image


def check_array(image: NDArray[Any]) -> None:
    """Raises ValueError or TypeError unless the array is an image: uint8 (H, W, C) with C 1 or 3."""
    if image.ndim != 3 or image.shape[2] not in (1, 3):
        raise ValueError(f"transform: an array image must be (H, W, C) with C 1 or 3, got {image.shape}")
    if image.dtype != np.uint8:
        raise TypeError(f"transform: an array image must be uint8, got {image.dtype}")


def size_of(image: ImageLike) -> tuple[int, int]:
    """(height, width). Raises ValueError or TypeError for an array that is no image."""
    if isinstance(image, np.ndarray):
        check_array(image)
        return image.shape[0], image.shape[1]
    return image.size[1], image.size[0]


def as_pil(image: ImageLike) -> Image.Image:
    """The image as a Pillow image in mode RGB or L."""
    if not isinstance(image, np.ndarray):
        return image if image.mode in ("RGB", "L") else image.convert("RGB")
    check_array(image)
    from PIL import Image

    return Image.fromarray(np.ascontiguousarray(image[:, :, 0] if image.shape[2] == 1 else image))


def as_array(image: ImageLike) -> NDArray[np.uint8]:
    """The image as a uint8 array (H, W, C), which may be read-only."""
    if isinstance(image, np.ndarray):
        check_array(image)
        return image
    pixels = np.asarray(as_pil(image))
    return pixels if pixels.ndim == 3 else pixels[:, :, None]


def crop(image: ImageLike, top: int, left: int, height: int, width: int, fill: int = 0) -> ImageLike:
    """The rectangle of `height` x `width` pixels at (`top`, `left`), which may reach outside of the image:
    `fill` there.
    """
    rows, columns = size_of(image)
    inside = top >= 0 and left >= 0 and top + height <= rows and left + width <= columns
    if isinstance(image, np.ndarray):
        if inside:
            return image[top : top + height, left : left + width]
        result = np.full((height, width, image.shape[2]), fill, np.uint8)
        y0, x0, y1, x1 = max(top, 0), max(left, 0), min(top + height, rows), min(left + width, columns)
        if y0 < y1 and x0 < x1:
            result[y0 - top : y1 - top, x0 - left : x1 - left] = image[y0:y1, x0:x1]
        return result
    if inside or fill == 0:
        return image.crop((left, top, left + width, top + height))
    from PIL import Image

    canvas = Image.new(image.mode, (width, height), color(image, fill))
    canvas.paste(image, (-left, -top))
    return canvas


def color(image: Image.Image, fill: int) -> int | tuple[int, ...]:
    """`fill` as a colour of the image's mode."""
    return fill if image.mode == "L" else (fill,) * len(image.getbands())


def flip(image: ImageLike, horizontal: bool) -> ImageLike:
    """The mirror image, left to right or top to bottom."""
    if isinstance(image, np.ndarray):
        return image[:, ::-1] if horizontal else image[::-1]
    from PIL.Image import Transpose

    return image.transpose(Transpose.FLIP_LEFT_RIGHT if horizontal else Transpose.FLIP_TOP_BOTTOM)


def resize(image: ImageLike, height: int, width: int, interpolation: str) -> Image.Image:
    """Pillow's resize, whose filters widen when an image shrinks (antialias). No shortcut through
    `reducing_gap`.
    """
    from PIL.Image import Resampling

    picture = as_pil(image)
    if picture.size == (width, height):
        return picture
    if height * width > MAX_PIXELS:
        raise MinidlError(
            f"an image of {picture.width} x {picture.height} pixels would grow to {width} x {height}"
        )
    return picture.resize((width, height), Resampling[interpolation.upper()], reducing_gap=None)
