"""Decoding image files to 8-bit RGB or grayscale, with every failure a `MinidlError` that names the file.

Rules, chosen once for all formats:

- the format is told by the first bytes, not by the extension; JPEG, PNG, GIF, BMP, WebP and TIFF are read;
- animated images give their first frame, photos with several pictures (MPO) the first;
- the EXIF orientation is applied;
- transparent pixels are composited on white;
- 16 bits per channel in one channel are scaled to 8 (65535 becomes 255); in several channels Pillow keeps
  the high byte;
- an image of more than `MAX_PIXELS` pixels is refused before it is decoded.
"""

from __future__ import annotations

import contextlib
import io
import struct
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from minidl.data.files import MAX_IMAGE_BYTES, read_file, reason
from minidl.errors import MinidlError

if TYPE_CHECKING:
    from PIL import Image
    from PIL.ImageFile import ImageFile

MAX_PIXELS = 89_478_485
"""The largest image that is decoded, in pixels (Pillow's own bound: 256 MiB of RGB)."""

_EXIF_ORIENTATION = 0x0112


def decode_file(path: str | Path, channels: int = 3, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """`decode_image` of the content of a file of at most `MAX_IMAGE_BYTES` bytes."""
    return decode_image(read_file(Path(path), MAX_IMAGE_BYTES), str(path), channels, max_pixels)


def decode_image(data: bytes, name: str, channels: int = 3, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The first picture of an encoded image, in mode RGB (`channels` 3) or L (`channels` 1).

    `name` is what errors call the image. Raises MinidlError when the data are not an image, damaged,
    truncated or larger than `max_pixels`, and ValueError for another number of channels. See the rules at
    the top of this file.
    """
    if channels not in (1, 3):
        raise ValueError(f"decode_image: channels must be 1 or 3, got {channels}")
    if not data:
        raise MinidlError(f"{name}: the file is empty")
    try:
        image = _identify(data, name, max_pixels)
        _check_size(*image.size, name, max_pixels)
        image.load()
        return _to_mode(_orient(image), "RGB" if channels == 3 else "L", name)
    except (MinidlError, MemoryError):
        raise
    except (
        Exception
    ) as error:  # Pillow raises OSError, SyntaxError, ValueError, struct.error, ... for damaged files
        raise MinidlError(f"{name}: cannot be decoded: {reason(error)}") from error


def _identify(data: bytes, name: str, max_pixels: int) -> ImageFile:
    """An image whose header is read, by the signature of the format.

    `Image.open` is not used: it warns (once, in some thread) about sizes which are an error here, and it
    tries formats that run other programs.
    """
    stream = io.BytesIO(data)
    if data.startswith(b"\xff\xd8\xff"):
        from PIL.JpegImagePlugin import JpegImageFile

        return JpegImageFile(stream)
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        from PIL.PngImagePlugin import PngImageFile

        return PngImageFile(stream)
    if data.startswith((b"GIF87a", b"GIF89a")):
        from PIL.GifImagePlugin import GifImageFile

        return GifImageFile(stream)
    if data.startswith(b"BM"):
        from PIL.BmpImagePlugin import BmpImageFile

        return BmpImageFile(stream)
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        from PIL.WebPImagePlugin import WebPImageFile

        # the decoder allocates its canvas when it is made, and two more for an animation
        animated = data[12:16] == b"VP8X" and len(data) > 20 and data[20] & 2
        _check_size(*_webp_size(data), name, max_pixels // 3 if animated else max_pixels)
        return WebPImageFile(stream)
    if data.startswith((b"II*\0", b"MM\0*")):
        from PIL.TiffImagePlugin import TiffImageFile

        return TiffImageFile(stream)
    raise MinidlError(f"{name}: not an image: expected JPEG, PNG, GIF, BMP, WebP or TIFF")


def _check_size(width: int, height: int, name: str, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise MinidlError(f"{name}: {width} x {height} pixels, more than the {max_pixels} that are decoded")


def _webp_size(data: bytes) -> tuple[int, int]:
    """Width and height that a WebP file states (RFC 9649, section 2); (0, 0) for a file that is damaged."""
    kind, head = data[12:16], data[20:30].ljust(10, b"\0")
    if kind == b"VP8X":
        return 1 + int.from_bytes(head[4:7], "little"), 1 + int.from_bytes(head[7:10], "little")
    if kind == b"VP8 ":
        return int.from_bytes(head[6:8], "little") & 0x3FFF, int.from_bytes(head[8:10], "little") & 0x3FFF
    if kind == b"VP8L":
        bits = int.from_bytes(head[1:5], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    return 0, 0


def _orient(image: Image.Image) -> Image.Image:
    from PIL.Image import Transpose

    methods = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    method = methods.get(exif_orientation(image.info.get("exif", b"")))  # Pillow has already turned a TIFF
    return image if method is None else image.transpose(method)


def exif_orientation(exif: bytes) -> int:
    """The orientation 1..8 in a block of EXIF data, 1 when there is none or the block is damaged.

    Read here and not by Pillow, which warns about damaged blocks. Layout: TIFF 6.0, section 2; EXIF 2.3,
    4.6.4.
    """
    block = exif[6:] if exif[:6] == b"Exif\0\0" else exif
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(bytes(block[:4]))
    if order is None:
        return 1
    with contextlib.suppress(struct.error):  # an offset or a count leads out of a damaged block
        (start,) = struct.unpack_from(order + "I", block, 4)
        (count,) = struct.unpack_from(order + "H", block, start)
        for entry in range(count):
            tag, kind, _, value = struct.unpack_from(order + "HHIH", block, start + 2 + 12 * entry)
            if tag == _EXIF_ORIENTATION and kind == 3:
                return int(value) if 1 <= value <= 8 else 1
    return 1


def _to_mode(image: Image.Image, mode: str, name: str) -> Image.Image:
    from PIL import Image

    if image.mode.startswith("I"):
        image = _from_16_bits(image, name)
    elif image.mode == "F":
        raise MinidlError(f"{name}: floating-point pixels are not supported (8 or 16 bits per channel are)")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        picture = image.convert("RGBA")
        white = Image.new("RGBA", picture.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, picture).convert("RGB")
    if image.mode == mode and type(image) is Image.Image:
        return image
    # The copy drops the encoded data, which the plugin's image keeps open.
    return image.convert(mode) if image.mode != mode else image.copy()


def _from_16_bits(image: Image.Image, name: str) -> Image.Image:
    from PIL import Image

    values = np.asarray(image).astype(np.int64)
    if values.size and (values.min() < 0 or values.max() > 65535):
        raise MinidlError(f"{name}: 32-bit pixels are not supported (8 or 16 bits per channel are)")
    return Image.fromarray(((values + 128) // 257).astype(np.uint8))
