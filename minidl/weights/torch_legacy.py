"""PyTorch's two older formats: the stream (torch.save before 1.6) and the tar file (before 0.2).

Layouts as in `_legacy_load` of torch/serialization.py. Neither has checksums: a bit that flips inside a
tensor's bytes is not noticed.
"""

from __future__ import annotations

import struct
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from minidl.errors import MinidlError
from minidl.weights.allowed import rebuild_tensor
from minidl.weights.checkpoint import to_state_dict
from minidl.weights.dtypes import MAX_DIMENSIONS, Element
from minidl.weights.files import Window, quoted, read_array
from minidl.weights.pickle_reader import PickleReader
from minidl.weights.stand_ins import AllowedGlobal, StorageRef, TensorRef
from minidl.weights.state import StateDict
from minidl.weights.tar_members import tar_members

MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001


def read_stream(file: BinaryIO, size: int, path: str, native_bfloat16: bool, key: str | None) -> StateDict:
    """Reads an open file of `size` bytes that begins with a pickle.

    The stream format is five pickles (magic number, protocol, system, object, storage keys), then each
    storage as an int64 count and its bytes. A first pickle that is no magic number is the object itself.
    """
    window = Window(file, 0, size, path)
    pickles = PickleReader(window)
    first = pickles.load()
    if type(first) is not int or first != MAGIC:
        state = to_state_dict(
            first, _no_storage, path=path, file_size=size, format="pickle", native_bfloat16=False, key=key
        )
        state.notes.insert(0, "plain pickle of NumPy arrays (the format has no checksums)")
        return state
    protocol = pickles.load()
    if protocol != _PROTOCOL:
        raise MinidlError(f"{path}: damaged, the protocol of its stream is not {_PROTOCOL}")
    pickles.load()  # sizes of C types on the writer's machine; the data are little-endian whatever they say
    elements: dict[str, tuple[Element, int]] = {}
    root = pickles.load(lambda identifier: _stream_storage(identifier, elements))
    places = _stream_places(window, pickles, elements)

    def read(storage: StorageRef) -> NDArray[np.uint8]:
        return read_array(file, places[storage.key], storage.root_numel * storage.element.itemsize, path)

    state = to_state_dict(
        root, read, path=path, file_size=size, format="stream", native_bfloat16=native_bfloat16, key=key
    )
    state.notes.insert(0, "PyTorch legacy stream (the format has no checksums)")
    return state


def _no_storage(_storage: StorageRef) -> NDArray[np.uint8]:
    raise ValueError("a plain pickle has no storages")


def _stream_storage(identifier: object, elements: dict[str, tuple[Element, int]]) -> object:
    """("storage", type, key, device, number of elements, None or a view: (key, offset, number))."""
    if type(identifier) is not tuple or not identifier:
        raise ValueError("a persistent id that is not a tuple")
    if identifier[0] == "module":  # (class, source file, source): the class has been refused or is harmless
        return identifier[1]
    tag, kind, key, _device, numel, view = identifier
    if tag != "storage" or not isinstance(kind, AllowedGlobal) or kind.element is None:
        raise ValueError("a persistent id that is not a storage")
    if type(numel) is not int or not 0 <= numel < 1 << 62 or type(key) not in (str, int):
        raise ValueError("a storage without a size")
    if elements.setdefault(str(key), (kind.element, numel)) != (kind.element, numel):
        raise ValueError("one storage of two types or sizes")
    if view is None:
        return StorageRef(str(key), kind.element, numel)
    if type(view) is not tuple or len(view) != 3:
        raise ValueError("a view that is not (key, offset, size)")
    return _piece(StorageRef(str(key), kind.element, numel), view[1], view[2])


def _piece(root: StorageRef, offset: object, numel: object) -> StorageRef:
    """`numel` elements of `root` from element `offset` on."""
    if type(offset) is not int or type(numel) is not int or offset < 0 or numel < 0:
        raise ValueError("a view without offset or size")
    if offset + numel > root.numel:
        raise ValueError(f"a view of {numel} elements at {offset} of a storage of {root.numel}")
    start = root.start + offset * root.element.itemsize
    return StorageRef(root.key, root.element, numel, start, root.root_numel)


def _stream_places(
    window: Window, pickles: PickleReader, elements: dict[str, tuple[Element, int]]
) -> dict[str, int]:
    """Where in the file each storage's bytes begin; all of them must be there."""
    keys = pickles.load()
    if type(keys) is not list:
        raise MinidlError(f"{window.path}: damaged, it has no list of storages")
    places: dict[str, int] = {}
    for key in keys:
        name = str(key) if type(key) in (str, int) else ""
        if name not in elements or name in places:
            raise MinidlError(f"{window.path}: damaged, its list of storages names {quoted(name)}")
        element, numel = elements[name]
        (held,) = struct.unpack("<q", window.read(8))
        if held != numel:
            raise MinidlError(
                f"{window.path}: damaged, storage {quoted(name)} has {held} elements where {numel} are meant"
            )
        places[name] = window.position
        window.skip(numel * element.itemsize)
    missing = elements.keys() - places.keys()
    if missing:
        raise MinidlError(f"{window.path}: damaged, storage {quoted(min(missing))} is missing")
    return places


