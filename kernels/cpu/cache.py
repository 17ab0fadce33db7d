"""Machine code kept on disk between runs.

Numba's own cache watches one source file per function, so an edit in a file that the function calls into goes
unnoticed. Here every entry lives in a folder named by a hash of *all* sources of this package and of the
compiler's versions: any edit starts a new folder. A kernel written outside this package is watched by its own
file besides.

The folder is ``$MINIDL_CACHE_DIR``, or ``minidl`` in the user's cache folder. Where nothing can be written,
and where a future Numba has moved the classes used here, kernels are compiled in each process anew; that is
slow but never an error. Entries are Python pickles: the folder must be as private as the program itself.
"""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import llvmlite
import numba

from minidl.kernels.folders import user_folder

KEEP_FOLDERS = 4  # of older source states, so that switching between two versions does not recompile

try:
    from numba.core.caching import CompileResultCacheImpl, FunctionCache, _CacheLocator
except ImportError:  # the private interface has changed: no cache
    FunctionCache = None  # type: ignore[misc, assignment]


def source_hash(folder: Path) -> str:
    """A hash of every Python file under ``folder`` and of what compiles them."""
    digest = hashlib.sha256()
    settings = [getattr(numba.config, name, None) for name in ("OPT", "BOUNDSCHECK")]
    digest.update(repr((numba.__version__, llvmlite.__version__, sys.version_info[:3], settings)).encode())
    for path in sorted(folder.rglob("*.py")):
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0")
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:20]


@functools.cache
def folder() -> Path | None:
    """The folder of the present sources, made if need be; None where nothing can be written."""
    base = user_folder()
    if base is None or FunctionCache is None:
        return None
    try:
        path = base / "numba" / source_hash(Path(__file__).parent)
        path.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path).close()
        os.utime(path)
        _prune(path.parent)
    except OSError:
        return None
    return path


def stamp_of(function: Any) -> str:
    """What must be unchanged for the code of a function to be used again, beside what the folder's name says.

    Nothing for this package's own functions. A kernel that somebody wrote elsewhere is watched by its own file.

    Raises:
        OSError: that file cannot be read (code typed at a prompt, for example).
    """
    path = Path(function.__code__.co_filename)
    if path.resolve().is_relative_to(Path(__file__).resolve().parent):
        return ""
    return hashlib.sha256(os.fsencode(path) + b"\0" + path.read_bytes()).hexdigest()


def _prune(parent: Path) -> None:
    """Remove the folders of source states that were used longest ago."""
    folders = sorted(
        (p for p in parent.iterdir() if p.is_dir()), key=lambda p: p.stat().st_mtime, reverse=True
    )
    for old in folders[KEEP_FOLDERS + 1 :]:
        shutil.rmtree(old, ignore_errors=True)


if FunctionCache is not None:

    class _Locator(_CacheLocator):
        def __init__(self, variant: str, stamp: str) -> None:
            self._variant, self._stamp = variant, stamp

        def get_cache_path(self) -> str:
            return str(folder())

        def get_source_stamp(self) -> str:
            return self._stamp

        def get_disambiguator(self) -> str:
            return self._variant or "0"

    class _Implementation(CompileResultCacheImpl):
        def __init__(self, function: Any, variant: str) -> None:
            self._lineno = function.__code__.co_firstlineno
            self._locator = _Locator(variant, stamp_of(function))
            module = function.__globals__.get("__name__", "").rpartition(".")[2]
            self._filename_base = self.get_filename_base(
                f"{module}.{function.__qualname__}", getattr(sys, "abiflags", "")
            )

    class _Cache(FunctionCache):
        def __init__(self, function: Any, variant: str) -> None:
            self._impl_class = functools.partial(_Implementation, variant=variant)  # type: ignore[assignment]
            super().__init__(function)

        def _index_key(self, sig: Any, codegen: Any) -> tuple[Any, ...]:
            # Numba would add a pickle of the closure; variants are told apart by name here.
            return (sig, codegen.magic_tuple())

        def load_overload(self, sig: Any, target_context: Any) -> Any:
            try:
                return super().load_overload(sig, target_context)
            except Exception:  # a damaged entry: compile again
                return None

        def save_overload(self, sig: Any, data: Any) -> None:
            try:
                super().save_overload(sig, data)
            except Exception:  # a full disk or a damaged index is no reason to fail
                return


def attach(dispatcher: Any, variant: str) -> None:
    """Give a Numba dispatcher its place in the cache."""
    if folder() is None:
        return
    try:
        dispatcher._cache = _Cache(dispatcher.py_func, variant)
    except (
        AttributeError,
        TypeError,
        OSError,
    ):  # the private interface has changed, or there is no source file
        return
