"""Truncated and bit-flipped files, and files of other kinds: an error in one sentence or a dictionary."""

from __future__ import annotations

import os
import pickle
import random
import struct
import sys
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest

from minidl import weights
from minidl.errors import MinidlError
from tests.minidl.weights import weight_cases as cases

PLACES = 200
DATA = os.environ.get("MINIDL_TEST_DATA")
REAL = (
    "weights/cifar_resnet/resnet20-12fca82f.th",
    "weights/resnet50_thin/resnet50_thin.pth",
)
FILES = (
    "zip.pth",
    "stream.pth",
    "tar.pth",
    "checkpoint.pth",
    "checkpoint_stream.pth",
    "views.pth",
    "safetensors",
)


def peak_memory() -> int:
    """The most memory in bytes that this process ever had; 0 on Windows, where the test is one of crashes."""
    if sys.platform == "win32":
        return 0
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def attempt(path: Path, limit: int) -> bool:
    """Whether the file was refused. Anything but a MinidlError or a dictionary fails, so does a big allocation."""
    try:
        state = weights.load(path)
    except MinidlError as error:
        assert str(error).startswith(f"{path}: ") and "\n" not in str(error)
        refused = True
    else:
        assert isinstance(state, dict) and all(isinstance(array, np.ndarray) for array in state.values())
        refused = False
    assert peak_memory() < limit
    return refused


def damaged_everywhere(path: Path, folder: Path, places: int, head: int | None = None) -> tuple[int, int]:
    """How many of `places` truncations and of `places` flips (in the first `head` bytes) were refused."""
    content = path.read_bytes()
    limit = peak_memory() + 3 * len(content) + (64 << 20)
    rng = random.Random(path.name)
    target = folder / "damaged"
    target.write_bytes(content)
    flips = 0
    for _ in range(places):
        at, bit = rng.randrange(head or len(content)), 1 << rng.randrange(8)
        with open(target, "r+b") as file:
            file.seek(at)
            file.write(bytes([content[at] ^ bit]))
        flips += attempt(target, limit)
        with open(target, "r+b") as file:
            file.seek(at)
            file.write(content[at : at + 1])
    cuts = 0
    for size in sorted((rng.randrange(len(content)) for _ in range(places)), reverse=True):
        os.truncate(target, size)
        cuts += attempt(target, limit)
    return cuts, flips


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sources")
    for file in FILES[:-1]:
        (folder / file).write_bytes((cases.FIXTURES / file).read_bytes())
    weights.save(cases.small_network(), folder / "safetensors", {"a": "b"})
    return folder


@pytest.mark.parametrize("file", FILES)
def test_damage_to_a_small_file_never_crashes(file: str, sources: Path, tmp_path: Path) -> None:
    cuts, _ = damaged_everywhere(sources / file, tmp_path, PLACES)
    # a tar file ends in ten kilobytes of zeros, the other formats need their last byte
    assert cuts == PLACES or file == "tar.pth"


@pytest.mark.skipif(not DATA, reason="MINIDL_TEST_DATA is not set: real weights are needed")
@pytest.mark.parametrize("file", REAL)
def test_damage_to_real_weights_never_crashes(file: str, tmp_path: Path) -> None:
    assert DATA
    cuts, flips = damaged_everywhere(Path(DATA, file), tmp_path, PLACES)
    assert cuts == PLACES
    if file.endswith("thin.pth"):  # checksums find what hits a tensor; padding between the members has none
        assert flips > PLACES * 0.9
    else:
        damaged_everywhere(Path(DATA, file), tmp_path, 50, head=4096)  # where the pickle is


def test_a_flipped_bit_in_a_tensor_is_found_by_the_zip_checksum(tmp_path: Path) -> None:
    content = bytearray((cases.FIXTURES / "zip.pth").read_bytes())
    at = content.find(cases.small_network()["conv1.weight"].tobytes())
    content[at + 5] ^= 4
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(MinidlError, match=r"damaged, member 'zip/data/0': .*CRC"):
        weights.load(tmp_path / "w.pth")


# ---- zip archives


