from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from minidl.data.decode import _webp_size, decode_file, decode_image, exif_orientation
from minidl.errors import MinidlError
from tests.minidl.data.conftest import encoded, picture


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(int)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "GIF", "WEBP", "JPEG"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_every_format_decodes_to_rgb_and_to_grayscale(kind: str, mode: str) -> None:
    original = picture(mode=mode)
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(original, kind, **options)
    for channels, wanted in ((3, "RGB"), (1, "L")):
        image = decode_image(data, "x", channels)
        assert image.mode == wanted and image.size == original.size
        # GIF has 256 colours and JPEG loses; the others are exact where no colour is dropped.
        tolerance = {"GIF": 20, "JPEG": 12}.get(kind, 0 if mode == "RGB" or channels == 1 else 1)
        assert np.abs(pixels(image) - pixels(original.convert(wanted))).max() <= tolerance


def test_a_cmyk_jpeg_becomes_rgb() -> None:
    original = picture()
    image = decode_image(encoded(original.convert("CMYK"), "JPEG", quality=95), "x")
    assert image.mode == "RGB"
    assert np.abs(pixels(image) - pixels(original)).max() < 16


def test_16_bit_grayscale_is_scaled_not_clipped() -> None:
    values = np.array([[0, 128, 129, 257, 1000], [32768, 60000, 65278, 65407, 65535]], dtype=np.uint16)
    image = decode_image(encoded(Image.fromarray(values), "PNG"), "x", channels=1)
    assert np.array_equal(np.asarray(image), np.round(values / 257).astype(np.uint8))
    assert pixels(image)[1, 4] == 255
    assert decode_image(encoded(Image.fromarray(values), "PNG"), "x").mode == "RGB"


def test_16_bit_colour_keeps_the_high_bytes() -> None:
    import zlib

    values = np.array([[[0, 257, 65535], [32768, 256, 255]]], dtype=">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in values)

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)
    data = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )
    assert np.array_equal(pixels(decode_image(data, "x")), values.astype(int) >> 8)


def test_32_bit_and_float_pixels_are_refused_by_name() -> None:
    whole = Image.fromarray(np.full((2, 2), 70000, dtype=np.int32))
    real = Image.fromarray(np.full((2, 2), 0.5, dtype=np.float32))
    for image, words in ((whole, "32-bit"), (real, "floating-point")):
        with pytest.raises(MinidlError, match=f"strange.tif: {words} pixels"):
            decode_image(encoded(image, "TIFF"), "strange.tif")


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_pixels_are_composited_on_white(mode: str) -> None:
    rgba = Image.new("RGBA", (2, 1), (10, 20, 30, 255))
    rgba.putpixel((1, 0), (10, 20, 30, 0))
    if mode == "P":
        indexed = Image.new("P", (2, 1), 0)
        indexed.putpalette([10, 20, 30, 200, 0, 0])
        indexed.putpixel((1, 0), 1)
        data = encoded(indexed, "PNG", transparency=1)
    else:
        data = encoded(rgba.convert(mode), "PNG")
    seen = pixels(decode_image(data, "x"))
    assert seen[0, 1].tolist() == [255, 255, 255]
    if mode != "LA":
        assert seen[0, 0].tolist() == [10, 20, 30]


def test_a_transparent_colour_of_an_rgb_png_is_white() -> None:
    image = Image.new("RGB", (2, 1), (9, 9, 9))
    image.putpixel((1, 0), (1, 2, 3))
    assert pixels(decode_image(encoded(image, "PNG", transparency=(1, 2, 3)), "x"))[0].tolist() == [
        [9, 9, 9],
        [255, 255, 255],
    ]


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_animated_images_give_their_first_frame(kind: str) -> None:
    first, second = Image.new("RGB", (8, 6), (250, 0, 0)), Image.new("RGB", (8, 6), (0, 0, 250))
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(first, kind, save_all=True, append_images=[second], **options)
    assert pixels(decode_image(data, "x"))[2, 3].tolist() == [250, 0, 0]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_the_exif_orientation_is_applied(orientation: int, kind: str) -> None:
    from PIL import ImageOps

    exif = Image.Exif()
    exif[0x0112] = orientation
    options: dict[str, object] = {"exif": exif}
    if kind == "WEBP":
        options["lossless"] = True
    if kind == "JPEG":
        options["quality"] = 100
        options["subsampling"] = 0
    data = encoded(picture(), kind, **options)
    import io

    with Image.open(io.BytesIO(data)) as opened:
        wanted = ImageOps.exif_transpose(opened).convert("RGB")
    image = decode_image(data, "x")
    assert image.size == wanted.size == ((32, 24) if orientation < 5 else (24, 32))
    assert np.array_equal(pixels(image), pixels(wanted))


