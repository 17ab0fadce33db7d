"""A pickle interpreter that builds data and cannot run code.

The standard Unpickler calls whatever a file names. This one is written out, opcode by opcode, after the
reference `pickle.py` and `pickletools.py` of CPython; it knows protocols 0 to 5, and:

- a global is looked up in a dictionary of functions of our own (`allowed.py`); nothing is imported;
- numbers, strings and nesting cost no more memory than their bytes in the file, times a small factor;
- there is no recursion, so no depth of nesting can exhaust the stack;
- the number of operations is bounded, so that every file is answered within seconds.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from minidl.errors import MinidlError
from minidl.weights.allowed import find_global
from minidl.weights.files import Window, quoted
from minidl.weights.stand_ins import AllowedGlobal, PickledObject, checked_key

MAX_OPERATIONS = 2_000_000
"""A tensor takes about 35 operations: room for 50,000 of them, and some seconds at worst."""

_MAX_INTEGER_BYTES = 128
_COPY_SLACK = 16 << 20

PersistentLoad = Callable[[object], object]


def _no_persistent_ids(_identifier: object) -> object:
    raise ValueError("a reference to a tensor where none can be")


class PickleReader:
    """Reads one pickle after another from a window of a file; bounds hold for all of them together."""

    def __init__(self, window: Window) -> None:
        self._window = window
        self._operations_left = MAX_OPERATIONS
        self._copies_left = 2 * window.remaining + _COPY_SLACK

    def load(self, persistent_load: PersistentLoad = _no_persistent_ids) -> object:
        """The object that the next pickle describes.

        Raises MinidlError for a global outside the allow-list, for damage and for a pickle out of bounds.
        """
        machine = _Machine(self._window, persistent_load, self)
        try:
            return machine.run(self._operations_left)
        finally:
            self._operations_left -= machine.operations

    def count_copy(self, values: object) -> None:
        """Counts what a call may copy of its arguments: the same list or string can be passed many times."""
        for value in values if type(values) is tuple else ():
            if isinstance(value, list | tuple | dict):
                self._operations_left -= len(value)
            elif isinstance(value, str | bytes):
                self._copies_left -= len(value)
        if self._operations_left < 0:
            raise too_many_operations(self._window.path)
        if self._copies_left < 0:
            raise MinidlError(f"{self._window.path}: damaged, its pickle copies more bytes than the file has")


def too_many_operations(path: str) -> MinidlError:
    """The error above the bound."""
    return MinidlError(f"{path}: its pickle has more than {MAX_OPERATIONS} operations")


class _Machine:
    """The state of one pickle: the stack, the stacks below open marks, the memo."""

    def __init__(self, window: Window, persistent_load: PersistentLoad, reader: PickleReader) -> None:
        self.window = window
        self.reader = reader
        self.persistent_load = persistent_load
        self.stack: list[object] = []
        self.marks: list[list[object]] = []
        self.memo: dict[int, object] = {}
        self.operations = 0

    def run(self, limit: int) -> object:
        """Executes at most `limit` opcodes, up to STOP, and returns what is then on top of the stack."""
        read, operations = self.window.read, _OPERATIONS
        code = b""
        try:
            for self.operations in range(limit):
                code = read(1)
                if code == b".":
                    return self.pop()
                operations[code](self)
        except (IndexError, KeyError, TypeError, ValueError, OverflowError, struct.error) as error:
            if code not in operations and code != b".":
                raise MinidlError(
                    f"{self.window.path}: damaged, its pickle has the unknown opcode {code!r}"
                ) from None
            raise MinidlError(
                f"{self.window.path}: damaged, its pickle fails at byte {self.window.position} "
                f"(opcode {code!r}: {quoted(str(error), 120)})"
            ) from error
        raise too_many_operations(self.window.path)

    # ---- the stack

    def push(self, value: object) -> None:
        self.stack.append(value)

    def pop(self) -> object:
        if not self.stack:
            raise ValueError("the stack is empty")
        return self.stack.pop()

    def pop_mark(self) -> list[object]:
        items = self.stack
        self.stack = self.marks.pop()
        return items

    def mark(self) -> None:
        self.marks.append(self.stack)
        self.stack = []

    def discard(self) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self.pop_mark()

    def duplicate(self) -> None:
        self.push(self.stack[-1])

    # ---- reading arguments

    def number(self, layout: str) -> int:
        (value,) = struct.unpack(layout, self.window.read(struct.calcsize(layout)))
        return int(value)

    def sized(self, layout: str) -> bytes:
        """Bytes that follow their own length; the window refuses a length that is not there."""
        return self.window.read(self.number(layout))

    def line_integer(self) -> int:
        line = self.window.readline()
        if len(line) > 2 * _MAX_INTEGER_BYTES:
            raise ValueError("an integer of too many digits")
        return int(line.removesuffix(b"L"))

    def long_integer(self, layout: str) -> None:
        length = self.number(layout)
        if length > _MAX_INTEGER_BYTES:
            raise ValueError("an integer of too many bytes")
        self.push(int.from_bytes(self.window.read(length), "little", signed=True))

    def text_integer(self) -> None:
        start = self.window.position
        number = self.line_integer()
        # protocol 0 writes False and True as the integers 00 and 01
        short = self.window.position - start == 3
        self.push(bool(number) if short and number in (0, 1) else number)

    def text_string(self) -> None:
        line = self.window.readline().strip()
        if len(line) < 2 or line[:1] not in (b"'", b'"') or line[-1:] != line[:1] or b"\\" in line:
            raise ValueError("a string of protocol 0 that is not plain text in quotes")
        self.python2_string(line[1:-1])

    def python2_string(self, data: bytes) -> None:
        """A str of Python 2: text where it can be, bytes where it cannot."""
        try:
            self.push(data.decode("utf-8"))
        except UnicodeDecodeError:
            self.push(data)

    def unicode(self, data: bytes) -> None:
        self.push(data.decode("utf-8", "surrogatepass"))

    # ---- the memo

    def put(self, index: int) -> None:
        if index < 0:
            raise ValueError("a negative memo index")
        self.memo[index] = self.stack[-1]

    def get(self, index: int) -> None:
        self.push(self.memo[index])

    # ---- containers

    def tuple_of(self, count: int) -> None:
        if len(self.stack) < count:
            raise ValueError("the stack is too short")
        items = tuple(self.stack[-count:])
        del self.stack[-count:]
        self.push(items)

    def append_all(self, items: list[object]) -> None:
        target = self.stack[-1]
        if type(target) is not list:
            raise TypeError(f"items for a {type(target).__name__}")
        target.extend(items)

    def set_items(self, items: list[object]) -> None:
        if len(items) % 2:
            raise ValueError("a key without a value")
        target = self.stack[-1]
        if isinstance(target, PickledObject):
            return  # an inert stand-in: what it would hold is of no use here
        if type(target) is not dict:
            raise TypeError(f"keys for a {type(target).__name__}")
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[checked_key(key)] = value

    def dictionary(self) -> None:
        items = self.pop_mark()
        self.push({})
        self.set_items(items)

    # ---- globals and objects

    def find(self, module: object, name: object) -> AllowedGlobal:
        if not isinstance(module, str) or not isinstance(name, str):
            raise TypeError("a global whose name is not text")
        return find_global(module, name, self.window.path)

    def global_lines(self) -> AllowedGlobal:
        module, name = self.window.readline(), self.window.readline()
        return self.find(module.decode("utf-8"), name.decode("utf-8"))

    def stack_global(self) -> None:
        name, module = self.pop(), self.pop()
        self.push(self.find(module, name))

    def call(self, function: object, arguments: object) -> None:
        if not isinstance(function, AllowedGlobal) or type(arguments) is not tuple:
            raise TypeError(f"a call of a {type(function).__name__}")
        self.reader.count_copy(arguments)
        self.push(function(arguments))

    def reduce(self) -> None:
        arguments, function = self.pop(), self.pop()
        self.call(function, arguments)

    def new_with_keywords(self) -> None:
        keywords, arguments, function = self.pop(), self.pop(), self.pop()
        if keywords != {}:
            raise TypeError("a call with keywords")
        self.call(function, arguments)

    def instance(self) -> None:
        arguments = self.pop_mark()
        self.call(self.global_lines(), tuple(arguments))

    def object(self) -> None:
        function, *arguments = self.pop_mark()
        self.call(function, tuple(arguments))

    def build(self) -> None:
        state = self.pop()
        target = self.stack[-1]
        if isinstance(target, PickledObject):
            self.reader.count_copy(state)
            target.set_state(state)
        elif type(target) is not dict:  # attributes of an OrderedDict (a state dict's _metadata) are dropped
            raise TypeError(f"a state for a {type(target).__name__}")

    def refuse(self, what: str) -> None:
        raise MinidlError(f"{self.window.path}: its pickle uses {what}, which minidl does not load")


def _protocol(machine: _Machine) -> None:
    version = machine.window.read(1)[0]
    if version > 5:
        raise ValueError(f"protocol {version}")


def _set(machine: _Machine) -> None:
    # sets do not matter for weights: a list keeps their items and costs a quarter of the memory
    machine.push([])


_OPERATIONS: dict[bytes, Callable[[_Machine], object]] = {
    b"\x80": _protocol,
    b"\x95": lambda m: m.window.read(8),  # FRAME only announces what follows
    # constants and numbers
    b"N": lambda m: m.push(None),
    b"\x88": lambda m: m.push(True),
    b"\x89": lambda m: m.push(False),
    b"I": _Machine.text_integer,
    b"L": lambda m: m.push(m.line_integer()),
    b"J": lambda m: m.push(m.number("<i")),
    b"K": lambda m: m.push(m.number("<B")),
    b"M": lambda m: m.push(m.number("<H")),
    b"\x8a": lambda m: m.long_integer("<B"),
    b"\x8b": lambda m: m.long_integer("<I"),
    b"F": lambda m: m.push(float(m.window.readline(256))),
    b"G": lambda m: m.push(struct.unpack(">d", m.window.read(8))[0]),
    # strings and bytes
    b"S": _Machine.text_string,
    b"T": lambda m: m.python2_string(m.sized("<I")),
    b"U": lambda m: m.python2_string(m.sized("<B")),
    b"V": lambda m: m.push(m.window.readline().decode("raw-unicode-escape")),
    b"X": lambda m: m.unicode(m.sized("<I")),
    b"\x8c": lambda m: m.unicode(m.sized("<B")),
    b"\x8d": lambda m: m.unicode(m.sized("<Q")),
    b"B": lambda m: m.push(m.sized("<I")),
    b"C": lambda m: m.push(m.sized("<B")),
    b"\x8e": lambda m: m.push(m.sized("<Q")),
    b"\x96": lambda m: m.push(m.sized("<Q")),
    # containers
    b"]": lambda m: m.push([]),
    b"}": lambda m: m.push({}),
    b")": lambda m: m.push(()),
    b"\x8f": _set,
    b"(": _Machine.mark,
    b"l": lambda m: m.push(m.pop_mark()),
    b"t": lambda m: m.push(tuple(m.pop_mark())),
    b"d": _Machine.dictionary,
    b"\x91": lambda m: m.push(m.pop_mark()),
    b"\x85": lambda m: m.tuple_of(1),
    b"\x86": lambda m: m.tuple_of(2),
    b"\x87": lambda m: m.tuple_of(3),
    b"a": lambda m: m.append_all([m.pop()]),
    b"e": lambda m: m.append_all(m.pop_mark()),
    b"\x90": lambda m: m.append_all(m.pop_mark()),
    b"s": lambda m: m.set_items([m.pop(), m.pop()][::-1]),
    b"u": lambda m: m.set_items(m.pop_mark()),
    # stack and memo
    b"0": _Machine.discard,
    b"1": lambda m: m.pop_mark(),
    b"2": _Machine.duplicate,
    b"p": lambda m: m.put(m.line_integer()),
    b"q": lambda m: m.put(m.number("<B")),
    b"r": lambda m: m.put(m.number("<I")),
    b"\x94": lambda m: m.put(len(m.memo)),
    b"g": lambda m: m.get(m.line_integer()),
    b"h": lambda m: m.get(m.number("<B")),
    b"j": lambda m: m.get(m.number("<I")),
    # globals and objects
    b"c": lambda m: m.push(m.global_lines()),
    b"\x93": _Machine.stack_global,
    b"R": _Machine.reduce,
    b"\x81": _Machine.reduce,
    b"\x92": _Machine.new_with_keywords,
    b"i": _Machine.instance,
    b"o": _Machine.object,
    b"b": _Machine.build,
    b"P": lambda m: m.push(m.persistent_load(m.window.readline().decode("utf-8"))),
    b"Q": lambda m: m.push(m.persistent_load(m.pop())),
    # never written by PyTorch
    b"\x82": lambda m: m.refuse("an extension code"),
    b"\x83": lambda m: m.refuse("an extension code"),
    b"\x84": lambda m: m.refuse("an extension code"),
    b"\x97": lambda m: m.refuse("an out-of-band buffer"),
    b"\x98": lambda m: m.refuse("an out-of-band buffer"),
}
