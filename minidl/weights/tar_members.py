"""Where the members of an uncompressed tar file are (POSIX 1003.1-1988 "ustar", and GNU's large sizes).

The standard library's tarfile follows extensions (sparse files, extended headers of any size) that PyTorch's
tar files never use and that cost memory before they can be checked.
"""

from __future__ import annotations

from typing import BinaryIO

from minidl.errors import MinidlError

_BLOCK = 512
_MAX_MEMBERS = 64
_REGULAR = (b"0", b"\0")


def looks_like_tar(block: bytes) -> bool:
    """Whether the first 512 bytes of a file are a tar header: its checksum must be right."""
    return len(block) == _BLOCK and _checksum_is_right(block)


def tar_members(file: BinaryIO, size: int, path: str) -> dict[str, tuple[int, int]]:
    """Name -> (start, stop) of every regular file in the archive. MinidlError when it is damaged."""
    members: dict[str, tuple[int, int]] = {}
    at = 0
    for _ in range(_MAX_MEMBERS):
        file.seek(at)
        block = file.read(_BLOCK)
        if len(block) < _BLOCK:
            raise MinidlError(f"{path}: truncated, the tar archive has no end")
        if not block.strip(b"\0"):
            return members
        if not _checksum_is_right(block):
            raise MinidlError(f"{path}: damaged, the tar header at byte {at} has a wrong checksum")
        length = _number(block[124:136])
        start, stop = at + _BLOCK, at + _BLOCK + length
        if stop > size:
            raise MinidlError(f"{path}: truncated, a member of the tar archive ends at byte {stop} of {size}")
        if block[156:157] in _REGULAR:
            name = block[:100].split(b"\0", 1)[0].decode("latin1").removeprefix("./")
            if name in members:
                raise MinidlError(f"{path}: damaged, two members of the tar archive have the same name")
            members[name] = (start, stop)
        at = start + -(-length // _BLOCK) * _BLOCK
    raise MinidlError(f"{path}: is a tar archive of more than {_MAX_MEMBERS} members, not of PyTorch")


def _checksum_is_right(block: bytes) -> bool:
    try:
        expected = _number(block[148:156])
    except ValueError:
        return False
    return sum(block[:148]) + 8 * 0x20 + sum(block[156:]) == expected


def _number(field: bytes) -> int:
    """Octal text, or GNU's big-endian binary when the first bit is set."""
    if field[0] & 0x80:
        return int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
    text = field.split(b"\0", 1)[0].strip()
    if any(digit not in b"01234567" for digit in text):
        raise ValueError("not an octal number")
    return int(text or b"0", 8)
