"""`load`: finds out what a file is by its content and reads it."""

from __future__ import annotations

import os
from typing import NoReturn

from minidl.errors import MinidlError
from minidl.weights.dtypes import native_bfloat16_dtype
from minidl.weights.files import open_binary, reporting_damage
from minidl.weights.safetensors_file import looks_like_safetensors, read_safetensors
from minidl.weights.state import StateDict
from minidl.weights.tar_members import looks_like_tar
from minidl.weights.torch_legacy import MAGIC, read_stream, read_tar
from minidl.weights.torch_zip import read_zip

_TEXT_MAGIC = b"L%d" % MAGIC
"""How a stream of pickle protocol 0 begins; all others begin with the PROTO opcode, 0x80."""

_KNOWN = (
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"\x89PNG", "a PNG image"),
    (b"GIF8", "a GIF image"),
    (b"\x89HDF", "an HDF5 file (Keras)"),
    (b"GGUF", "a GGUF file"),
    (b"\x93NUMPY", "a NumPy .npy array"),
    (b"\x1f\x8b", "a gzip archive: unpack it first"),
    (b"7z\xbc\xaf", "a 7z archive: unpack it first"),
    (b"Rar!", "a RAR archive: unpack it first"),
    (b"%PDF", "a PDF document"),
    (b"\x7fELF", "a program"),
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself: run 'git lfs pull'"),
)


def load(path: str | os.PathLike[str], *, native_bfloat16: bool = False, key: str | None = None) -> StateDict:
    """Reads a weights file: safetensors, or one of PyTorch's three .pth formats, without PyTorch.

    The format is found by content, whatever the file is called. No code in the file can run: a pickle is
    interpreted against a fixed list of names (`minidl.weights.allowed.ALLOWED`), and one that asks for
    anything else is refused. Sizes are checked against the file before memory is allocated.

    path: the file. native_bfloat16: keep bfloat16 tensors as ml_dtypes.bfloat16 (needs `minidl[bf16]`);
    otherwise they become float32, which is exact. key: the place of the state dict in a checkpoint that holds
    several ("ema", "generator.state_dict"); otherwise it is searched for under the usual names.

    Returns a dictionary name -> array: C-contiguous, writable, native byte order, no two sharing memory;
    float16, integers, bool and complex as they are in the file. A prefix `module.` or `_orig_mod.` that all
    names share is removed. `.notes` says what was found, renamed, converted and ignored.

    Raises MinidlError, one sentence naming the file, when it is missing, of another kind, truncated, damaged
    or refused. The zip format's checksums are verified for the tensors that are read; the others have none.
    """
    name = os.fspath(path)
    if not isinstance(name, str):
        raise TypeError(f"load: path must be text, got {type(name).__name__}")
    if native_bfloat16:
        native_bfloat16_dtype()
    with open_binary(name) as (file, size), reporting_damage(name):
        start = file.read(512)
        if not size:
            raise MinidlError(f"{name}: is empty, a weights file was expected")
        if start.startswith(b"PK\x03\x04"):
            return read_zip(file, size, name, native_bfloat16, key)
        if looks_like_safetensors(start[:16], size):
            if key is not None:
                raise MinidlError(f"{name}: is a safetensors file, which has no entries to choose with key=")
            return read_safetensors(file, size, name, native_bfloat16)
        if start.startswith((b"\x80", _TEXT_MAGIC)):
            return read_stream(file, size, name, native_bfloat16, key)
        if looks_like_tar(start):
            return read_tar(file, size, name, native_bfloat16, key)
        _refuse(start, name)


def _refuse(start: bytes, name: str) -> NoReturn:
    for magic, kind in _KNOWN:
        if start.startswith(magic):
            raise MinidlError(f"{name}: is {kind}; a weights file (.safetensors, .pth) was expected")
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        raise MinidlError(f"{name}: is a web page, not a weights file: a download that went wrong?")
    if text.startswith((b"{", b"[")):
        raise MinidlError(f"{name}: is JSON text; a weights file (.safetensors, .pth) was expected")
    raise MinidlError(f"{name}: is not a weights file: neither safetensors nor one of PyTorch's .pth formats")
