"""What `load` returns."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

MAX_GROWTH = 8
SLACK = 64 << 20


def growth_limit(file_size: int) -> int:
    """How many bytes of arrays a file of `file_size` bytes may become.

    Shared and expanded tensors and bfloat16 make arrays larger than their file, legitimately by a small
    factor; a few hostile bytes could ask for any size.
    """
    return MAX_GROWTH * file_size + SLACK


class StateDict(dict[str, NDArray[Any]]):
    """A dictionary of parameter name -> array, with what was found out while it was read.

    format: "safetensors", "zip", "stream", "tar" or "pickle".
    notes: one sentence each on the format, where the tensors were, what was renamed, converted or ignored.
    metadata: the strings that a safetensors file carries beside its tensors; empty for other formats.
    """

    def __init__(self, arrays: dict[str, NDArray[Any]], *, format: str) -> None:
        super().__init__(arrays)
        self.format = format
        self.notes: list[str] = []
        self.metadata: dict[str, str] = {}
