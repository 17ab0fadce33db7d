"""The pool of array memory: what it hands out, takes back, counts and gives up."""

from __future__ import annotations

import gc
import os
import threading

import numpy as np
import pytest

from minidl import kernels
from minidl.kernels.cpu import memory

LARGE = 1 << 20


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> memory._Pool:
    """A pool of our own, so that other tests' arrays do not count."""
    own = memory._Pool(64 << 20, memory._size_class, memory.ALIGNMENT)
    monkeypatch.setattr(memory, "_pool", own)
    return own


def test_large_arrays_are_aligned_contiguous_and_writable(pool: memory._Pool) -> None:
    for dtype in (np.float32, np.float64, np.int32, np.uint8, np.complex64):
        a = memory.empty((3, 50, 1001), dtype)
        assert a.shape == (3, 50, 1001) and a.dtype == dtype
        assert a.flags.c_contiguous and a.flags.writeable and a.flags.aligned
        assert a.ctypes.data % memory.ALIGNMENT == 0
        a[...] = 1
        assert (a == 1).all()


def test_memory_returns_with_the_last_view(pool: memory._Pool) -> None:
    a = memory.empty(LARGE, np.float32)
    address = a.ctypes.data
    view = a.reshape(1024, -1)[3:].T
    del a
    assert pool.stats()["in_use"] == LARGE * 4 and pool.stats()["cached"] == 0
    assert memory.empty(LARGE, np.float32).ctypes.data != address
    del view
    gc.collect()
    stats = pool.stats()
    assert stats["in_use"] == 0 and stats["cached"] == 2 * LARGE * 4
    again = {memory.empty(LARGE, np.float32).ctypes.data for _ in range(3)}
    assert len(again) == 1  # the same block each time
    assert pool.stats()["misses"] == 2 and pool.stats()["hits"] == 3


def test_live_arrays_never_share_memory(pool: memory._Pool) -> None:
    rng = np.random.default_rng(0)
    live: list[tuple[np.ndarray, int]] = []
    for step in range(300):
        size = int(rng.choice([9000, 20000, 20001, 70000]))
        a = memory.empty(size, np.int64)
        a.fill(step)
        live.append((a, step))
        if len(live) > 10:
            live.pop(int(rng.integers(len(live))))
        for array, mark in live:
            assert array[0] == array[-1] == mark
    assert pool.stats()["in_use"] >= sum(a.nbytes for a, _ in live)


def test_small_arrays_and_odd_dtypes_do_not_enter_the_pool(pool: memory._Pool) -> None:
    assert memory.empty(10, np.float32).shape == (10,)
    assert memory.empty((), np.float32).shape == ()
    assert memory.empty((0, 5), np.float32).shape == (0, 5)
    assert memory.empty(LARGE, object)[5] is None
    assert memory.empty(LARGE, np.dtype([("a", "f4"), ("b", "i4")])).dtype.names == ("a", "b")
    assert pool.stats()["misses"] == 0


def test_byte_order_is_kept(pool: memory._Pool) -> None:
    assert memory.empty(LARGE, ">f4").dtype == np.dtype(">f4")


def test_zeros_are_zero_in_reused_memory(pool: memory._Pool) -> None:
    memory.empty(LARGE, np.float32).fill(7)
    assert not memory.zeros(LARGE, np.float32).any()