def read_tar(file: BinaryIO, size: int, path: str, native_bfloat16: bool, key: str | None) -> StateDict:
    """Reads an open legacy tar file of `size` bytes: members `storages`, `tensors` and `pickle`."""
    members = tar_members(file, size, path)
    for name in ("storages", "tensors", "pickle"):
        if name not in members:
            raise MinidlError(f"{path}: is a tar archive but not of PyTorch, it has no member {name!r}")
    places: dict[str, int] = {}
    storages = _tar_storages(Window(file, *members["storages"], path), places)
    tensors = _tar_tensors(Window(file, *members["tensors"], path), storages)

    def persistent_load(identifier: object) -> object:
        if type(identifier) is tuple and identifier:
            return identifier[0]  # (class, source file, source)
        found = str(identifier) if type(identifier) in (str, int) else ""
        return tensors[found] if found in tensors else storages[found]

    root = PickleReader(Window(file, *members["pickle"], path)).load(persistent_load)

    def read(storage: StorageRef) -> NDArray[np.uint8]:
        return read_array(file, places[storage.key], storage.root_numel * storage.element.itemsize, path)

    state = to_state_dict(
        root, read, path=path, file_size=size, format="tar", native_bfloat16=native_bfloat16, key=key
    )
    state.notes.insert(0, "PyTorch legacy tar archive (the format has no checksums)")
    return state


def _tar_storages(window: Window, places: dict[str, int]) -> dict[str, StorageRef]:
    """Member `storages`: a count, then (key, device, type) and the data of each, then a list of views."""
    pickles = PickleReader(window)
    storages: dict[str, StorageRef] = {}
    for _ in range(_count(pickles.load(), window)):
        key, _device, kind = _triple(pickles.load(), window)
        if not isinstance(kind, AllowedGlobal) or kind.element is None:
            raise MinidlError(f"{window.path}: damaged, a storage without a type")
        (numel,) = struct.unpack("<q", window.read(8))
        name = _identifier(key, window)
        if name in storages:
            raise MinidlError(f"{window.path}: damaged, two storages are called {quoted(name)}")
        storage = StorageRef(name, kind.element, numel)
        places[name] = window.position
        window.skip(storage.nbytes)
        storages[name] = storage
    views = pickles.load()
    for view in views if type(views) is list else ():
        target, root, offset, numel = view
        storages[_identifier(target, window)] = _piece(_known(storages, root, window), offset, numel)
    return storages


def _tar_tensors(window: Window, storages: dict[str, StorageRef]) -> dict[str, TensorRef]:
    """Member `tensors`: a count, then (key, storage, type), dimensions, sizes, strides, offset of each."""
    pickles = PickleReader(window)
    tensors: dict[str, TensorRef] = {}
    for _ in range(_count(pickles.load(), window)):
        key, storage_key, _kind = _triple(pickles.load(), window)
        (dimensions, _) = struct.unpack("<iI", window.read(8))  # the oldest writers used 8 bytes here
        if not 0 <= dimensions <= MAX_DIMENSIONS:
            raise MinidlError(f"{window.path}: damaged, a tensor of {dimensions} dimensions")
        numbers = struct.unpack(f"<{2 * dimensions + 1}q", window.read(8 * (2 * dimensions + 1)))
        sizes, strides, offset = numbers[:dimensions], numbers[dimensions:-1], numbers[-1]
        tensors[_identifier(key, window)] = rebuild_tensor(
            (_known(storages, storage_key, window), offset, sizes, strides)
        )
    return tensors


def _count(value: object, window: Window) -> int:
    """A count of entries, each of which takes at least a byte of what is left."""
    if type(value) is not int or not 0 <= value <= window.remaining:
        raise MinidlError(f"{window.path}: damaged, a count of entries that is not in the file")
    return value


def _triple(value: object, window: Window) -> tuple[object, object, object]:
    if type(value) is not tuple or len(value) != 3:
        raise MinidlError(f"{window.path}: damaged, an entry that is not (key, place, type)")
    return value


def _known(storages: dict[str, StorageRef], key: object, window: Window) -> StorageRef:
    name = _identifier(key, window)
    if name not in storages:
        raise MinidlError(f"{window.path}: damaged, there is no storage {quoted(name)}")
    return storages[name]


def _identifier(value: object, window: Window) -> str:
    if type(value) not in (int, str):
        raise MinidlError(f"{window.path}: damaged, a key that is neither a number nor text")
    return str(value)
