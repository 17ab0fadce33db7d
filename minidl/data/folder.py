"""Image folders: one folder per class, on disk or inside a zip archive."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from minidl.data.dataset import Dataset
from minidl.data.decode import decode_image
from minidl.data.files import Source, ZipSource, open_source
from minidl.errors import MinidlError

if TYPE_CHECKING:
    from PIL import Image

IMAGE_EXTENSIONS = (".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff")


def class_files(source: Source, prefix: str, extensions: Sequence[str]) -> dict[str, list[str]]:
    """The image files of every class folder directly under `prefix` ("" or "a/b/"), both sorted by name.

    A class folder without images has an empty list.
    """
    depth = len(prefix)
    wanted = tuple(extension.lower() for extension in extensions)
    found: dict[str, list[str]] = {
        folder[depth:]: []
        for folder in source.folders
        if folder.startswith(prefix) and "/" not in folder[depth:]
    }
    for name in source.files:
        if name.startswith(prefix) and name.lower().endswith(wanted):
            label, slash, _ = name[depth:].partition("/")
            if slash:
                found[label].append(name)
    return dict(sorted(found.items()))


class ImageFiles(Dataset):
    """Image files of a folder or zip archive, in the order given. `targets` are integers that index `classes`.

    Items are Pillow images in mode RGB, or L when `channels` is 1, decoded when they are asked for: see
    `minidl.data.decode` for how.
    """

    def __init__(
        self,
        source: Source,
        files: Sequence[str],
        targets: ArrayLike,
        classes: Sequence[str],
        channels: int = 3,
    ) -> None:
        self.source, self.files, self.channels = source, list(files), channels
        self.targets, self.classes = np.asarray(targets, np.int64), list(classes)
        if len(self.targets) != len(self.files):
            raise ValueError(f"ImageFiles: {len(self.files)} files, {len(self.targets)} targets")

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        position = self._position(index)
        name = self.files[position]
        image = decode_image(self.source.read(name), self.source.where(name), self.channels)
        return image, int(self.targets[position])

    def name(self, index: int) -> str:
        return self.source.where(self.files[self._position(index)])


class ImageFolder(ImageFiles):
    """Images in one folder per class, `ROOT/CLASS/**/IMAGE`, in a folder or a zip archive.

    Classes are the names of the folders, sorted; samples are sorted by path. Files with other extensions
    (compared without case) and hidden files and folders are ignored. Items are Pillow images in mode RGB,
    or L when `channels` is 1: see `minidl.data.decode` for how they are decoded. Nothing is opened before
    it is asked for.

    `classes` fixes the classes and their order: a folder that is not among them is an error, a missing one
    is not. `prefix` is the folder inside `root` that holds the class folders. Raises MinidlError for a
    missing folder, no class folder, or a class folder without images.
    """

    def __init__(
        self,
        root: str | Path | Source,
        *,
        extensions: Sequence[str] = IMAGE_EXTENSIONS,
        classes: Sequence[str] | None = None,
        prefix: str = "",
        channels: int = 3,
    ) -> None:
        if channels not in (1, 3):
            raise ValueError(f"ImageFolder: channels must be 1 or 3, got {channels}")
        source: Source = open_source(root) if isinstance(root, (str, Path)) else root
        prefix = prefix.strip("/") + "/" if prefix.strip("/") else ""
        where = source.where(prefix.rstrip("/")) if prefix else str(source.path)
        found = class_files(source, prefix, extensions)
        if not found:
            raise MinidlError(f"{where}: no class folders here; expected {where}/CLASS/IMAGE")
        for label, of_class in found.items():
            if not of_class:
                known = ", ".join(extensions)
                raise MinidlError(f"{source.where(prefix + label)}: the class folder has no images ({known})")
        names = list(found) if classes is None else list(classes)
        unknown = sorted(set(found) - set(names))
        if unknown:
            raise MinidlError(f"{where}: class folders {unknown} are not among the classes {names}")
        numbers = {label: number for number, label in enumerate(names)}
        targets = [numbers[label] for label, of_class in found.items() for _ in of_class]
        super().__init__(
            source, [name for of_class in found.values() for name in of_class], targets, names, channels
        )


class ZipImageFolder(ImageFolder):
    """`ImageFolder` of a zip archive, which is read in place, by any number of threads. See `ImageFolder`."""

    def __init__(self, path: str | Path, *, prefix: str = "", channels: int = 3) -> None:
        super().__init__(ZipSource(Path(path)), prefix=prefix, channels=channels)
