"""Launching kernels: shares, threads, forks, other threading layers."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import warnings
from typing import Any

import numpy as np
import pytest

from minidl import kernels
from minidl.kernels import blas
from minidl.kernels.cpu import parallel, runtime
from minidl.kernels.cpu.runtime import kernel, launch, share


@kernel
def _mark(x: Any, sizes: tuple[int, int], scale: float, flip: bool, rest: Any, part: int, parts: int) -> None:
    first, last = share(x.size, part, parts)
    for i in range(first, last):
        x[i] = scale * (sizes[0] + sizes[1] * part) + (1 if flip else 0) + rest[0, 1]


REST = np.array([[0.0, 100.0], [0.0, 0.0]])


def expected(size: int, parts: int) -> np.ndarray:
    out = np.zeros(size)
    for part in range(parts):
        first, last = size * part // parts, size * (part + 1) // parts
        out[first:last] = 0.5 * (10 + 2 * part) + 1 + 100
    return out


@pytest.fixture
def four_threads() -> Any:
    before = kernels.get_num_threads()
    kernels.set_num_threads(4)
    yield
    kernels.set_num_threads(before)


@pytest.mark.parametrize("parts", [1, 2, 3, 7])
def test_all_shares_run_once(four_threads: Any, parts: int) -> None:
    x = np.zeros(50)
    launch(_mark, x, (10, 2), 0.5, True, REST, parts=parts)
    np.testing.assert_array_equal(x, expected(50, parts))
    # The same kernel for other types, and for arrays that are not contiguous.
    wide = np.zeros((50, 2), np.float32)[:, 0]
    launch(_mark, wide, (10, 2), 0.5, True, REST.T.copy().T, parts=parts)
    np.testing.assert_array_equal(wide, expected(50, parts))


def test_little_work_stays_in_one_share(four_threads: Any) -> None:
    for work, parts in ((100, 1), (2.5 * runtime.MIN_WORK_PER_PART, 2), (1e9, 4)):
        assert runtime.parts_for(work) == parts
        x = np.zeros(40)
        launch(_mark, x, (10, 2), 0.5, True, REST, work=work)
        np.testing.assert_array_equal(x, expected(40, parts))


def test_shares_cover_everything_without_overlap() -> None:
    for count in (0, 1, 5, 100):
        for parts in (1, 3, 8):
            ranges = [share(count, part, parts) for part in range(parts)]
            assert [i for a, b in ranges for i in range(a, b)] == list(range(count))


def test_a_kernel_must_end_with_part_and_parts() -> None:
    with pytest.raises(TypeError, match="_wrong must end with the arguments part, parts"):

        @kernel
        def _wrong(x: Any, parts: int, part: int) -> None: ...


def test_arguments_that_a_block_cannot_hold_are_refused(four_threads: Any) -> None:
    nested = np.zeros(3)
    with pytest.raises(TypeError, match="a tuple argument expects numbers"):
        launch(_mark, np.zeros(10), (nested, nested), 0.5, True, REST, parts=2)


def test_python_threads_may_launch_at_once(four_threads: Any) -> None:
    errors: list[str] = []

    def work() -> None:
        for _ in range(50):
            x = np.zeros(64)
            launch(_mark, x, (10, 2), 0.5, True, REST, parts=4)
            if not np.array_equal(x, expected(64, 4)):
                errors.append("wrong")

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors


def test_a_busy_layer_that_cannot_nest_falls_back_to_this_thread(
    four_threads: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "_layer", "workqueue")
    monkeypatch.setattr(parallel, "run_parts", None)  # calling it would fail
    x = np.zeros(30)
    with runtime._layer_lock:
        launch(_mark, x, (10, 2), 0.5, True, REST, parts=3)
    np.testing.assert_array_equal(x, expected(30, 3))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_runs_kernels_on_one_thread_and_says_so_once(four_threads: Any) -> None:
    launch(_mark, np.zeros(64), (10, 2), 0.5, True, REST, parts=4)  # starts the threads
    child = os.fork()
    if child == 0:
        code = 1
        try:
            x = np.zeros(64)
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                for _ in range(3):
                    launch(_mark, x, (10, 2), 0.5, True, REST, parts=4)
            once = [str(w.message) for w in said]
            if len(once) == 1 and "forked" in once[0] and "spawn" in once[0]:
                code = 0 if np.array_equal(x, expected(64, 4)) else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


LAYER = """
import sys, threading
import numba
import numpy as np
from minidl import kernels
try:
    from numba.np.ufunc.parallel import _launch_threads
    _launch_threads()
