"""From the object that a pickle describes to a state dict: where the tensors are, what they are called."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minidl.errors import MinidlError
from minidl.weights.dtypes import count, decode
from minidl.weights.files import quoted
from minidl.weights.stand_ins import LegacyParameter, NumpyArray, StorageRef, TensorRef
from minidl.weights.state import StateDict, growth_limit

ReadStorage = Callable[[StorageRef], NDArray[np.uint8]]
"""Reads the whole storage that a reference is a piece of: fresh bytes, shape (nbytes,)."""

WRAPPERS = (
    "state_dict",
    "model_state_dict",
    "model_state",
    "model",
    "net",
    "network",
    "module",
    "weights",
    "params",
    "state_dict_ema",
    "ema_state_dict",
    "model_ema",
    "ema",
    "params_ema",
)
"""Names under which training scripts store the state dict, in order of preference."""

PREFIXES = ("module.", "_orig_mod.")
"""What DataParallel and torch.compile put before every name."""

_MAX_DEPTH = 4


def to_state_dict(
    root: object,
    read_storage: ReadStorage,
    *,
    path: str,
    file_size: int,
    format: str,
    order: str = "<",
    native_bfloat16: bool = False,
    key: str | None = None,
) -> StateDict:
    """Finds the state dict in `root` and reads its tensors; everything else in the file stays unread.

    order: byte order of the storages. key: where to look, dotted ("ema" or "model.state_dict"), instead of
    searching. Raises MinidlError when there is no state dict, or when its tensors are larger than a file of
    `file_size` bytes can mean.
    """
    found, place, notes = _find(root, path, key)
    tensors: dict[str, TensorRef | NDArray[Any]] = {}
    left_out = []
    for name, value in found.items():
        tensor = _as_tensor(value)
        if tensor is None or not isinstance(name, str):
            left_out.append(name)
        else:
            tensors[name] = tensor
    if place:
        notes.insert(0, f"tensors found under {quoted(place)}")
    if left_out:
        notes.append(f"ignored beside the tensors: {_listed(left_out)}")
    prefix = _common_prefix(tensors)
    if prefix:
        tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
        notes.append(f"prefix {quoted(prefix)} removed from all {len(tensors)} names")
    _check_growth(tensors, file_size, path)
    state = StateDict(_read(tensors, read_storage, order, native_bfloat16), format=format)
    widened = sum(isinstance(t, TensorRef) and t.element.name == "bfloat16" for t in tensors.values())
    if widened and not native_bfloat16:
        notes.append(f"{widened} bfloat16 tensors were widened to float32, exactly")
    state.notes.extend(notes)
    return state


# ---- searching


def _find(root: object, path: str, key: str | None) -> tuple[dict[Any, object], str, list[str]]:
    """(the dictionary that holds tensors, where it was, notes)."""
    if key is not None:
        return _at(root, key, path), key, []
    if not isinstance(root, dict):
        raise MinidlError(f"{path}: holds {_kind(root)}, a dictionary of tensors was expected")
    place: list[str] = []
    notes: list[str] = []
    while len(place) < _MAX_DEPTH:
        inner = _wrapper(root, path)
        if inner is None:
            break
        others = [name for name in root if name != inner]
        if others:
            notes.append(f"ignored: {_listed(others)}")
        place.append(inner)
        root = root[inner]
        assert isinstance(root, dict)
    if not _holds_tensors(root):
        raise MinidlError(f"{path}: holds no tensors, its entries are: {_listed(list(root)) or 'none'}")
    return root, ".".join(place), notes


def _wrapper(root: dict[Any, object], path: str) -> str | None:
    """The name of the entry of `root` that leads to the state dict; None when `root` is it."""
    seen: dict[int, bool] = {}
    candidates = [
        name
        for name, value in root.items()
        if isinstance(name, str) and _leads_to_tensors(value, _MAX_DEPTH, seen)
    ]
    for name in WRAPPERS:
        if name in candidates:
            return name
    if not candidates or _holds_tensors(root):
        return None
    if len(candidates) > 1:
        raise MinidlError(f"{path}: holds several state dicts, choose one with key=: {_listed(candidates)}")
    return candidates[0]


def _leads_to_tensors(value: object, depth: int, seen: dict[int, bool]) -> bool:
    """Whether `value` is a dictionary with tensors under names, or holds one under a wrapper's name.

    seen: answers by id. A hostile file has dictionaries that contain themselves and one another many times.
    """
    if not isinstance(value, dict) or depth == 0:
        return False
    if id(value) not in seen:
        seen[id(value)] = False
        inner = (_leads_to_tensors(value.get(name), depth - 1, seen) for name in WRAPPERS)
        seen[id(value)] = _holds_tensors(value) or any(inner)
    return seen[id(value)]


def _holds_tensors(value: dict[Any, object]) -> bool:
    # names only: an optimizer's state counts its parameters by integers
    return any(isinstance(name, str) and _as_tensor(item) is not None for name, item in value.items())


def _at(root: object, key: str, path: str) -> dict[Any, object]:
    """The dictionary at the dotted place `key`."""
    at, rest = root, key
    while rest:
        if not isinstance(at, dict):
            raise MinidlError(f"{path}: has no entry {quoted(key)}")
        # names may themselves have dots: the longest one that fits is taken
        parts = rest.split(".")
        for cut in range(len(parts), 0, -1):
            name = ".".join(parts[:cut])
            if name in at:
                at, rest = at[name], ".".join(parts[cut:])
                break
        else:
            raise MinidlError(f"{path}: has no entry {quoted(key)}, there are: {_listed(list(at)) or 'none'}")
    if not isinstance(at, dict) or not _holds_tensors(at):
        raise MinidlError(f"{path}: its entry {quoted(key)} is not a dictionary of tensors")
    return at


def _as_tensor(value: object) -> TensorRef | NDArray[Any] | None:
    if isinstance(value, LegacyParameter):
        return value.tensor
    if isinstance(value, NumpyArray):
        return value.array
    return value if isinstance(value, TensorRef) else None


def _common_prefix(names: Mapping[str, object]) -> str:
    """The wrappers' prefixes that all names share, in the order they stand in the names."""
    prefix = ""
    for _ in range(_MAX_DEPTH):
        longer = [prefix + more for more in PREFIXES]
        fitting = [p for p in longer if names and all(name.startswith(p) and name != p for name in names)]
        if not fitting:
            break
        prefix = fitting[0]
    return prefix


