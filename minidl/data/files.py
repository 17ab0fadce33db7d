"""Reading files with a bound on what they may occupy in memory, and with errors that name them."""

from __future__ import annotations

import os
import stat
import struct
import zlib
from pathlib import Path
from typing import Protocol

from minidl.errors import MinidlError

MAX_IMAGE_BYTES = 128 * 2**20
"""The largest encoded image file that is read, in bytes."""

MAX_ENTRIES = 20_000_000
"""The largest number of files in one folder tree or zip archive."""


def reason(error: BaseException) -> str:
    """The readable part of an exception, in one line."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split()) or type(error).__name__


def read_file(path: Path, limit: int) -> bytes:
    """The bytes of a regular file of at most `limit` bytes. Raises MinidlError naming the file."""
    try:
        status = os.stat(path)
        # Before opening: a named pipe would wait for a writer.
        if not stat.S_ISREG(status.st_mode):
            kind = "a folder" if stat.S_ISDIR(status.st_mode) else "no regular file"
            raise MinidlError(f"{path}: cannot be read: it is {kind}")
        if status.st_size > limit:
            raise MinidlError(f"{path}: {status.st_size} bytes, more than the {limit} that are read")
        with open(path, "rb") as file:
            return file.read(status.st_size)  # reading up to `limit` would reserve that much
    except OSError as error:
        raise MinidlError(f"{path}: cannot be read: {reason(error)}") from error


class Source(Protocol):
    """A tree of files: a folder or a zip archive. Paths are relative, with `/`, sorted; hidden ones are
    left out.
    """

    path: Path
    files: list[str]
    folders: list[str]

    def read(self, name: str) -> bytes:
        """The content of a file. Safe to call from several threads. Raises MinidlError naming the file."""

    def where(self, name: str) -> str:
        """The name of a file for people."""


def _hidden(part: str) -> bool:
    return part.startswith(".") or part == "__MACOSX"


class FolderSource:
    """The files under a folder. Links to folders are followed at the first level only, so that no loop can
    arise.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.files: list[str] = []
        self.folders: list[str] = []
        self._walk()
        self.files.sort()
        self.folders.sort()

    def _walk(self) -> None:
        pending = [("", 0)]
        while pending:
            base, depth = pending.pop()
            try:
                with os.scandir(self.path / base) as entries:
                    for entry in entries:
                        if _hidden(entry.name):
                            continue
                        if entry.is_dir(follow_symlinks=depth < 2):
                            self.folders.append(base + entry.name)
                            pending.append((f"{base}{entry.name}/", depth + 1))
                        else:
                            self.files.append(base + entry.name)
            except OSError as error:
                raise MinidlError(f"{self.path / base}: cannot be read: {reason(error)}") from error
            if len(self.files) > MAX_ENTRIES:
                raise MinidlError(f"{self.path}: more than {MAX_ENTRIES} files")

    def read(self, name: str) -> bytes:
        return read_file(self.path / name, MAX_IMAGE_BYTES)

    def where(self, name: str) -> str:
        return str(self.path / name)


class ZipSource:
    """The files of a zip archive, read in place: nothing is extracted.

    The directory of the archive is read once. Each `read` opens the archive for itself, so threads share
    nothing, and unpacks at most the size that the directory states, which is at most `MAX_IMAGE_BYTES`.
    Stored and deflated entries are supported; the checksum of each is verified.
    Layout: PKWARE APPNOTE 6.3, section 4.3.7 (local file header).
    """

    _LOCAL_HEADER = struct.Struct("<4s22xHH")

    def __init__(self, path: Path) -> None:
        import zipfile

        self.path = path
        self._entries: dict[str, tuple[int, int, int, int, int, int]] = {}
        folders: set[str] = set()
        try:
            with zipfile.ZipFile(path) as archive:
                infos = archive.infolist()
        except OSError as error:
            raise MinidlError(f"{path}: cannot be read: {reason(error)}") from error
        except Exception as error:  # zipfile raises a dozen types for damaged directories
            raise MinidlError(f"{path}: not a readable zip archive: {reason(error)}") from error
        if len(infos) > MAX_ENTRIES:
            raise MinidlError(f"{path}: more than {MAX_ENTRIES} entries")
        for info in infos:
            parts = [part for part in info.filename.split("/") if part not in ("", ".")]
            if not parts or any(_hidden(part) for part in parts):
                continue
            name = "/".join(parts)
            if info.filename.endswith("/"):
                folders.add(name)
            else:
                self._entries[name] = (
                    info.header_offset,
                    info.compress_size,
                    info.file_size,
                    info.compress_type,
                    info.flag_bits,
                    info.CRC,
                )
            folders.update("/".join(parts[:depth]) for depth in range(1, len(parts)))
        self.files = sorted(self._entries)
        self.folders = sorted(folders)

    def where(self, name: str) -> str:
        return f"{self.path}/{name}"

    def read(self, name: str) -> bytes:
        offset, packed_size, size, method, flags, checksum = self._entries[name]
        where = self.where(name)
        if flags & 1:
            raise MinidlError(f"{where}: is encrypted")
        if method not in (0, 8):
            raise MinidlError(
                f"{where}: compression method {method} is not supported (stored and deflated are)"
            )
        if max(size, packed_size) > MAX_IMAGE_BYTES:
            raise MinidlError(f"{where}: {size} bytes, more than the {MAX_IMAGE_BYTES} that are read")
        try:
            with open(self.path, "rb") as file:
                file.seek(offset)
                header = file.read(30)
                if len(header) < 30 or header[:4] != b"PK\x03\x04":
                    raise MinidlError(f"{where}: the zip archive is damaged: no file header at {offset}")
                _, name_size, extra_size = self._LOCAL_HEADER.unpack(header)
                file.seek(offset + 30 + name_size + extra_size)
                packed = file.read(packed_size)
        except (OSError, ValueError, OverflowError) as error:
            raise MinidlError(f"{where}: cannot be read: {reason(error)}") from error
        if len(packed) != packed_size:
            raise MinidlError(f"{where}: the zip archive is truncated")
        data = packed if method == 0 else self._inflate(packed, size, where)
        if len(data) != size or zlib.crc32(data) != checksum:
            raise MinidlError(f"{where}: the zip archive is damaged: size or checksum differs")
        return data

    @staticmethod
    def _inflate(packed: bytes, size: int, where: str) -> bytes:
        try:
            # One byte more than stated tells an entry that is longer; 0 would mean "no limit".
            return zlib.decompressobj(-15).decompress(packed, size + 1)
        except zlib.error as error:
            raise MinidlError(f"{where}: the zip archive is damaged: {error}") from error


def open_source(path: str | Path) -> Source:
    """A folder or a zip archive as a `Source`. Raises MinidlError when `path` is missing or is neither."""
    place = Path(path)
    try:
        if place.is_dir():
            return FolderSource(place)
        if not place.exists():
            raise MinidlError(f"{place}: no such file or folder")
        with open(place, "rb") as file:
            start = file.read(4)
    except OSError as error:
        raise MinidlError(f"{place}: cannot be read: {reason(error)}") from error
    if start[:2] == b"PK" or place.suffix.lower() == ".zip":
        return ZipSource(place)
    raise MinidlError(f"{place}: expected a folder or a zip archive")