def rewritten(path: Path, **changes: bytes) -> Path:
    """zip.pth with members changed, added, or left out (b"")."""
    target = path / "w.pth"
    with zipfile.ZipFile(cases.FIXTURES / "zip.pth") as source, zipfile.ZipFile(target, "w") as archive:
        members = {name.removeprefix("zip/"): source.read(name) for name in source.namelist()}
        for name, content in {**members, **changes}.items():
            if content:
                archive.writestr(f"zip/{name}", content)
    return target


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data.pkl": b""}, "is a zip archive but not of PyTorch, it has no member data.pkl"),
        ({"data/0": b""}, "the archive has no member 'zip/data/0'"),
        ({"data/0": b"1234"}, "storage '0' has 4 bytes, the pickle means 432"),
        ({"byteorder": b"middle"}, "its byte order is 'middle'"),
        ({"byteorder": b"x" * 100}, "has more than 64 bytes"),
        ({"sub/data.pkl": b"x"}, "the archive has 2 members called data.pkl"),
        ({"constants.pkl": b"x", "code/__torch__.py": b"x"}, "is a TorchScript archive (torch.jit.save)"),
        ({"code/__torch__.py": b"x"}, "is a TorchScript archive (torch.jit.save)"),
    ],
)
def test_other_and_broken_zip_archives_are_explained(changes: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(MinidlError) as caught:
        weights.load(rewritten(tmp_path, **changes))
    assert message in str(caught.value)


def test_compressed_members_are_refused_before_they_are_unpacked(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bomb", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("m/data.pkl", bytes(50_000_000))
    tracemalloc.start()
    with pytest.raises(MinidlError, match=r"'m/data\.pkl' is compressed, PyTorch stores members as they are"):
        weights.load(tmp_path / "bomb")
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


def test_encrypted_members_are_refused(tmp_path: Path) -> None:
    content = bytearray((cases.FIXTURES / "zip.pth").read_bytes())
    for signature, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.find(signature) + flags] |= 1
    (tmp_path / "w").write_bytes(content)
    with pytest.raises(MinidlError, match=r"'zip/data\.pkl' is encrypted"):
        weights.load(tmp_path / "w")


def test_members_that_share_their_bytes_cannot_add_up_to_more_than_the_file(tmp_path: Path) -> None:
    size = 1_000_000
    state = {f"w{i}": np.zeros(size if i == 0 else 1, np.uint8) for i in range(3)}
    weights.save_pth(state, tmp_path / "w")
    content = bytearray((tmp_path / "w").read_bytes())
    with zipfile.ZipFile(tmp_path / "w") as archive:
        first = archive.getinfo("archive/data/0")
    for number in (1, 2):  # the directory's entries point at the first storage
        at = content.rfind(b"archive/data/%d" % number) - 46
        content[at + 16 : at + 28] = struct.pack("<III", first.CRC, size, size)
        content[at + 42 : at + 46] = struct.pack("<I", first.header_offset)
    (tmp_path / "w").write_bytes(content)
    with pytest.raises(MinidlError):
        weights.load(tmp_path / "w")


def test_an_npz_archive_is_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "w.npz", w=np.ones(2))
    with pytest.raises(MinidlError, match=r"is a NumPy \.npz archive"):
        weights.load(tmp_path / "w.npz")


# ---- the stream and the tar


@pytest.mark.parametrize(
    ("values", "tail", "message"),
    [
        ([1000], b"", "the protocol of its stream is not 1001"),
        ([1001, {}, {}, 5], b"", "it has no list of storages"),
        ([1001, {}, {}, ["7"]], b"", "its list of storages names '7'"),
        ([1001, {}, {}, []], b"", "holds no tensors"),
        ([1001], b"", "truncated"),
    ],
)
def test_a_broken_stream_is_explained(values: list, tail: bytes, message: str, tmp_path: Path) -> None:
    content = b"".join(pickle.dumps(value, 2) for value in [0x1950A86A20F9469CFC6C, *values])
    (tmp_path / "w").write_bytes(content + tail)
    with pytest.raises(MinidlError, match=message):
        weights.load(tmp_path / "w")