except ValueError:  # Numba has no such layer here
    sys.exit(77)
kernels.set_num_threads(2)
backend = kernels.backend(np.zeros(1))
x = np.full(400_000, -1.0, np.float32)
x[::2] = 2
wrong = []
def work():
    for _ in range(20):
        wrong.extend([1] * (backend.relu(x).sum() != 400_000))
threads = [threading.Thread(target=work) for _ in range(4)]
[t.start() for t in threads]
[t.join() for t in threads]
assert numba.threading_layer() == sys.argv[1], numba.threading_layer()
assert not wrong
"""


@pytest.mark.parametrize("layer", ["workqueue", "omp", "tbb"])
def test_several_python_threads_may_launch_at_once_under_every_layer(layer: str) -> None:
    environment = {**os.environ, "NUMBA_THREADING_LAYER": layer, "NUMBA_NUM_THREADS": "2"}
    done = subprocess.run(
        [sys.executable, "-c", LAYER, layer], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode == 77:
        pytest.skip(f"Numba's threading layer {layer} is not installed")
    assert done.returncode == 0, done.stderr


def test_everything_is_spread_inside_all_parallel(four_threads: Any) -> None:
    before = runtime.parts_for(8)
    with pytest.raises(ZeroDivisionError), runtime.all_parallel():
        assert (before, runtime.parts_for(8)) == (1, 4)
        raise ZeroDivisionError
    assert runtime.parts_for(8) == 1


@pytest.mark.skipif(blas.get_num_threads() is None, reason="NumPy's BLAS is not its own OpenBLAS")
def test_the_threads_of_numpys_blas_follow(four_threads: Any) -> None:
    for count in (1, 2):
        kernels.set_num_threads(count)
        assert blas.get_num_threads() == count


@pytest.mark.skipif(blas.get_num_threads() is None, reason="NumPy's BLAS is not its own OpenBLAS")
def test_the_environment_limits_numpys_blas_too() -> None:
    code = "from minidl.kernels import blas, get_num_threads as n; n(); print(blas.get_num_threads())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "MINIDL_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "1"


def test_another_blas_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blas, "_library", lambda: None)
    blas.set_num_threads(1)
    assert blas.get_num_threads() is None


def test_waiting_threads_spin_for_a_bounded_time_and_the_environment_is_restored(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("OMP_WAIT_POLICY", *runtime.SPINNING):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ZeroDivisionError), runtime.bounded_spinning():
        assert {name: os.environ[name] for name in runtime.SPINNING} == runtime.SPINNING
        raise ZeroDivisionError
    assert not set(runtime.SPINNING) & set(os.environ)
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    with runtime.bounded_spinning():
        assert not set(runtime.SPINNING) & set(os.environ)


LOADED = """
import os
import numpy as np
from minidl import kernels
kernels.set_num_threads(2)
seen = []
import numba
from minidl.kernels.cpu import parallel  # which has Numba's own
launch = numba.get_num_threads
numba.get_num_threads = lambda: (seen.append(os.environ.get("GOMP_SPINCOUNT")), launch())[1]
x = np.zeros(400_000, np.float32)
kernels.backend(x).relu(x)
kernels.backend(x).relu(x)
print(*seen, os.environ.get("GOMP_SPINCOUNT"))
"""


def test_the_threading_layer_is_loaded_with_bounded_spinning() -> None:
    inherited = {k: v for k, v in os.environ.items() if k not in ("OMP_WAIT_POLICY", *runtime.SPINNING)}
    done = subprocess.run(
        [sys.executable, "-c", LOADED],
        env={**inherited, "NUMBA_NUM_THREADS": "2"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == [runtime.SPINNING["GOMP_SPINCOUNT"], "None"]
