"""Reading within bounds and writing all or nothing."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from minidl.errors import MinidlError

_CHUNK = 1 << 16


def quoted(text: str, limit: int = 80) -> str:
    """`text` as one line in quotes, shortened to `limit` characters, control characters escaped.

    Names read from a file go through here before they reach a terminal.
    """
    return repr(text if len(text) <= limit else text[: limit - 3] + "...")


@contextlib.contextmanager
def reporting_damage(path: str) -> Iterator[None]:
    """Turns whatever a damaged or hostile file makes a parser raise into one MinidlError naming `path`."""
    try:
        yield
    except MinidlError:
        raise
    except MemoryError as error:
        raise MinidlError(f"{path}: there is not enough memory to load this file") from error
    except OSError as error:
        if error.errno is None:
            raise MinidlError(f"{path}: damaged ({quoted(str(error), 120)})") from error
        raise MinidlError(f"{path}: cannot be read: {os.strerror(error.errno)}") from error
    except Exception as error:
        reason = f"{type(error).__name__}: {quoted(str(error), 120)}"
        raise MinidlError(f"{path}: damaged, or not what it seems to be ({reason})") from error


@contextlib.contextmanager
def open_binary(path: str) -> Iterator[tuple[BinaryIO, int]]:
    """Opens `path` for reading and yields (file, size in bytes); MinidlErrors name the path."""
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            raise MinidlError(f"{path}: is a folder, a weights file was expected")
        if not stat.S_ISREG(mode):  # opening a pipe would wait for its writer
            raise MinidlError(f"{path}: is not a regular file, a weights file was expected")
        file = open(path, "rb")  # noqa: SIM115 (closed below)
    except FileNotFoundError:
        raise MinidlError(f"{path}: no such file") from None
    except OSError as error:
        raise MinidlError(f"{path}: cannot be read: {error.strerror or error}") from error
    except ValueError as error:  # a name with a zero byte in it
        raise MinidlError(f"{quoted(path)}: not a file name ({error})") from None
    with file:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        yield file, size


def read_array(file: BinaryIO, offset: int, nbytes: int, path: str) -> NDArray[np.uint8]:
    """`nbytes` bytes of `file` from `offset` on, as a fresh writable uint8 array of shape (nbytes,).

    The caller has checked both numbers against the file's size, so nothing larger than the file is allocated.
    """
    data = np.empty(nbytes, np.uint8)
    view = data.data
    file.seek(offset)
    done = 0
    while done < nbytes:
        got = file.readinto(view[done : done + (1 << 26)])  # type: ignore[attr-defined]
        if not got:
            raise MinidlError(f"{path}: truncated, {nbytes - done} bytes are missing at byte {offset + done}")
        done += got
    return data


class Window:
    """The bytes [start, stop) of a file, read forwards; asking for more is an error and allocates nothing."""

    def __init__(self, file: BinaryIO, start: int, stop: int, path: str) -> None:
        self.path = path
        self._file = file
        self._base = start  # position in the file of the buffer's first byte
        self._stop = stop
        self._buffer = b""
        self._at = 0

    @property
    def position(self) -> int:
        """The position in the file of the next byte."""
        return self._base + self._at

    @property
    def remaining(self) -> int:
        """How many bytes are left."""
        return self._stop - self.position

    def read(self, count: int) -> bytes:
        """Exactly `count` bytes."""
        end = self._at + count
        if count >= 0 and end <= len(self._buffer):
            data = self._buffer[self._at : end]
            self._at = end
            return data
        self._require(count)
        self._file.seek(self.position)
        data = self._file.read(max(count, min(_CHUNK, self.remaining)))
        if len(data) < count:
            raise MinidlError(f"{self.path}: truncated at byte {self.position + len(data)}")
        self._base, self._buffer, self._at = self.position, data, count
        return data[:count]

    def readline(self, limit: int = _CHUNK) -> bytes:
        """The bytes up to the next newline, without it; at most `limit` of them."""
        parts: list[bytes] = []
        while len(parts) <= limit:
            byte = self.read(1)
            if byte == b"\n":
                return b"".join(parts)
            parts.append(byte)
        raise MinidlError(f"{self.path}: damaged, a text field of more than {limit} bytes")

    def skip(self, count: int) -> None:
        """Passes over `count` bytes without reading them."""
        self._require(count)
        self._base, self._buffer, self._at = self.position + count, b"", 0

    def _require(self, count: int) -> None:
        if not 0 <= count <= self.remaining:
            raise MinidlError(
                f"{self.path}: truncated or damaged, {count} bytes are asked for at byte {self.position} "
                f"where {self.remaining} are left"
            )


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A binary file that takes the place of `path` when the block ends, or leaves no trace when it fails.

    The bytes go to a temporary file in the same folder, which is flushed to the disk and renamed
    (`os.replace`), so that a reader sees the old file or the whole new one, also after a power cut.
    Raises MinidlError when the file cannot be written (a full disk, a missing folder).
    """
    name = os.fspath(path)
    target = os.path.realpath(name)  # a link stays a link: the file behind it is replaced
    if os.path.isdir(target):
        raise MinidlError(f"{name}: is a folder, a file name was expected")
    folder, base = os.path.split(target)
    temporary = os.path.join(folder, f".{base[:100]}.{secrets.token_hex(6)}.tmp")
    # os.open rather than tempfile: the file gets the permissions that any other new file would get
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    try:
        file = os.fdopen(os.open(temporary, flags, 0o666), "wb")
    except OSError as error:
        raise MinidlError(f"{name}: cannot be written: {error.strerror or error}") from error
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        if isinstance(error, OSError):
            raise MinidlError(f"{name}: cannot be written: {error.strerror or error}") from error
        raise
    _sync_folder(folder)


def _sync_folder(folder: str) -> None:
    """Makes the rename itself durable where the system can (POSIX); elsewhere there is nothing to do."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_array(file: Any, array: NDArray[Any]) -> None:
    """Writes the bytes of a C-contiguous array without copying it as a whole."""
    view = array.reshape(-1).view(np.uint8).data
    for start in range(0, len(view), 1 << 26):
        file.write(view[start : start + (1 << 26)])
