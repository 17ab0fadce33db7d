"""Where what was compiled is kept between runs."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def user_folder() -> Path | None:
    """The folder that ``MINIDL_CACHE_DIR`` or the platform's convention names; None where neither does."""
    explicit = os.environ.get("MINIDL_CACHE_DIR")
    if explicit:
        return Path(explicit)
    try:
        if sys.platform == "win32":
            base = os.environ.get("LOCALAPPDATA")
            return Path(base) / "minidl" / "cache" if base else None
        if sys.platform == "darwin":
            return Path.home() / "Library" / "Caches" / "minidl"
        base = os.environ.get("XDG_CACHE_HOME")
        return (Path(base) if base else Path.home() / ".cache") / "minidl"
    except RuntimeError:  # no home folder
        return None


def writable(name: str) -> Path | None:
    """The sub-folder ``name`` of the user's cache folder, made if need be; None where nothing can be written."""
    base = user_folder()
    if base is None:
        return None
    path = base / name
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    return path if os.access(path, os.W_OK) else None


def write_atomically(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path`` through a temporary name, so that no reader sees half a file."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_bytes(content)
    temporary.replace(path)
