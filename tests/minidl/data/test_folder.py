from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from minidl.data import ImageFolder, ZipImageFolder
from minidl.data import files as files_module
from minidl.errors import MinidlError
from tests.minidl.data.conftest import encoded, picture


def write_zip(path: Path, entries: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return path


JPEG = encoded(picture(), "JPEG")
TREE = {
    "bees/b.jpg": JPEG,
    "bees/A.JPEG": JPEG,
    "bees/deep/er/c.png": encoded(picture(seed=1), "PNG"),
    "bees/notes.txt": b"no image",
    "bees/.hidden.jpg": b"no image",
    "bees/.folder/x.jpg": b"no image",
    "ants/1.gif": encoded(picture(seed=2), "GIF"),
    ".cache/x.jpg": b"no image",
    "__MACOSX/bees/b.jpg": b"no image",
    "README.md": b"text",
}


@pytest.fixture(params=["folder", "stored", "deflated"])
def tree(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    if request.param != "folder":
        method = zipfile.ZIP_STORED if request.param == "stored" else zipfile.ZIP_DEFLATED
        return write_zip(tmp_path / "tree.zip", TREE, method)
    for name, data in TREE.items():
        place = tmp_path / "tree" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
    return tmp_path / "tree"


def test_classes_and_files_are_sorted_and_everything_else_is_ignored(tree: Path) -> None:
    data = ImageFolder(tree)
    assert data.classes == ["ants", "bees"]
    assert data.files == ["ants/1.gif", "bees/A.JPEG", "bees/b.jpg", "bees/deep/er/c.png"]
    assert data.targets.tolist() == [0, 1, 1, 1]
    assert Path(data.name(2)) == tree / "bees/b.jpg"
    image, label = data[3]
    assert (
        label == 1 and image.mode == "RGB" and np.array_equal(np.asarray(image), np.asarray(picture(seed=1)))
    )
    assert ImageFolder(tree, channels=1)[1][0].mode == "L"


def test_given_classes_fix_the_labels(tree: Path) -> None:
    data = ImageFolder(tree, classes=["bees", "cats", "ants"])
    assert data.classes == ["bees", "cats", "ants"] and data.targets.tolist() == [2, 0, 0, 0]
    with pytest.raises(MinidlError, match=r"class folders \['bees'\] are not among the classes"):
        ImageFolder(tree, classes=["ants"])


def test_given_extensions_replace_the_known_ones(tree: Path) -> None:
    assert ImageFolder(tree, extensions=[".GIF", ".png"]).files == ["ants/1.gif", "bees/deep/er/c.png"]


def test_an_inner_folder_is_chosen_by_prefix(tree: Path) -> None:
    data = ImageFolder(tree, prefix="bees/deep")
    assert data.classes == ["er"] and len(data) == 1


def test_empty_and_missing_folders_are_named(tmp_path: Path, make_folder: Callable[..., Path]) -> None:
    root = make_folder("ants", "bees")
    with pytest.raises(MinidlError, match="missing: no such file or folder"):
        ImageFolder(root / "missing")
    with pytest.raises(MinidlError, match="ants: no class folders here"):
        ImageFolder(root / "ants")
    with pytest.raises(MinidlError, match=r"0\.jpg: expected a folder or a zip archive"):
        ImageFolder(root / "ants" / "0.jpg")
    (root / "wasps").mkdir()
    (root / "wasps" / "list.txt").write_text("nothing")
    with pytest.raises(MinidlError, match=r"wasps: the class folder has no images \(\.jpg, "):
        ImageFolder(root)
    with pytest.raises(ValueError, match="channels must be 1 or 3"):
        ImageFolder(root, channels=2)


def test_an_empty_class_folder_in_a_zip_is_named(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", {"ants/1.jpg": JPEG, "bees/": b""})
    with pytest.raises(MinidlError, match=r"a\.zip/bees: the class folder has no images"):
        ZipImageFolder(path)


def test_files_that_cannot_be_read_are_named(make_folder: Callable[..., Path]) -> None:
    root = make_folder("ants", "bees", count=1)
    data = ImageFolder(root)
    (root / "ants" / "0.jpg").unlink()
    with pytest.raises(MinidlError, match=r"0\.jpg: cannot be read: No such file"):
        data[0]
    (root / "bees" / "0.jpg").write_bytes(JPEG[:200])
    with pytest.raises(MinidlError, match=r"bees.0\.jpg: cannot be decoded"):
        data[1]


def test_a_folder_that_cannot_be_listed_is_named(
    make_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_folder("ants", "bees")
    scandir = files_module.os.scandir

    def refusing(path: Path) -> object:
        if Path(path).name == "bees":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(files_module.os, "scandir", refusing)
    with pytest.raises(MinidlError, match="bees: cannot be read: Permission denied"):
        ImageFolder(root)


def test_a_link_to_its_own_parent_ends(make_folder: Callable[..., Path]) -> None:
    root = make_folder("ants", "bees", count=2)
    try:
        (root / "ants" / "deeper").mkdir()
        (root / "ants" / "deeper" / "loop").symlink_to(root, target_is_directory=True)
        (root / "wasps").symlink_to(root / "bees", target_is_directory=True)
    except OSError:
        pytest.skip("this system makes no links")
    data = ImageFolder(root)
    assert data.classes == ["ants", "bees", "wasps"] and len(data) == 6


def test_a_file_beyond_the_size_limit_is_refused(
    make_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files_module, "MAX_IMAGE_BYTES", 100)
    with pytest.raises(MinidlError, match=r"0\.jpg: \d+ bytes, more than the 100"):
        ImageFolder(make_folder("ants", "bees"))[0]


def test_a_zip_is_read_by_many_threads_at_once(tmp_path: Path) -> None:
    contents = {f"{'ab'[i % 2]}/{i:03}.png": encoded(picture(seed=i), "PNG") for i in range(40)}
    data = ZipImageFolder(write_zip(tmp_path / "many.zip", contents, zipfile.ZIP_DEFLATED))
    wanted = [np.asarray(data[i][0]) for i in range(40)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda i: np.asarray(data[i % 40][0]), range(400)))
    assert all(np.array_equal(image, wanted[i % 40]) for i, image in enumerate(found))


def patched(path: Path, old: bytes, new: bytes, count: int = -1) -> None:
    data = path.read_bytes()
    assert old in data
    path.write_bytes(data.replace(old, new, count))


def test_a_zip_bomb_is_unpacked_no_further_than_its_stated_size(tmp_path: Path) -> None:
    bomb = write_zip(
        tmp_path / "bomb.zip", {"a/1.jpg": bytes(50_000_000), "b/1.jpg": JPEG}, zipfile.ZIP_DEFLATED
    )
    patched(bomb, struct.pack("<I", 50_000_000), struct.pack("<I", 1000))
    with pytest.raises(MinidlError, match=r"a/1\.jpg: the zip archive is damaged: size or checksum"):
        ZipImageFolder(bomb)[0]


def test_a_zip_entry_beyond_the_size_limit_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_zip(tmp_path / "big.zip", {"a/1.jpg": bytes(1000), "b/1.jpg": JPEG}, zipfile.ZIP_DEFLATED)
    monkeypatch.setattr(files_module, "MAX_IMAGE_BYTES", 999)
    with pytest.raises(MinidlError, match=r"a/1\.jpg: 1000 bytes, more than the 999"):
        ZipImageFolder(path)[0]


def test_weird_zips_are_refused_with_a_reason(tmp_path: Path) -> None:
    cases = {
        "text.zip": (b"this is no archive", "not a readable zip archive"),
        "empty.zip": (b"", "not a readable zip archive"),
        "cut.zip": (write_zip(tmp_path / "x.zip", TREE).read_bytes()[:-30], "not a readable zip archive"),
        "none.zip": (write_zip(tmp_path / "y.zip", {}).read_bytes(), "no class folders here"),
        "flat.zip": (write_zip(tmp_path / "z.zip", {"1.jpg": JPEG}).read_bytes(), "no class folders here"),
    }
    for name, (data, words) in cases.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(MinidlError, match=f"{name}: {words}"):
            ImageFolder(tmp_path / name)


def test_entries_that_cannot_be_unpacked_are_refused_by_name(tmp_path: Path) -> None:
    entries = {"a/1.jpg": JPEG, "b/1.jpg": JPEG}
    lzma = ZipImageFolder(write_zip(tmp_path / "lzma.zip", entries, zipfile.ZIP_LZMA))
    with pytest.raises(MinidlError, match=r"a/1\.jpg: compression method 14 is not supported"):
        lzma[0]
    path = write_zip(tmp_path / "changed.zip", entries)
    data = ZipImageFolder(path)
    patched(path, JPEG[100:110], bytes(10), 1)
    with pytest.raises(MinidlError, match=r"a/1\.jpg: the zip archive is damaged: size or checksum"):
        data[0]
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(MinidlError, match=r"a/1\.jpg: the zip archive is truncated"):
        data[0]
    with pytest.raises(MinidlError, match=r"b/1\.jpg: the zip archive is damaged: no file header"):
        data[1]
    path.unlink()
    with pytest.raises(MinidlError, match=r"b/1\.jpg: cannot be read"):
        data[1]
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    raw = bytearray(stream.getvalue())
    raw[raw.index(b"PK\x01\x02") + 8] |= 1  # the "encrypted" flag in the directory
    (tmp_path / "locked.zip").write_bytes(raw)
    with pytest.raises(MinidlError, match=r"a/1\.jpg: is encrypted"):
        ZipImageFolder(tmp_path / "locked.zip")[0]


def test_real_photos_with_a_gif_among_them_all_decode(real_data: Path) -> None:
    data = ImageFolder(real_data / "images" / "hymenoptera" / "train")
    assert data.classes == ["ants", "bees"] and len(data) == 245
    (gif,) = [i for i in range(len(data)) if data.name(i).lower().endswith(".gif")]
    image, label = data[gif]
    assert image.mode == "RGB" and label == 0


def test_the_real_cifar_zip_is_read_in_place(real_data: Path) -> None:
    data = ZipImageFolder(real_data / "cifar10-jpeg.zip", prefix="test")
    assert len(data) == 10_000 and np.bincount(data.targets).tolist() == [1000] * 10
    image, label = data[2345]
    assert image.size == (32, 32) and label == 2 and "/test/bird/" in data.name(2345)
