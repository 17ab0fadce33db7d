"""Ctrl-C that cannot get lost.

Python raises KeyboardInterrupt wherever the main thread happens to be. Inside a callback from compiled code (while
a kernel is loaded, say) or a destructor the exception is printed and dropped, and the program would go on. So the
signal is remembered, and long work asks for it at every step.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

_pressed = False


@contextlib.contextmanager
def remembered() -> Iterator[None]:
    """Remember Ctrl-C while the block runs. Does nothing outside of the main thread, or where the signal is
    ignored or handled by somebody else.
    """
    global _pressed
    _pressed = False
    mine = threading.current_thread() is threading.main_thread()
    if not mine or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, _press)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def check() -> None:
    """Raise KeyboardInterrupt when Ctrl-C was pressed since `remembered` began."""
    if _pressed:
        raise KeyboardInterrupt


def _press(number: int, frame: FrameType | None) -> None:
    global _pressed
    _pressed = True
    raise KeyboardInterrupt
