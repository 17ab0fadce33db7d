"""Which back end serves an array, and the number of threads."""

from __future__ import annotations

import subprocess
import sys
import threading

import numpy as np
import pytest

from minidl import kernels


def test_arrays_go_to_the_cpu_back_end_unless_the_reference_is_forced() -> None:
    x = np.zeros(3)
    assert kernels.backend(x).name == "cpu"
    assert kernels.backend(np.float32(1)).name == "cpu"
    with kernels.use("reference"):
        assert kernels.backend(x).name == "reference"
        with kernels.use("cpu"):
            assert kernels.backend(x).name == "cpu"
        assert kernels.backend(x).name == "reference"
    assert kernels.backend(x) is kernels.backend(x)


def test_forcing_a_back_end_concerns_this_thread_only() -> None:
    seen = []
    with kernels.use("reference"):
        thread = threading.Thread(target=lambda: seen.append(kernels.backend(np.zeros(1)).name))
        thread.start()
        thread.join()
    assert seen == ["cpu"]


def test_unknown_arrays_and_names_are_refused() -> None:
    with pytest.raises(TypeError, match=r"expects numpy.ndarray or an array of a device, got builtins.list"):
        kernels.backend([1.0])
    with (
        pytest.raises(ValueError, match="use: name expects one of cpu, reference, got 'gpu'"),
        kernels.use("gpu"),
    ):
        pass


def test_importing_the_package_loads_no_compiler() -> None:
    code = (
        "import sys, minidl.kernels as k; k.memory_stats(); k.empty_cache(); k.get_num_threads();"
        "sys.exit('numba' in sys.modules or 'llvmlite' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_threads_are_counted_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "_num_threads", 0)
    monkeypatch.setenv("MINIDL_NUM_THREADS", "3")
    assert kernels.get_num_threads() == 3
    kernels.set_num_threads(5)
    assert kernels.get_num_threads() == 5
    for wrong in ("0", "-2", "many", "1.5"):
        monkeypatch.setattr(kernels, "_num_threads", 0)
        monkeypatch.setenv("MINIDL_NUM_THREADS", wrong)
        with pytest.raises(ValueError, match="MINIDL_NUM_THREADS expects a whole number >= 1"):
            kernels.get_num_threads()
    with pytest.raises(ValueError, match="set_num_threads: count expects a whole number >= 1, got 0"):
        kernels.set_num_threads(0)


def test_threads_are_counted_where_the_system_knows_no_affinity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "_num_threads", 0)
    monkeypatch.delenv("MINIDL_NUM_THREADS", raising=False)
    monkeypatch.delattr("os.sched_getaffinity", raising=False)
    assert kernels.get_num_threads() >= 1
