"""Operations kept as programs give what they give when they run in the ordinary way, whatever the arrays hold."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from minidl import kernels
from minidl.kernels.cpu import parallel, program
from minidl.kernels.cpu.backend import CPUBackend
from minidl.kernels.cpu.program import Program, Programs
from minidl.kernels.cpu.runtime import kernel, launch, recording, share

SAME = ((1, 1), ((1, 1), (1, 1)), (1, 1), 1)
HALF = ((2, 2), ((1, 1), (1, 1)), (1, 1), 1)
POINTS = ((2, 2), ((0, 0), (0, 0)), (1, 1), 1)


class Plain(Programs):
    """Keeps nothing."""

    def run(self, key: Any, operation: Any, inputs: Any, *options: Any) -> Any:
        return operation(*inputs, *options)


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> Iterator[Programs]:
    """No programs of other tests."""
    mine = Programs()
    for module in (program, __import__("minidl.kernels.cpu.conv_again", fromlist=["programs"])):
        monkeypatch.setattr(module, "programs", mine)
    yield mine


def weight(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """(O, KH, KW, C) in memory as (O, C, KH, KW)."""
    o, c, kh, kw = shape
    return rng.standard_normal((o, c, kh, kw)).astype(dtype).transpose(0, 2, 3, 1)


def forward(rng: Any, dtype: str, x: Any, w: Any, where: Any, bias: bool, relu: bool) -> Any:
    make = [rng.standard_normal(x).astype(dtype), weight(rng, w, dtype)]
    b = rng.standard_normal(w[0]).astype(dtype) if bias else None
    return lambda be: be.conv2d(*make, b, *where, relu=relu)


def input_grad(rng: Any, dtype: str, gy: Any, w: Any, hw: Any, where: Any, epilogue: bool) -> Any:
    make = [rng.standard_normal(gy).astype(dtype), weight(rng, w, dtype)]
    if not epilogue:
        return lambda be: be.conv2d_input_grad(*make, hw, *where)
    b = rng.standard_normal(w[1]).astype(dtype)
    residual = rng.standard_normal((gy[0], *hw, w[1])).astype(dtype)
    return lambda be: be.conv2d_input_grad(*make, hw, *where, bias=b, relu=True, residual=residual)


def weight_grad(rng: Any, dtype: str, gy: Any, x: Any, where: Any) -> Any:
    make = [rng.standard_normal(s).astype(dtype) for s in (gy, x)]
    taps = (1, 1) if where == POINTS else (3, 3)
    return lambda be: be.conv2d_weight_grad(*make, taps, *where)


def fitted(be: CPUBackend, x: Any, weight: Any, bias: Any, mean: Any, var: Any) -> Any:
    """What batch_norm_fit returns, and what it makes of the running statistics."""
    moved = mean.copy(), var.copy()
    return (*be.batch_norm_fit(x, weight, bias, 1e-5, *moved, 0.1), *moved)


def norm(rng: Any, dtype: str, shape: Any, what: str) -> Any:
    g, x, y = (rng.standard_normal(shape).astype(dtype) for _ in range(3))
    mean, rstd, w, scale, shift = (rng.standard_normal(shape[-1]).astype(dtype) for _ in range(5))
    tail = (True, True, True)
    return {
        "stats": lambda be: be.batch_norm_stats(x),
        "fit": lambda be: fitted(be, x, w, scale, mean, rstd),
        "sums": lambda be: be.channel_sums(g),
        "masked sums": lambda be: be.channel_sums(g, y),
        "apply": lambda be: be.batch_norm_apply(x, scale, shift, g, True),
        "backward": lambda be: be.batch_norm_backward(g, x, mean, rstd, w, None, True, *tail),
        "backward of y": lambda be: be.batch_norm_backward(g, x, mean, rstd, w, y, True, *tail),
        "backward of x": lambda be: be.batch_norm_backward(
            g, x, mean, rstd, w, None, True, *tail, (scale, shift)
        ),
        "frozen": lambda be: be.batch_norm_backward(g, x, mean, rstd, w, y, False, True, False, False),
    }[what]


OPERATIONS: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
    "forward, Winograd": (forward, ((2, 12, 12, 16), (32, 16, 3, 3), SAME, False, False)),
    "forward with a bias": (forward, ((2, 12, 12, 16), (24, 16, 3, 3), HALF, True, True)),
    "forward of 3 channels": (forward, ((4, 9, 9, 3), (16, 3, 3, 3), HALF, True, True)),
    "forward by addresses": (forward, ((16, 8, 8, 32), (40, 32, 3, 3), HALF, True, False)),
    "forward of points": (forward, ((2, 10, 10, 32), (32, 32, 1, 1), POINTS, False, False)),
    "input gradient, Winograd": (
        input_grad, ((2, 12, 12, 32), (32, 16, 3, 3), (12, 12), SAME, True),
    ),
    "input gradient": (input_grad, ((2, 6, 6, 24), (24, 16, 3, 3), (12, 12), HALF, True)),
    "input gradient by addresses": (
        input_grad, ((16, 4, 4, 32), (32, 40, 3, 3), (8, 8), HALF, True),
    ),
    "input gradient to 3 channels": (
        input_grad, ((4, 8, 8, 32), (32, 3, 3, 3), (16, 16), HALF, True),
    ),
    "input gradient of points": (
        input_grad, ((2, 5, 5, 32), (32, 32, 1, 1), (10, 10), POINTS, True),
    ),
    "input gradient of points alone": (
        input_grad, ((2, 5, 5, 32), (32, 32, 1, 1), (10, 10), POINTS, False),
    ),
    "weight gradient, Winograd": (
        weight_grad, ((2, 12, 12, 16), (2, 12, 12, 16), SAME),
    ),
    "weight gradient": (weight_grad, ((3, 6, 6, 24), (3, 12, 12, 16), HALF)),
    "weight gradient of points": (weight_grad, ((2, 5, 5, 32), (2, 10, 10, 32), POINTS)),
    **{
        f"batch norm: {what}": (norm, ((2, 9, 9, 13), what))
        for what in (
            "stats", "fit", "sums", "masked sums", "apply", "backward", "backward of y", "backward of x", "frozen",
        )
    },
}  # fmt: skip


def arrays_of(result: Any) -> list[np.ndarray]:
    return [a for a in (result if isinstance(result, tuple) else (result,)) if a is not None]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", OPERATIONS)
def test_a_program_gives_the_bits_of_the_operation_for_new_values(
    name: str, dtype: str, own: Programs, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, arguments = OPERATIONS[name]
    rng = np.random.default_rng(0)
    be = CPUBackend()
    for turn in range(4):  # plain, noted, and then two of the program
        call = make(rng, dtype, *arguments)
        ours = arrays_of(call(be))
        constants = [c.copy() for p in own._known.values() if type(p) is Program for c in p.constants]
        with monkeypatch.context() as patch:
            patch.setattr(own, "run", Plain().run)
            expected = arrays_of(call(be))
        for a, b in zip(ours, expected, strict=True):
            np.testing.assert_array_equal(a, b, err_msg=f"turn {turn}")
            assert a.dtype == b.dtype and a.strides == b.strides
        if turn == 1:
            before = constants
    assert [type(p) for p in own._known.values()] == [Program]
    for a, b in zip(before, constants, strict=True):
        np.testing.assert_array_equal(a, b)  # what is no slot is only read


def test_results_and_the_workspace_are_new_in_every_run(own: Programs) -> None:
    call = forward(np.random.default_rng(0), "float32", *OPERATIONS["forward, Winograd"][1])
    be = CPUBackend()
    several = [call(be) for _ in range(4)]
    assert len({y.ctypes.data for y in several}) == 4
    several[2][...] = 0
    np.testing.assert_array_equal(several[0], several[3])


def test_threads_change_no_bit_and_may_run_one_program_at_the_same_time(own: Programs) -> None:
    rng = np.random.default_rng(0)
    be = CPUBackend()
    before = kernels.get_num_threads()
    shape = ((8, 24, 24, 16), (32, 16, 3, 3), SAME, True, True)
    calls = [forward(rng, "float32", *shape) for _ in range(2)]
    try:
        results = []
        for threads in (1, 2, 3):
            kernels.set_num_threads(threads)
            results.append([[call(be) for _ in range(3)] for call in calls])
        for several in results:
            for ys, first in zip(several, results[0], strict=True):
                for y in ys:
                    np.testing.assert_array_equal(y, first[0])
        kernels.set_num_threads(2)
        wrong: list[int] = []

        def repeat(number: int) -> None:
            wrong.extend(
                number for _ in range(30) if not np.array_equal(calls[number](be), results[0][number][0])
            )

        workers = [threading.Thread(target=repeat, args=(i % 2,)) for i in range(4)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert not wrong
    finally:
        kernels.set_num_threads(before)


@kernel
def _double(x: Any, y: Any, part: int, parts: int) -> None:
    first, last = share(x.size, part, parts)
    for i in range(first, last):
        y[i] += 2 * x[i]


def doubled(x: np.ndarray, other: np.ndarray) -> np.ndarray:
    from minidl.kernels.cpu import memory

    y = memory.zeros(x.shape, x.dtype)
    launch(_double, x, y)
    return y


def test_arrays_that_share_memory_are_not_noted(own: Programs) -> None:
    x = np.arange(6.0)
    for _ in range(4):
        np.testing.assert_array_equal(own.run("k", doubled, (x, x)), 2 * x)
    assert own._known == {"k": False}


def test_a_result_that_is_no_memory_of_the_library_is_not_noted(own: Programs) -> None:
    x = np.arange(6.0)
    for _ in range(3):
        np.testing.assert_array_equal(own.run("k", lambda a: a + 1, (x,)), x + 1)
    assert own._known == {"k": False}


def test_arrays_with_gaps_and_other_dtypes_run_in_the_ordinary_way(own: Programs) -> None:
    x = np.arange(12.0)
    for _ in range(3):
        own.run("k", doubled, (x[::2], None))
        own.run("k", doubled, (x, np.zeros(3, np.float32)))
    assert own._known == {}


def test_an_error_ends_the_noting(own: Programs) -> None:
    def fail(x: np.ndarray) -> np.ndarray:
        raise ValueError("no")

    for _ in range(3):
        with pytest.raises(ValueError, match="no"):
            own.run("k", fail, (np.ones(3),))
        assert not recording()


def test_old_programs_are_given_up_when_there_are_too_many(
    own: Programs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(program, "MOST", 3)
    for key in range(10):
        own.run(key, lambda a: a, (np.ones(2),))
    assert len(own._known) <= 3


def test_what_runs_in_one_thread_needs_no_symbols_of_the_threading_layer() -> None:
    """From the cache it may be loaded where no threads have been started."""
    x = np.ones((2, 8), np.float64)
    arrays = tuple([x.reshape(-1)] * 14)
    words, block = np.zeros(1, np.int64), np.zeros(1, np.int64)
    heads, patches = np.zeros((0, 6), np.int64), np.zeros((0, 3), np.int64)
    runners = [
        (parallel.patched_runner(True), (words, heads, patches, block, 0, arrays)),
        (parallel.recorded_runner(True), (np.zeros((0, 3), np.int64),)),
    ]
    for runner, arguments in runners:
        code = runner.py_func
        assert parallel.run_parts not in [cell.cell_contents for cell in code.__closure__ or ()]
        assert parallel._run_shared not in [cell.cell_contents for cell in code.__closure__ or ()]
        runner(*arguments)