def test_a_stream_whose_storage_has_another_size_is_damaged(tmp_path: Path) -> None:
    content = (cases.FIXTURES / "stream.pth").read_bytes()
    for count, message in ((1 << 60, "elements where"), (-1, "elements where")):
        at = content.rfind(struct.pack("<q", 108))
        (tmp_path / "w").write_bytes(content[:at] + struct.pack("<q", count) + content[at + 8 :])
        with pytest.raises(MinidlError, match=message):
            weights.load(tmp_path / "w")


def with_tar_header(content: bytes, at: int, field: slice, value: bytes) -> bytes:
    """A tar file with one header field changed and the header's checksum made right."""
    block = bytearray(content[at : at + 512])
    block[field] = value
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return content[:at] + bytes(block) + content[at + 512 :]


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        (slice(124, 136), b"77777777777\0", "truncated, a member of the tar archive ends at byte"),
        (slice(124, 136), b"\x80" + b"\xff" * 11, "truncated, a member of the tar archive ends at byte"),
        (slice(124, 136), b"9".ljust(12, b"\0"), "not an octal number"),
        (slice(0, 6), b"pickle", "is a tar archive but not of PyTorch, it has no member 'storages'"),
        (slice(0, 9), b"tensors\0\0", "two members of the tar archive have the same name"),
    ],
)
def test_a_broken_tar_archive_is_explained(field: slice, value: bytes, message: str, tmp_path: Path) -> None:
    content = (cases.FIXTURES / "tar.pth").read_bytes()
    at = content.find(b"storages\0")
    if value == b"pickle":
        content, at = content[:at] + bytes(1024), 0
    (tmp_path / "w").write_bytes(with_tar_header(content, at, field, value))
    with pytest.raises(MinidlError, match=message):
        weights.load(tmp_path / "w")


# ---- other files


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty, a weights file was expected"),
        (
            b"\xff\xd8\xff\xe0\x00\x10JFIF",
            "is a JPEG image; a weights file (.safetensors, .pth) was expected",
        ),
        (b"\x89PNG\r\n\x1a\n", "is a PNG image"),
        (b"\r\n<!DOCTYPE html><html>", "is a web page, not a weights file: a download that went wrong?"),
        (b'{"error": "not found"}', "is JSON text"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer, not the file itself"),
        (b"\x1f\x8b\x08\x00", "is a gzip archive: unpack it first"),
        (b"\x89HDF\r\n", "is an HDF5 file (Keras)"),
        (b"PK\x03\x04 and nothing else", "begins like a zip archive but is truncated or damaged"),
        (b"just some text", "is not a weights file: neither safetensors nor one of PyTorch's .pth formats"),
        (b"\x00", "is not a weights file"),
        (b"\x80", "truncated or damaged"),
    ],
)
def test_files_of_other_kinds_are_named(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(MinidlError) as caught:
        weights.load(tmp_path / "w.pth")
    assert str(caught.value).startswith(f"{tmp_path / 'w.pth'}: ")
    assert message in str(caught.value)


def test_missing_files_folders_and_wrong_arguments_are_named(tmp_path: Path) -> None:
    with pytest.raises(MinidlError, match=r"absent\.pth: no such file"):
        weights.load(tmp_path / "absent.pth")
    with pytest.raises(MinidlError, match="is a folder, a weights file was expected"):
        weights.load(str(tmp_path))
    with pytest.raises(MinidlError, match="not a file name"):
        weights.load("a\0b")
    with pytest.raises(TypeError, match="path must be text, got bytes"):
        weights.load(b"w.pth")  # type: ignore[arg-type]


@pytest.mark.skipif(sys.platform == "win32", reason="no named pipes in the file system there")
def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(MinidlError, match="is not a regular file"):
        weights.load(tmp_path / "pipe")


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="rights do not bind this user")
def test_a_file_without_the_right_to_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_bytes(b"x")
    (tmp_path / "w.pth").chmod(0)
    with pytest.raises(MinidlError, match="cannot be read: Permission denied"):
        weights.load(tmp_path / "w.pth")
