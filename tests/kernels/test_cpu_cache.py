"""Machine code on disk: found again, never stale, never in the way."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from minidl.kernels.cpu import cache

PROGRAM = """
import numpy as np
from minidl.kernels.cpu.runtime import kernel
from minidl.kernels.cpu import cache
@kernel
def _double(x, part, parts):
    for i in range(x.size):
        x[i] = 2 * x[i]
x = np.ones(4)
_double.run_part(x, 0, 1)
assert (x == 2).all()
print(sum(_double.run_part.stats.cache_hits.values()), cache.folder())
"""


def run(folder: Path | None, program: str = PROGRAM, **extra: str) -> list[str]:
    environment = {k: v for k, v in os.environ.items() if k not in ("MINIDL_CACHE_DIR", "XDG_CACHE_HOME")}
    environment |= extra
    if folder is not None:
        environment["MINIDL_CACHE_DIR"] = str(folder)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_a_second_process_finds_the_code_and_damage_is_compiled_over(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    started = f"import runpy; runpy.run_path({str(program)!r}, run_name='program')"
    hits, folder = run(tmp_path / "cache", started)
    assert hits == "0" and Path(folder).parent == tmp_path / "cache" / "numba"
    entries = sorted(Path(folder).glob("*_double*"))
    assert {e.suffix for e in entries} == {".nbi", ".nbc"}
    assert run(tmp_path / "cache", started)[0] == "1"
    for entry in entries:
        entry.write_bytes(entry.read_bytes()[:20])
    assert run(tmp_path / "cache", started)[0] == "0"


VARIANTS = """
import sys
from numba import types
from minidl.kernels.cpu.compiler import jit
from minidl.kernels.cpu.parallel import code_address
def make(k):
    @jit(variant=f"times{k}")
    def times(x):
        return k * x
    return times
made = [make(k) for k in map(int, sys.argv[1:])]
for function in made:
    code_address(function, (types.int64,))
