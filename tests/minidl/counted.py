"""A compiled step that tells how often its function was called."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import minidl


def counted(function: Callable[..., Any], **options: Any) -> tuple[Any, list[int]]:
    """The function compiled, and a list that grows with each call of it."""
    calls: list[int] = []

    def run(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        return function(*args, **kwargs)

    return minidl.compile_step(run, **options), calls
