"""Tables that the benchmarks write into pages of the documentation, between two comments."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from minidl.training.checkpoint import write_text

END = "<!-- end -->"


def replace_between(text: str, begin: str, lines: Sequence[str]) -> str:
    """``text`` with the lines between the comments ``begin`` and END replaced.

    Raises:
        ValueError: one of them is missing.
    """
    before, found, rest = text.partition(begin)
    _, ended, after = rest.partition(END)
    if not found or not ended:
        raise ValueError(f"expected the markers {begin} and {END}")
    return "\n".join([before + begin, *lines, END]) + after


def write_table(page: Path, begin: str, lines: Sequence[str]) -> None:
    """Replace the lines between ``begin`` and END in a file, all or nothing; errors as above."""
    try:
        text = replace_between(page.read_text(encoding="utf8"), begin, lines)
    except ValueError as error:
        raise ValueError(f"{page}: {error}") from None
    write_text(page, text)