def test_what_is_kept_stays_within_the_limit(pool: memory._Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    memory.set_cache_limit(3 * LARGE)
    arrays = [memory.empty(LARGE + 200_000 * n, np.uint8) for n in range(6)]
    del arrays
    stats = pool.stats()
    assert 0 < stats["cached"] <= 3 * LARGE and stats["in_use"] == 0
    memory.empty_cache()
    assert pool.stats()["cached"] == 0
    with pytest.raises(ValueError, match="set_cache_limit: nbytes expects a number >= 0, got -1"):
        memory.set_cache_limit(-1)


def test_peak_counts_what_was_in_use_at_once(pool: memory._Pool) -> None:
    a = memory.empty(LARGE, np.uint8)
    b = memory.empty(LARGE, np.uint8)
    del a
    memory.empty(LARGE, np.uint8)
    assert pool.stats()["peak"] == 2 * LARGE
    del b


def test_out_of_memory_gives_up_the_cache_first(pool: memory._Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    memory.empty(LARGE, np.uint8)
    assert pool.stats()["cached"]
    real, failures = memory._Bytes, [1]

    def failing(*args: object, **options: object) -> np.ndarray:
        if failures and failures.pop():
            raise MemoryError
        return real(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(memory, "_Bytes", failing)
    assert memory.empty(3 * LARGE, np.uint8).size == 3 * LARGE
    assert pool.stats()["cached"] == 3 * LARGE
    failures.extend([1, 1])
    pool.clear()
    with pytest.raises(MemoryError):
        memory.empty(5 * LARGE, np.uint8)
    assert pool.stats()["in_use"] == 0


def test_bad_shapes_raise() -> None:
    with pytest.raises(ValueError, match="empty: shape expects dimensions >= 0"):
        memory.empty((3, -1), np.float32)


def test_threads_may_allocate_and_free_at_once(pool: memory._Pool) -> None:
    errors: list[str] = []

    def work(mark: int) -> None:
        for n in range(200):
            a = memory.empty(10_000 + 1000 * (n % 7), np.int64)
            a.fill(mark)
            if not (a == mark).all():
                errors.append(f"thread {mark} lost its array")

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert pool.stats()["in_use"] == 0


def test_garbage_cycles_return_their_memory(pool: memory._Pool) -> None:
    """The collector may run __del__ inside empty() itself."""
    before = gc.get_threshold()
    gc.set_threshold(1)
    try:
        for _ in range(50):
            holder: list[object] = [memory.empty(LARGE // 4, np.float32)]
            holder.append(holder)
            del holder
    finally:
        gc.set_threshold(*before)
    gc.collect()
    assert pool.stats()["in_use"] == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_can_allocate_while_the_parent_held_the_lock(pool: memory._Pool) -> None:
    with pool._lock:
        child = os.fork()
        if child == 0:
            ok = memory.empty(LARGE, np.uint8).size == LARGE
            os._exit(0 if ok else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_the_package_shows_the_pools_figures(pool: memory._Pool) -> None:
    a = memory.empty(LARGE, np.uint8)
    assert kernels.memory_stats()["in_use"] == LARGE
    del a
    kernels.empty_cache()
    assert kernels.memory_stats()["cached"] == 0


def test_workspaces_of_all_sizes_take_turns_in_one_block(monkeypatch: pytest.MonkeyPatch) -> None:
    own = memory._Pool(64 << 20, memory._work_class, memory.HUGE_PAGE)
    monkeypatch.setattr(memory, "_workspaces", own)
    addresses = set()
    for sizes in ((5, 0, 1000), (300_000,), (7, 7, 7)):
        vectors = memory.workspace(sizes, np.float32)
        assert [v.size for v in vectors] == list(sizes) and all(v.flags.writeable for v in vectors)
        assert all(v.ctypes.data % memory.ALIGNMENT == 0 for v in vectors)
        for number, vector in enumerate(vectors):
            vector.fill(number)
        assert all((vector == number).all() for number, vector in enumerate(vectors))
        addresses.add(vectors[0].ctypes.data)
        del vector, vectors
    assert len(addresses) == 1 and own.stats()["misses"] == 1
    assert next(iter(addresses)) % memory.HUGE_PAGE == 0


def test_workspaces_in_use_at_once_are_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_workspaces", memory._Pool(64 << 20, memory._work_class, memory.HUGE_PAGE))
    before = memory.memory_stats()["in_use"]
    (a,), (b,) = memory.workspace((1000,), np.float32), memory.workspace((1000,), np.float64)
    a.fill(1)
    b.fill(2)
    assert (a == 1).all() and memory.memory_stats()["in_use"] - before == 2 * memory.WORKSPACE
    (large,) = memory.workspace((memory.WORKSPACE,), np.float64)
    assert memory.memory_stats()["in_use"] - before == 2 * memory.WORKSPACE + memory.LARGE_WORKSPACE
    del a, b, large
    memory.empty_cache()
    assert memory._workspaces.stats()["cached"] == 0
