"""No kernel reads or writes outside its arrays, on either side (see guarded.py)."""

from __future__ import annotations

import subprocess
import sys

import pytest

linux = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="page protection is done through Linux's mprotect"
)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=300, check=False
    )


@linux
@pytest.mark.parametrize("side", ["start", "end"])
def test_kernels_stay_inside_their_arrays(side: str) -> None:
    result = run("-m", "tests.kernels.guarded", side, "7", "60")
    assert result.returncode == 0 and result.stdout.endswith("done\n"), (
        result.stdout[-500:] + result.stderr[-500:]
    )


@linux
@pytest.mark.parametrize(("side", "offset"), [("start", -1), ("end", 4)])
def test_the_guard_catches_one_byte_outside(side: str, offset: int) -> None:
    code = (
        "import ctypes, numpy; from tests.kernels.guarded import guarded_empty;"
        f"a = guarded_empty('{side}')(1, numpy.float32); ctypes.c_char.from_address(a.ctypes.data + "
        f"{offset}).value"
    )
    assert run("-c", code).returncode < 0