def test_damaged_exif_counts_as_upright() -> None:
    good = b"Exif\0\0MM\0*" + struct.pack(">IHHHIHH", 8, 1, 0x0112, 3, 1, 6, 0)
    assert exif_orientation(good) == 6
    for end in range(len(good) - 2):
        assert exif_orientation(good[:end]) == 1
    assert exif_orientation(good[:-4] + b"\0\x0c\0\0") == 1
    assert exif_orientation(b"Exif\0\0XX\0*12345678") == 1


def test_an_image_beyond_the_pixel_limit_is_refused_before_it_is_decoded() -> None:
    data = encoded(Image.new("L", (200, 100)), "PNG")
    with pytest.raises(MinidlError, match=r"big\.png: 200 x 100 pixels, more than the 19999"):
        decode_image(data, "big.png", max_pixels=19_999)
    assert decode_image(data, "big.png", max_pixels=20_000).size == (200, 100)
    header = bytearray(data)
    header[16:24] = struct.pack(">II", 60000, 60000)
    import zlib

    header[29:33] = struct.pack(">I", zlib.crc32(bytes(header[12:29])))
    with pytest.raises(MinidlError, match="60000 x 60000 pixels"):
        decode_image(bytes(header), "bomb.png")


def test_errors_name_the_file(tmp_path: Path) -> None:
    data = encoded(picture(), "JPEG")
    cases = {
        "truncated.jpg": data[: len(data) // 2],
        "empty.jpg": b"",
        "text.jpg": b"this is no image",
        "vector.jpg": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        "header.jpg": data[:4],
    }
    for name, content in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(MinidlError, match=name) as caught:
            decode_file(tmp_path / name)
        assert "\n" not in str(caught.value)
    for missing in (tmp_path / "missing.jpg", tmp_path):
        with pytest.raises(MinidlError, match="cannot be read"):
            decode_file(missing)


def test_a_named_pipe_is_refused_instead_of_waited_for(tmp_path: Path) -> None:
    import os

    if not hasattr(os, "mkfifo"):
        pytest.skip("this system has no named pipes")
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(MinidlError, match=r"pipe\.jpg: cannot be read: it is no regular file"):
        decode_file(tmp_path / "pipe.jpg")


def test_the_format_is_told_by_the_content(tmp_path: Path) -> None:
    (tmp_path / "really.jpg").write_bytes(encoded(picture(), "PNG"))
    assert np.array_equal(pixels(decode_file(tmp_path / "really.jpg")), pixels(picture()))


def test_other_numbers_of_channels_are_a_wrong_argument() -> None:
    with pytest.raises(ValueError, match="channels must be 1 or 3, got 4"):
        decode_image(b"", "x", channels=4)


@pytest.mark.parametrize("lossless", [True, False])
@pytest.mark.parametrize("alpha", [True, False])
def test_the_size_that_a_webp_file_states_is_read_before_it_is_opened(lossless: bool, alpha: bool) -> None:
    original = Image.new("RGBA" if alpha else "RGB", (301, 203), (9, 9, 9, 128) if alpha else (9, 9, 9))
    data = encoded(original, "WEBP", lossless=lossless)
    assert _webp_size(data) == (301, 203)
    assert _webp_size(data[:15]) == (0, 0)
    with pytest.raises(MinidlError, match="301 x 203 pixels, more than the 1000"):
        decode_image(data, "x", max_pixels=1000)
