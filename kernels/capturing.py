"""A step that is being recorded to be replayed: what everything that takes part in it asks and tells.

While a thread records (:func:`minidl.compile_step`), launches go into a graph instead of running. So what a launch
would take from the host must be told apart: a number that stays is part of the graph, one that changes is *fed* to it
before each replay (:meth:`Capture.feed`), and a value read from the device is an error (:func:`refuse`), because it is
not there yet. In main memory launches run as they are recorded, and values are there; but a replay does not look at
them again, so that reading them is an error as well (:func:`reads`).
"""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from minidl.kernels.devices import Place

_OWN = (str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[1] / "minidl"))


class CaptureError(RuntimeError):
    """A step does what a captured step cannot: reads a value of the device, or draws numbers that would not change."""


class Capture:
    """A recorded step: what is done on the host before each replay, and what its launches refer to.

    Args:
        place: the device on which it is recorded.
    """

    def __init__(self, place: Place) -> None:
        self.place = place
        self._before: list[Callable[[], None]] = []
        self._held: list[Any] = []
        self._conditions: list[Callable[[], bool]] = []
        self._gradients: list[tuple[Any, Any]] = []
        self._versions: list[list[int]] = []
        self._undo: list[Callable[[], None]] = []
        self._replay: Callable[[], None] | None = None
        self._fresh = False

    def hold(self, *values: Any) -> None:
        """Keep these alive as long as the recording, which has their addresses."""
        self._held.extend(values)

    def depends(self, condition: Callable[[], bool]) -> None:
        """The recording is of use only while this holds."""
        self._conditions.append(condition)

    def valid(self) -> bool:
        """Whether all conditions hold."""
        return all(condition() for condition in self._conditions)

    def has_gradient(self, leaf: Any) -> bool:
        """Whether the present gradient of a leaf was made in this recording."""
        return any(leaf is known and leaf.grad is grad for known, grad in self._gradients)

    def set_gradient(self, leaf: Any) -> None:
        """The present gradient of a leaf is a result of the recording: it is there again after a replay."""
        self._gradients.append((leaf, leaf.grad))

    def changes(self, version: list[int]) -> None:
        """The array with this count of changes is written to by the recording, and so by every replay."""
        self._versions.append(version)

    def before_replay(self, action: Callable[[], None]) -> None:
        """Do this on the host before every replay but the first, in the order of these calls: the recording itself was
        the step that the first replay makes."""
        self._before.append(action)

    def if_it_fails(self, undo: Callable[[], None]) -> None:
        """Do this when the recording ends in an error: what was noted on the host of launches that were never made."""
        self._undo.append(undo)

    def feed(self, make: Callable[[], np.ndarray]) -> Any:
        """An array of the device that holds what ``make`` returns, called anew for each replay.

        Every call must return the same shape, dtype and strides.
        """
        if self.place.launches_only:
            refuse("numbers made anew for each call", "pass them as an argument")
        place = self.place  # a capture that refers to itself would be freed late, and its memory with it
        with _suspended():
            array = place.put(make())
        self.hold(array)
        self.before_replay(lambda: place.write(array, make()))
        return array

    @property
    def recorded(self) -> Any:
        """What the device replays."""
        return self._replay

    def record(self, run: Callable[[], Any]) -> Any:
        """Record the launches of ``run`` and return what it returns; nothing is computed before :meth:`replay`, but in
        main memory.

        An error leaves no gradients of the recording, which hold no values, and undoes what :meth:`if_it_fails` says.

        Raises:
            CaptureError: ``run`` does what cannot be recorded.
        """
        _local.capture = self
        try:
            result, self._replay = self.place.record(run)
        except BaseException:
            for leaf, grad in self._gradients:
                if leaf.grad is grad:
                    leaf.grad = None
            for undo in reversed(self._undo):
                undo()
            raise
        finally:
            _local.capture = None
        self._undo.clear()
        self._gradients = [(leaf, grad) for leaf, grad in self._gradients if leaf.grad is grad]
        self._fresh = True
        return result

    def replay(self) -> None:
        """Start the recorded launches."""
        assert self._replay is not None
        if not self._fresh:
            for action in self._before:
                action()
            for version in self._versions:
                version[0] += 1
        self._fresh = False
        self._replay()
        for leaf, grad in self._gradients:
            leaf.grad = grad


class _Local(threading.local):
    capture: Capture | None = None


_local = _Local()


def active() -> Capture | None:
    """What this thread is recording, if it is."""
    return _local.capture


@contextmanager
def _suspended() -> Iterator[None]:
    """For what the host does by itself while a step is recorded."""
    before, _local.capture = _local.capture, None
    try:
        yield
    finally:
        _local.capture = before


def refuse(what: str, instead: str = "return the tensor, and read it after the call") -> None:
    """Raise CaptureError while this thread records: ``what`` cannot be done in a captured step."""
    if _local.capture is not None:
        raise CaptureError(f"{what} inside a captured step{_where()}; {instead}")


def reads(array: Any, what: str) -> None:
    """Raise CaptureError while this thread records in main memory, where ``what`` is about to read this array there.
    Arrays of other devices refuse by themselves."""
    if (
        _local.capture is not None
        and _local.capture.place.launches_only
        and isinstance(array, np.ndarray | np.generic)
    ):
        refuse(f"{what} reads a value")


def may_read() -> bool:
    """Whether values of a device may be looked at, to check them: not while a step is recorded. In main memory, where
    a wrong one is an error always, such a step is refused."""
    if _local.capture is not None and _local.capture.place.launches_only:
        refuse("a check of values")
    return _local.capture is None


def perhaps(flags: Any) -> bool:
    """Whether any flag of an array is set. On a device, which would have to be waited for, and while a step is
    recorded: yes, so that what follows must be right in both cases."""
    there = isinstance(flags, np.ndarray | np.generic) and _local.capture is None
    return bool(flags.any()) if there else True


def _where() -> str:
    """The innermost line of the stack that is not the library's own."""
    for frame in reversed(traceback.extract_stack()):
        if not frame.filename.startswith(_OWN):
            return f" ({Path(frame.filename).name}:{frame.lineno})"
    return ""
