"""A reader of the few pickles that data sets are published in: dictionaries of numbers, strings, lists and
arrays.

Python's `pickle` can call any function that a file names, and even with a restricted `find_class` some of
its opcodes reserve as many gigabytes as a damaged length asks for. This interpreter knows only the opcodes
below, builds only plain values, calls nothing outside of this file, and allocates no more than a small
multiple of the file's size. Reference for the opcodes: CPython's Lib/pickletools.py; protocols 2 to 5,
which include Python 2's.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from typing import Any

import numpy as np

from minidl.errors import MinidlError

_MARK = object()
_DTYPES = frozenset(f"{kind}{size}" for kind in "iu" for size in (1, 2, 4, 8))


class _Refused(Exception):
    """A message about the pickle; `load` puts the file's name before it."""


class _Array:
    """An array between its REDUCE and its BUILD."""

    value: np.ndarray | None = None

    def build(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            raise _Refused("an array has an unexpected state")
        self.value = _make_array(state[4], state[2], state[1], "F" if state[3] else "C")


class _DType:
    def __init__(self, code: str) -> None:
        self.value = np.dtype(code)

    def build(self, state: Any) -> None:
        order = _text(state[1]) if isinstance(state, tuple) and len(state) == 8 else None
        if order is None or order not in ("|", "<", ">", "="):
            raise _Refused("an array has an unexpected dtype")
        if order == ">":
            self.value = self.value.newbyteorder(">")


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("latin1")
    if isinstance(value, str):
        return value
    raise _Refused(f"expected a string, got {type(value).__name__}")


def _make_array(raw: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    if isinstance(raw, str):  # Python 2 bytes that went through Python 3 as latin1 text
        raw = raw.encode("latin1")
    if (
        not isinstance(raw, (bytes, bytearray))
        or not isinstance(dtype, _DType)
        or not isinstance(shape, tuple)
    ):
        raise _Refused("an array has an unexpected state")
    if len(shape) > 8 or not all(isinstance(size, int) and size >= 0 for size in shape):
        raise _Refused("an array has an unexpected shape")
    if math.prod(shape) * dtype.value.itemsize != len(raw):
        raise _Refused(f"an array of shape {shape} and {dtype.value} does not have {len(raw)} bytes")
    return np.frombuffer(raw, dtype.value).reshape(shape, order="F" if order == "F" else "C")


def _reconstruct(kind: Any, shape: Any, code: Any) -> _Array:
    if kind is not _NDARRAY:
        raise _Refused("only plain arrays are read")
    return _Array()


def _frombuffer(raw: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    return _make_array(raw, dtype, shape, order)


def _dtype(code: Any, *flags: Any) -> _DType:
    name = _text(code)
    if name not in _DTYPES:
        raise _Refused(f"arrays of dtype {name[:20]!r} are not read")
    return _DType(name)


def _encode(text: Any, codec: Any) -> bytes:
    if _text(codec) != "latin1":
        raise _Refused("only latin1 text is read")
    return _text(text).encode("latin1")


def _not_called(*arguments: Any) -> Any:
    raise _Refused("only plain arrays are read")


_NDARRAY = _not_called
_GLOBALS: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "ndarray"): _NDARRAY,
    ("numpy", "dtype"): _dtype,
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy.core.numeric", "_frombuffer"): _frombuffer,
    ("numpy._core.numeric", "_frombuffer"): _frombuffer,
    ("_codecs", "encode"): _encode,
}
_CALLABLE = frozenset(_GLOBALS.values())


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def take(self, count: int) -> bytes:
        piece = self.data[self.at : self.at + count]
        if count < 0 or len(piece) != count:
            raise _Refused("the file is truncated")
        self.at += count
        return piece

    def number(self, code: str, size: int) -> int:
        return int(struct.unpack(code, self.take(size))[0])

    def line(self) -> str:
        end = self.data.find(b"\n", self.at, self.at + 256)
        if end < 0:
            raise _Refused("a name is not ended")
        return self.take(end + 1 - self.at)[:-1].decode("latin1")

    def items(self) -> list[Any]:
        """Pops everything above the last mark, and the mark."""
        for position in range(len(self.stack) - 1, -1, -1):
            if self.stack[position] is _MARK:
                found = self.stack[position + 1 :]
                del self.stack[position:]
                return found
        raise _Refused("a mark is missing")

    def pop(self) -> Any:
        if not self.stack or self.stack[-1] is _MARK:
            raise _Refused("a value is missing")
        return self.stack.pop()

    def top(self, kind: type) -> Any:
        if not self.stack or not isinstance(self.stack[-1], kind):
            raise _Refused(f"a {kind.__name__} is missing")
        return self.stack[-1]

    def find_global(self, module: Any, name: Any) -> None:
        found = _GLOBALS.get((_text(module), _text(name)))
        if found is None:
            shown = "".join(c if c.isprintable() else "?" for c in f"{_text(module)}.{_text(name)}"[:200])
            raise _Refused(f"it asks for {shown}, which is not allowed")
        self.stack.append(found)

    def put_items(self, pairs: list[Any]) -> None:
        target = self.top(dict)
        if len(pairs) % 2:
            raise _Refused("a dictionary has a key without a value")
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            if not isinstance(key, (str, bytes, int)):
                raise _Refused(f"a dictionary has a key of type {type(key).__name__}")
            target[key] = value

    def reduce(self) -> None:
        arguments, function = self.pop(), self.pop()
        if not isinstance(arguments, tuple) or not callable(function) or function not in _CALLABLE:
            raise _Refused("it calls something that is not a function")
        self.stack.append(function(*arguments))

    def build(self) -> None:
        state = self.pop()
        target = self.stack[-1] if self.stack else None
        if not isinstance(target, (_Array, _DType)):
            raise _Refused("it sets the state of something that is not an array")
        target.build(state)

    def remember(self, key: int) -> None:
        if not self.stack or self.stack[-1] is _MARK:
            raise _Refused("a value is missing")
        self.memo[key] = self.stack[-1]

    def recall(self, key: int) -> None:
        if key not in self.memo:
            raise _Refused(f"value {key} was never stored")
        self.stack.append(self.memo[key])

    def tuple_of(self, count: int) -> None:
        values = [self.pop() for _ in range(count)]
        self.stack.append(tuple(reversed(values)))

    def run(self) -> Any:
        while True:
            opcode = self.take(1)
            if opcode == b".":
                return self.pop()
            action = _OPCODES.get(opcode)
            if action is None:
                raise _Refused(f"opcode {opcode!r} at byte {self.at - 1} is not expected")
            action(self)


def _two(reader: _Reader) -> list[Any]:
    value = reader.pop()
    return [reader.pop(), value]


def _append(reader: _Reader) -> None:
    value = reader.pop()
    reader.top(list).append(value)


def _extend(reader: _Reader) -> None:
    values = reader.items()
    reader.top(list).extend(values)


def _stack_global(reader: _Reader) -> None:
    name = reader.pop()
    reader.find_global(reader.pop(), name)


def _long(reader: _Reader) -> None:
    size = reader.number("<B", 1)
    reader.stack.append(int.from_bytes(reader.take(size), "little", signed=True))


def _utf8(code: str, size: int) -> Callable[[_Reader], None]:
    return lambda reader: reader.stack.append(
        reader.take(reader.number(code, size)).decode("utf-8", "surrogatepass")
    )


def _bytes(code: str, size: int) -> Callable[[_Reader], None]:
    return lambda reader: reader.stack.append(reader.take(reader.number(code, size)))


def _integer(code: str, size: int) -> Callable[[_Reader], None]:
    return lambda reader: reader.stack.append(reader.number(code, size))


_OPCODES: dict[bytes, Callable[[_Reader], Any]] = {
    b"\x80": lambda r: r.take(1),  # PROTO
    b"\x95": lambda r: r.take(8),  # FRAME: a hint about reading ahead
    b"(": lambda r: r.stack.append(_MARK),
    b"0": lambda r: r.pop(),
    b"N": lambda r: r.stack.append(None),
    b"\x88": lambda r: r.stack.append(True),
    b"\x89": lambda r: r.stack.append(False),
    b"K": _integer("<B", 1),
    b"M": _integer("<H", 2),
    b"J": _integer("<i", 4),
    b"\x8a": _long,
    b"G": lambda r: r.stack.append(struct.unpack(">d", r.take(8))[0]),
    b"U": _bytes("<B", 1),
    b"T": _bytes("<i", 4),
    b"C": _bytes("<B", 1),
    b"B": _bytes("<I", 4),
    b"\x8e": _bytes("<Q", 8),
    b"\x96": _bytes("<Q", 8),  # BYTEARRAY8
    b"\x8c": _utf8("<B", 1),
    b"X": _utf8("<I", 4),
    b"\x8d": _utf8("<Q", 8),
    b"]": lambda r: r.stack.append([]),
    b"a": _append,
    b"e": _extend,
    b")": lambda r: r.stack.append(()),
    b"t": lambda r: r.stack.append(tuple(r.items())),
    b"\x85": lambda r: r.tuple_of(1),
    b"\x86": lambda r: r.tuple_of(2),
    b"\x87": lambda r: r.tuple_of(3),
    b"}": lambda r: r.stack.append({}),
    b"s": lambda r: r.put_items(_two(r)),
    b"u": lambda r: r.put_items(r.items()),
    b"q": lambda r: r.remember(r.number("<B", 1)),
    b"r": lambda r: r.remember(r.number("<I", 4)),
    b"\x94": lambda r: r.remember(len(r.memo)),
    b"h": lambda r: r.recall(r.number("<B", 1)),
    b"j": lambda r: r.recall(r.number("<I", 4)),
    b"c": lambda r: r.find_global(r.line(), r.line()),
    b"\x93": _stack_global,
    b"R": lambda r: r.reduce(),
    b"b": lambda r: r.build(),
}


def load_dict(data: bytes, name: str) -> dict[str, Any]:
    """The dictionary in a pickle, its keys as text and its arrays as NumPy arrays (which may share `data`'s
    copy).

    Byte strings stay bytes. Raises MinidlError, with `name` before it, for a pickle that is damaged, is no
    dictionary or asks for anything but integers, strings, lists, tuples, dictionaries and integer arrays.
    """
    try:
        found = _Reader(data).run()
        if not isinstance(found, dict):
            raise _Refused(f"expected a dictionary, got {type(found).__name__}")
        return {
            key.decode("latin1") if isinstance(key, bytes) else str(key): value.value
            if isinstance(value, _Array)
            else value
            for key, value in found.items()
        }
    except _Refused as error:
        raise MinidlError(f"{name}: not a data set's pickle: {error}") from error
    except (ValueError, TypeError, struct.error) as error:  # text that is no UTF-8, wrong argument counts
        raise MinidlError(f"{name}: not a data set's pickle: damaged ({error})") from error