print(len({code_address(function, (types.int64,)) for function in made}))  # now that all are there
"""


def test_variants_compiled_by_two_processes_do_not_meet_under_one_name(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(VARIANTS)

    def started(*variants: str) -> str:
        return (
            f"import runpy, sys; sys.argv[1:] = {list(variants)!r}; "
            f"runpy.run_path({str(program)!r}, run_name='program')"
        )

    assert run(tmp_path / "cache", started("2")) == ["1"] == run(tmp_path / "cache", started("3"))
    assert run(tmp_path / "cache", started("2", "3")) == ["2"]


def test_a_changed_kernel_outside_the_package_is_compiled_anew(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    started = f"import runpy; runpy.run_path({str(program)!r}, run_name='program')"
    program.write_text(PROGRAM)
    assert [run(tmp_path / "cache", started)[0] for _ in range(2)] == ["0", "1"]
    program.write_text(PROGRAM.replace("2 * x[i]", "x[i] + x[i] + 3").replace("x == 2", "x == 5"))
    assert [run(tmp_path / "cache", started)[0] for _ in range(2)] == ["0", "1"]


def test_code_without_a_source_file_is_not_kept(tmp_path: Path) -> None:
    assert [run(tmp_path / "cache")[0] for _ in range(2)] == ["0", "0"]


def copied_package(folder: Path) -> Path:
    """An installation of its own, with no byte code in it."""
    source = Path(cache.__file__).resolve().parents[2]
    for name in ("minidl", "kernels"):
        ignored = shutil.ignore_patterns("__pycache__", "kernels", "models", "ladder", "cuda", "assets")
        shutil.copytree(source / name, folder / name, ignore=ignored)
    (folder / "kernels").rename(folder / "minidl" / "kernels")
    return folder


RELU = """
import sys
import numpy as np
from minidl import kernels
from minidl.kernels.cpu import elementwise
assert sys.argv[1] in kernels.__file__, kernels.__file__
kernels.set_num_threads(1)
x = np.full(2 * elementwise.SMALL, -1, np.float32)
x[0] = 3
print(*kernels.backend(x).relu(x)[:2])
"""
HELPER = 'builder.fcmp_ordered(">", low, value)'  # in lanes.py, far from the kernel that it ends up in


def relu_of(installed: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {k: v for k, v in os.environ.items() if k not in ("MINIDL_CACHE_DIR", "XDG_CACHE_HOME")}
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", RELU, str(installed)],
        cwd=installed,
        env={**inherited, "PYTHONDONTWRITEBYTECODE": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_an_edit_of_the_package_never_meets_older_code(tmp_path: Path) -> None:
    installed = copied_package(tmp_path / "installed")
    kept = {"MINIDL_CACHE_DIR": str(tmp_path / "cache")}
    assert relu_of(installed, **kept).stdout == "3.0 0.0\n"
    source = installed / "minidl" / "kernels" / "cpu" / "lanes.py"
    text, times = source.read_text(encoding="utf8"), source.stat()
    assert HELPER in text
    source.write_text(text.replace(HELPER, HELPER.replace(">", "<")), encoding="utf8")
    os.utime(source, ns=(times.st_atime_ns, times.st_mtime_ns))  # clocks may lie: the content counts
    assert relu_of(installed, **kept).stdout == "0.0 -1.0\n"
    source.write_text(text, encoding="utf8")
    assert relu_of(installed, **kept).stdout == "3.0 0.0\n"


@pytest.mark.skipif(os.name != "posix", reason="needs a POSIX home folder")
def test_a_read_only_installation_without_a_home_works(tmp_path: Path) -> None:
    installed = copied_package(tmp_path / "installed")
    folders = [installed, *(p for p in installed.rglob("*") if p.is_dir())]
    for path in folders:
        path.chmod(0o555)
    try:
        for home in (
            "/dev/null",
            str(installed),
        ):  # no folder at all; one that cannot be written (but by root)
            done = relu_of(installed, HOME=home)
            assert (done.stdout, done.stderr, done.returncode) == ("3.0 0.0\n", "", 0)
    finally:
        for path in folders:
            path.chmod(0o755)
    if os.geteuid():
        assert not list(installed.rglob("*.nbi"))


def test_a_folder_that_cannot_be_made_means_no_cache(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    assert run(blocked)[1] == "None"


def test_the_hash_covers_every_source_and_its_name(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("x = 1\n")
    (tmp_path / "b.py").write_text("y = 1\n")
    first = cache.source_hash(tmp_path)
    assert cache.source_hash(tmp_path) == first
    (tmp_path / "b.py").write_text("y = 2\n")
    changed = cache.source_hash(tmp_path)
    (tmp_path / "b.py").rename(tmp_path / "c.py")
    renamed = cache.source_hash(tmp_path)
    (tmp_path / "notes.txt").write_text("no source")
    assert len({first, changed, renamed}) == 3
    assert cache.source_hash(tmp_path) == renamed


def test_the_folder_follows_the_platform(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("MINIDL_CACHE_DIR", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(cache.Path, "home", lambda: tmp_path)
    monkeypatch.setattr(cache.sys, "platform", "linux")
    assert cache.user_folder() == tmp_path / ".cache" / "minidl"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert cache.user_folder() == tmp_path / "x" / "minidl"
    monkeypatch.setattr(cache.sys, "platform", "darwin")
    assert cache.user_folder() == tmp_path / "Library" / "Caches" / "minidl"
    monkeypatch.setattr(cache.sys, "platform", "win32")
    assert cache.user_folder() is None
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    assert cache.user_folder() == tmp_path / "local" / "minidl" / "cache"
    monkeypatch.setenv("MINIDL_CACHE_DIR", str(tmp_path / "mine"))
    assert cache.user_folder() == tmp_path / "mine"


def test_no_home_folder_means_no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody() -> Path:
        raise RuntimeError("no home")

    for name in ("MINIDL_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(cache.sys, "platform", "linux")
    monkeypatch.setattr(cache.Path, "home", nobody)
    assert cache.user_folder() is None


def test_old_folders_are_removed_and_recent_ones_kept(tmp_path: Path) -> None:
    for age in range(cache.KEEP_FOLDERS + 4):
        folder = tmp_path / f"state{age}"
        folder.mkdir()
        (folder / "entry.nbc").write_text("code")
        os.utime(folder, (1_000_000 - age, 1_000_000 - age))
    cache._prune(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"state{n}" for n in range(cache.KEEP_FOLDERS + 1)]
