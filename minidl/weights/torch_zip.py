"""PyTorch's zip format (torch.save since 1.6): a pickle and one stored member per storage.

Layout: https://docs.pytorch.org/docs/stable/notes/serialization.html and torch/serialization.py. Inside one
folder: `data.pkl`, `data/0`, `data/1`, ..., `version`, and from 1.13 on `byteorder`.
"""

from __future__ import annotations

import io
import zipfile
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from minidl.errors import MinidlError
from minidl.weights.checkpoint import to_state_dict
from minidl.weights.files import Window, quoted
from minidl.weights.pickle_reader import PickleReader
from minidl.weights.stand_ins import AllowedGlobal, StorageRef
from minidl.weights.state import StateDict

_CHUNK = 1 << 20
_MAX_SMALL = 64
_ENCRYPTED = 0x1


class _Archive:
    """The members of a zip file, read with their checksums verified and never beyond the file's own size."""

    def __init__(self, file: BinaryIO, size: int, path: str) -> None:
        self.path = path
        try:
            self._zip = zipfile.ZipFile(file)
        except Exception as error:
            raise MinidlError(
                f"{path}: begins like a zip archive but is truncated or damaged ({quoted(str(error), 100)})"
            ) from error
        self.names = self._zip.namelist()
        if len(set(self.names)) != len(self.names):
            raise MinidlError(f"{path}: damaged, two members of the archive have the same name")
        self._left = size

    def size(self, name: str) -> int:
        """The size of a member in bytes; MinidlError when it is missing, compressed or encrypted."""
        try:
            info = self._zip.getinfo(name)
        except KeyError:
            raise MinidlError(f"{self.path}: damaged, the archive has no member {quoted(name)}") from None
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
            raise MinidlError(
                f"{self.path}: its member {quoted(name)} is compressed, PyTorch stores members as they are"
            )
        if info.flag_bits & _ENCRYPTED:
            raise MinidlError(f"{self.path}: its member {quoted(name)} is encrypted")
        return info.file_size

    def read(self, name: str) -> NDArray[np.uint8]:
        """The bytes of a member, its checksum verified."""
        nbytes = self.size(name)
        # all members together fit in the file, unless several entries point at the same bytes
        self._left -= nbytes
        if self._left < 0:
            raise MinidlError(f"{self.path}: damaged, its members add up to more than the file")
        data = np.empty(nbytes, np.uint8)
        at = 0
        try:
            with self._zip.open(name) as member:
                while chunk := member.read(_CHUNK):  # the checksum is compared at the end
                    data[at : at + len(chunk)] = np.frombuffer(chunk, np.uint8)
                    at += len(chunk)
        except OSError:
            raise
        except Exception as error:
            raise MinidlError(
                f"{self.path}: damaged, member {quoted(name)}: {quoted(str(error) or 'truncated', 100)}"
            ) from error
        if at != nbytes:
            raise MinidlError(f"{self.path}: truncated in member {quoted(name)}")
        return data

    def small(self, name: str) -> bytes:
        """A short text member, b"" when there is none."""
        if name not in self.names:
            return b""
        if self.size(name) > _MAX_SMALL:
            raise MinidlError(f"{self.path}: damaged, member {quoted(name)} has more than {_MAX_SMALL} bytes")
        return self.read(name).tobytes().strip()


def read_zip(file: BinaryIO, size: int, path: str, native_bfloat16: bool, key: str | None) -> StateDict:
    """Reads an open PyTorch zip file of `size` bytes."""
    archive = _Archive(file, size, path)
    folder = _folder(archive)
    order = archive.small(folder + "byteorder") or b"little"
    if order not in (b"little", b"big"):
        raise MinidlError(f"{path}: damaged, its byte order is {quoted(order.decode('latin1'))}")
    version = archive.small(folder + "version").decode("latin1")

    def persistent_load(identifier: object) -> StorageRef:
        """("storage", type, key, device, number of elements)."""
        if type(identifier) is not tuple or len(identifier) != 5 or identifier[0] != "storage":
            raise ValueError("a persistent id that is not a storage")
        _, kind, storage_key, _device, numel = identifier
        if not isinstance(kind, AllowedGlobal) or kind.element is None or type(storage_key) is not str:
            raise TypeError("a storage without type or key")
        if type(numel) is not int or numel < 0:
            raise ValueError("a storage without a size")
        storage = StorageRef(storage_key, kind.element, numel)
        held = archive.size(f"{folder}data/{storage_key}")
        if held != storage.nbytes:
            raise MinidlError(
                f"{path}: damaged, storage {quoted(storage_key)} has {held} bytes, "
                f"the pickle means {storage.nbytes}"
            )
        return storage

    data = archive.read(folder + "data.pkl").tobytes()
    root = PickleReader(Window(io.BytesIO(data), 0, len(data), path)).load(persistent_load)
    state = to_state_dict(
        root,
        lambda storage: archive.read(f"{folder}data/{storage.key}"),
        path=path,
        file_size=size,
        format="zip",
        order="<" if order == b"little" else ">",
        native_bfloat16=native_bfloat16,
        key=key,
    )
    shown = f", version {quoted(version)[1:-1]}" if version else ""
    state.notes.insert(0, f"PyTorch zip archive{shown}, checksums of the tensors verified")
    return state


def _folder(archive: _Archive) -> str:
    """The folder of the archive that holds data.pkl, with its slash; MinidlError for other kinds of zip."""
    names, path = archive.names, archive.path
    folders = [name[: -len("data.pkl")] for name in names if name == "data.pkl" or name.endswith("/data.pkl")]
    top = {name.split("/", 1)[1] if "/" in name else name for name in names}
    if "constants.pkl" in top or any(name.startswith("code/") for name in top):
        raise MinidlError(
            f"{path}: is a TorchScript archive (torch.jit.save), which holds a program beside the weights; "
            "in PyTorch: torch.save(torch.jit.load(FILE).state_dict(), NEW_FILE)"
        )
    if len(folders) == 1:
        return folders[0]
    if folders:
        raise MinidlError(f"{path}: damaged, the archive has {len(folders)} members called data.pkl")
    if names and all(name.endswith(".npy") for name in names):
        raise MinidlError(
            f"{path}: is a NumPy .npz archive, a weights file (.safetensors, .pth) was expected"
        )
    raise MinidlError(f"{path}: is a zip archive but not of PyTorch, it has no member data.pkl")