def _listed(names: list[Any], limit: int = 12) -> str:
    """Names in quotes, at most `limit` of them."""
    shown = ", ".join(quoted(n, 60) if isinstance(n, str) else f"({type(n).__name__})" for n in names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"


def _kind(value: object) -> str:
    if isinstance(value, TensorRef):
        return "a single tensor"
    if isinstance(value, list | tuple):
        return f"a {type(value).__name__} of {len(value)} items"
    return f"an object of type {type(value).__name__}"


# ---- reading


def _check_growth(tensors: dict[str, TensorRef | NDArray[Any]], file_size: int, path: str) -> None:
    """Bounds what shared and expanded tensors add up to, before any of it is allocated."""
    total = 0
    for name, tensor in tensors.items():
        if isinstance(tensor, TensorRef):
            wide = 4 if tensor.element.name == "bfloat16" else tensor.element.itemsize
            total += count(tensor.size) * wide
        else:
            total += tensor.nbytes
        if total > growth_limit(file_size):
            raise MinidlError(
                f"{path}: up to {quoted(name)} its tensors take {total} bytes, "
                f"which a file of {file_size} bytes cannot mean"
            )


def _read(
    tensors: dict[str, TensorRef | NDArray[Any]], read_storage: ReadStorage, order: str, native_bfloat16: bool
) -> dict[str, NDArray[Any]]:
    """The arrays, in the order of `tensors`; each storage is read once and freed before the next one."""
    arrays: dict[str, NDArray[Any]] = dict.fromkeys(tensors, np.empty(0))
    users: dict[str, list[str]] = {}
    for name, tensor in tensors.items():
        if isinstance(tensor, TensorRef):
            users.setdefault(tensor.storage.key, []).append(name)
        else:
            arrays[name] = tensor.copy()
    for names in users.values():
        first = tensors[names[0]]
        assert isinstance(first, TensorRef)
        raw = read_storage(first.storage)
        for name in names:
            tensor = tensors[name]
            assert isinstance(tensor, TensorRef)
            step = tensor.element.itemsize
            whole = len(names) == 1 and count(tensor.size) * step == raw.nbytes
            arrays[name] = decode(
                raw,
                tensor.element,
                tensor.size,
                strides=[stride * step for stride in tensor.stride] if count(tensor.size) else None,
                offset=tensor.storage.start + tensor.offset * step if count(tensor.size) else 0,
                order=order,
                native_bfloat16=native_bfloat16,
                copy=not whole,
            )
    return arrays
