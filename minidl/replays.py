"""Inference on the CPU without Python between the kernels: what :func:`minidl.compile_step` does in main memory.

A step in which nothing asks for a gradient is run once while its launches are recorded, and from then on a call copies
its arguments into the recorded ones and makes the launches again in one compiled loop
(:mod:`minidl.kernels.cpu.recording`). Results are those of the step bit for bit.

Operators that compute by NumPy are calls between two such loops. Whatever else a step does besides launching kernels,
by NumPy on ``.data`` or in Python, is not part of a recording and would leave old values behind. So a recording is
proved before it is used: the step itself and the replay must agree bit for bit on other arguments, twice, with all
memory between input and result spoiled before the replay. A step that fails this, or that is seen to read values on the
way, to draw random numbers or to change what was there before it, is called as it is from then on, and a warning says
why. What the step computed while it was recorded is the result of that call, so that state moves once in it.

A recording is used as long as the tensors and the attributes of the modules that took part are what they were.
"""

from __future__ import annotations

import threading
import warnings
import weakref
from collections.abc import Callable, Sequence
from operator import is_
from typing import Any

import numpy as np

from minidl import kernels
from minidl.autograd import is_grad_enabled
from minidl.autograd.function import next_number
from minidl.autograd.mode import mode, settle
from minidl.dtypes import is_floating, is_supported
from minidl.kernels import devices
from minidl.kernels.capturing import Capture, CaptureError
from minidl.nested import copied, filled, leaves, like, map_leaves, signature
from minidl.tensor import Tensor

__all__ = ["Replays"]

Leaf = Tensor | np.ndarray

MOST = 16
"""Captures of one step; more are taken for a number that changes at every call."""
KINDS = 1024
"""Kinds of arguments whose warm-up calls are counted; the oldest are forgotten."""
PATIENCE = 256
"""Calls to warm up at most after a change of weights. They double with each change: a recording takes the time of some
six calls, which weights that change at every call would not repay."""


class Replays:
    """The recordings of a function in main memory, one for each kind of arguments; called in the place of the function.

    Args:
        function: the step.
        warmup: calls before a recording.
        name: of the function, for warnings.
        quiet: say nothing where it is not captured.
    """

    def __init__(
        self, function: Callable[..., Any], warmup: int, name: str = "the step", quiet: bool = False
    ) -> None:
        self.function, self.warmup, self.name = function, warmup, name
        self._calls: dict[Any, int] = {}
        self._found: dict[Any, _Replay | None] = {}  # None: not to be replayed
        self._waits: dict[Any, int] = {}  # calls to warm up once a recording has become invalid
        self._busy = threading.Lock()
        self._warned = quiet

    def __len__(self) -> int:
        return sum(replay is not None for replay in self._found.values())

    def __reduce__(self) -> Any:
        """A copy begins without recordings: they belong to this function's arrays."""
        return Replays, (self.function, self.warmup, self.name, self._warned)

    def clear(self) -> None:
        """Forget all recordings, and free their memory."""
        self._calls.clear()
        self._found.clear()
        self._waits.clear()

    def __call__(self, args: Any, kwargs: Any, given: list[Leaf]) -> Any:
        """The function's result; ``given`` are the tensors and arrays among its arguments."""
        arrays = _arrays(given)
        plain = (
            mode.watch is not None  # anomalies are looked for in every operator
            or not arrays
            or not all(isinstance(array, np.ndarray) and is_supported(array.dtype) for array in arrays)
            or kernels.backend(arrays[0]).name != "cpu"
            or not self._busy.acquire(blocking=False)  # another thread is in a recording: no need to wait
        )
        if plain:
            return self.function(*args, **kwargs)
        try:
            return self._run(args, kwargs, given, arrays)
        finally:
            self._busy.release()

    def _run(self, args: Any, kwargs: Any, given: list[Leaf], arrays: list[np.ndarray]) -> Any:
        modes = is_grad_enabled(), str(mode.autocast), kernels.get_num_threads(), kernels.get_conv_algorithm()
        kinds = tuple(isinstance(leaf, Tensor) for leaf in given)
        key = (modes, kinds, signature((args, kwargs), devices.place("cpu")))
        replay = self._found.get(key)
        if replay is not None and not replay.capture.valid():
            self._found.pop(key, None)
            wait = self._waits.get(key, 1)
            replay, self._calls[key], self._waits[key] = None, self.warmup - wait, min(2 * wait, PATIENCE)
        if replay is not None:
            return replay(arrays)
        if key in self._found:
            return self.function(*args, **kwargs)
        if self._calls.get(key, 0) < self.warmup:
            return self._warm_up(key, args, kwargs)
        return self._record(key, args, kwargs, given)

    def _warm_up(self, key: Any, args: Any, kwargs: Any) -> Any:
        """A call as it is. It counts unless an operator asked for a gradient, in this thread or in another."""
        number = next_number()
        result = self.function(*args, **kwargs)
        if next_number() == number + 1:
            self._calls[key] = self._calls.get(key, 0) + 1
            if len(self._calls) > KINDS:
                del self._calls[next(iter(self._calls))]
        return result

    def _record(self, key: Any, args: Any, kwargs: Any, given: list[Leaf]) -> Any:
        """A call that is recorded. The recording is kept where it is proved; otherwise a warning says why not."""
        replay, proved = None, False
        try:
            if len(self) >= MOST:
                raise CaptureError(
                    f"it was captured for {MOST} kinds of arguments already, and each capture keeps its memory; pass "
                    f"what changes as a tensor, and pad the shapes"
                )
            replay = _Replay(self.function, args, kwargs, given)
            result, again = copied(replay.result), replay.wrote_to_its_inputs(_arrays(given))
            replay.prove()
            proved = True
        except CaptureError as error:
            if not self._warned:
                warnings.warn(
                    f"compile_step: {self.name} is not captured, but called each time: {error}",
                    RuntimeWarning,
                    stacklevel=5,  # the caller of the compiled step
                )
            self._warned = True
        self._found[key] = replay if proved else None
        if len(self._found) > KINDS:
            del self._found[next(iter(self._found))]
        # The recording was the step, but for an error in the middle, and for inputs that are the caller's.
        return self.function(*args, **kwargs) if replay is None or again else result


class _Replay:
    """One recording: its input arrays, its launches, its results."""

    def __init__(self, function: Callable[..., Any], args: Any, kwargs: Any, given: list[Leaf]) -> None:
        self.inputs = [_copy_of(array) for array in _arrays(given)]
        taken = [
            like(leaf, array) if isinstance(leaf, Tensor) else array
            for leaf, array in zip(given, self.inputs, strict=True)
        ]
        moved = filled((args, kwargs), taken)

        def run() -> Any:
            result = function(*moved[0], **moved[1])
            settle()
            return map_leaves(result, lambda x: x.detach() if isinstance(x, Tensor) else x)

        settle()  # what the caller has put off is none of the step's
        self.capture = Capture(devices.place("cpu"))
        self.capture.hold(moved)
        self._run, self._witness = run, Witness()
        with self._witness:
            self.result = self.capture.record(run)

    def __call__(self, arrays: list[np.ndarray]) -> Any:
        """The results for these inputs."""
        for mine, given in zip(self.inputs, arrays, strict=True):
            mine[...] = given
        self.capture.replay()
        return copied(self.result)

    def wrote_to_its_inputs(self, arrays: list[np.ndarray]) -> bool:
        """Whether the recorded call changed its copies of these."""
        return not all(map(_same, self.inputs, arrays))

    def prove(self) -> None:
        """Compare replays with the step itself on other values; raise CaptureError where they differ."""
        run, witness, owns = self._run, self._witness, self.capture.recorded.owns
        witness.expect_unchanged([x for x in leaves(self.result) if isinstance(x, Tensor) and owns(x.data)])
        outside = witness.contents(lambda array: owns(array) or _shares(array, self.inputs))
        before = [array.copy(order="K") for array in self.inputs]
        for other in (_random, _extreme):
            values = [other(array) for array in before]
            self._fill(values)
            old = copied(self.result)
            try:
                with np.errstate(all="ignore"):
                    result = run()
            except Exception as error:
                raise CaptureError(f"for other values of its arguments it fails: {error}") from error
            finally:
                written = _put_back(outside)
            if written:
                raise CaptureError("it writes by NumPy to a tensor that was there before")
            expected = copied(result)
            self._spoil(result, old)
            self._fill(values)  # the step may have written to them
            with np.errstate(all="ignore"):
                self.capture.replay()
            if not _same(self.result, expected):
                raise CaptureError(
                    "a part of its work is done by NumPy or Python, not by kernels, and would not be done again"
                )
        self.capture.depends(witness.condition())
        del self._run, self._witness

    def _fill(self, values: list[np.ndarray]) -> None:
        for mine, value in zip(self.inputs, values, strict=True):
            mine[...] = value

    def _spoil(self, again: Any, old: Any) -> None:
        """Overwrite the memory of the recording and its results, so that what a replay leaves out is seen.

        Args:
            again: the results of another run: what has the same address there was not made by the step.
            old: a copy of the results before that run.
        """
        self.capture.recorded.spoil()
        for result, there, before in zip(*map(_arrays, (self.result, again, old)), strict=False):
            array = result
            if self.capture.recorded.owns(array) and array.itemsize in (1, 2, 4, 8):
                while not array.flags.writeable and isinstance(array.base, np.ndarray):
                    array = array.base  # of an expanded view
                array.view(f"u{array.itemsize}")[...] = 0x7FF87FF87FF87FF8 & (2 ** (8 * array.itemsize) - 1)
            elif not _shares(array, self.inputs):
                if array.ctypes.data != there.ctypes.data:
                    raise CaptureError("a result is computed by NumPy, not by kernels")
                if not _same(array, before):
                    raise CaptureError("it writes to a result that was there before")


class Witness:
    """Sees which tensors and modules take part in what this thread records inside its ``with`` block."""

    def __init__(self) -> None:
        self._seen: dict[int, tuple[weakref.ref[Tensor], int]] = {}
        self._modules: dict[int, _Module] = {}

    def __enter__(self) -> None:
        mode.witness = self

    def __exit__(self, *error: object) -> None:
        mode.witness = None

    def compute(
        self, operator: Callable[..., Any], inputs: Sequence[Tensor | None], arrays: Sequence[Any]
    ) -> Any:
        """The result of an operator on arrays. One that launches nothing is called again at each replay."""
        from minidl.kernels.cpu import runtime

        self.tensors(*inputs)
        recorder = runtime.recorder()
        launches = recorder.launches
        data = operator(*arrays)
        data = np.asarray(data) if isinstance(data, np.generic) else data
        if recorder.launches == launches and isinstance(data, np.ndarray) and not _shares(data, arrays):
            recorder.call(lambda: operator(*arrays), data)
        return data

    def write(self, source: np.ndarray, target: np.ndarray) -> None:
        """``source`` is copied to ``target``, again at each replay."""
        from minidl.kernels.cpu import runtime

        runtime.recorder().call(lambda: source, target, made=False)

    def tensors(self, *seen: Tensor | None) -> None:
        """These are read or written. Those that die before the end are of no interest, and not kept alive."""
        for t in seen:
            if t is not None:
                known = self._seen.get(id(t))
                if known is None or known[0]() is not t:
                    self._seen[id(t)] = weakref.ref(t), t._version[0]

    def module(self, called: Any) -> None:
        """This module is called."""
        if id(called) not in self._modules:
            self._modules[id(called)] = _Module(called)
        self.tensors(*(t for _, t in (*called._own_parameters(), *called._own_buffers())))

    def _living(self) -> list[tuple[Tensor, int]]:
        return [(t, number) for ref, number in self._seen.values() if (t := ref()) is not None]

    def expect_unchanged(self, results: list[Tensor]) -> None:
        """Raise CaptureError where the block wrote to a tensor other than these, which it made."""
        own = {id(t._version) for t in results}
        for t, number in self._living():
            if t._version[0] != number and id(t._version) not in own:
                raise CaptureError(f"it writes to a tensor of shape {t.shape} that was there before")

    def contents(self, own: Callable[[np.ndarray], bool]) -> list[tuple[np.ndarray, np.ndarray]]:
        """The arrays of the tensors that were seen and live, and copies of them; not those that are ``own``."""
        return [(t.data, t.data.copy(order="K")) for t, _ in self._living() if not own(t.data)]

    def condition(self) -> Callable[[], bool]:
        """Whether all of it still is as it was: arrays, values, what asks for gradients, the modules' attributes."""
        stamps = [(t, t.data, t._version, t._version[0], t.requires_grad) for t, _ in self._living()]
        modules = list(self._modules.values())
        for module in modules:
            module.leave_out_what_calls_change()
        changes = modules[0].changes if modules else [0]
        looked_at = changes[0]

        def holds() -> bool:
            nonlocal looked_at
            for t, array, versions, number, grad in stamps:
                if t.data is not array or versions[0] != number or t.requires_grad is not grad:
                    return False
            now = changes[0]
            if now != looked_at:  # an attribute of some module was set
                if not all(module.is_unchanged() for module in modules):
                    return False
                looked_at = now
            return True

        return holds


class _Module:
    """A module's attributes (parameters, buffers and parts among them) and hooks, as they were."""

    def __init__(self, module: Any) -> None:
        self.changes: list[int] = module._changes
        self._now, self._hooks = module.__dict__, module._forward_hooks
        self._attributes, self._hook_keys = dict(self._now), list(self._hooks)
        self._count = 0

    def leave_out_what_calls_change(self) -> None:
        """Of attributes that are others by now, such as counters, a call sets some; the step reads them once."""
        now = self._now
        self._attributes = {name: old for name, old in self._attributes.items() if now.get(name) is old}
        self._count = len(now)

    def is_unchanged(self) -> bool:
        return (
            len(self._now) == self._count
            and list(self._hooks) == self._hook_keys
            and all(map(is_, map(self._now.get, self._attributes), self._attributes.values()))
        )


def _copy_of(array: np.ndarray) -> np.ndarray:
    """A copy with the same memory layout, on which NumPy adds up in the same order."""
    copy = array.copy(order="K")
    steps = zip(array.shape, array.strides, copy.strides, strict=True)
    if any(mine != theirs for size, theirs, mine in steps if size > 1) and array.size:
        raise CaptureError(f"an argument of shape {array.shape} has gaps or a turned axis in memory")
    return copy


def _put_back(contents: list[tuple[np.ndarray, np.ndarray]]) -> bool:
    """Whether arrays differ from their copies; they are as those afterwards."""
    written = False
    for array, was in contents:
        if not np.array_equal(array.view(f"u{array.itemsize}"), was.view(f"u{was.itemsize}")):
            array[...] = was
            written = True
    return written


def _shares(array: np.ndarray, others: Sequence[np.ndarray | None]) -> bool:
    return any(other is not None and np.may_share_memory(array, other) for other in others)


def _arrays(value: Any) -> list[np.ndarray]:
    return [leaf.data if isinstance(leaf, Tensor) else leaf for leaf in leaves(value)]


def _random(array: np.ndarray) -> np.ndarray:
    """Other values that an argument of this kind may have: floats in [0, 1), its own integers in another order."""
    if is_floating(array.dtype):
        return np.random.default_rng(0).random(array.shape, np.float32).astype(array.dtype)
    return array.reshape(-1)[::-1].reshape(array.shape)


def _extreme(array: np.ndarray) -> np.ndarray:
    """Floats of both signs and many magnitudes; integers 0, or 1 where all are 0."""
    if not is_floating(array.dtype):
        return np.zeros_like(array) if array.any() else np.ones_like(array)
    rng = np.random.default_rng(1)
    sizes = 10.0 ** rng.uniform(-4, 4, array.shape)
    return (sizes * rng.choice((-1.0, 1.0), array.shape)).astype(array.dtype)


def _same(a: Any, b: Any) -> bool:
    """Whether two results are equal bit for bit; of values other than these, nobody knows."""
    if isinstance(a, Tensor | np.ndarray):
        x, y = (leaf.data if isinstance(leaf, Tensor) else leaf for leaf in (a, b))
        return type(a) is type(b) and (x.shape, x.dtype) == (y.shape, y.dtype) and x.tobytes() == y.tobytes()
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_same(value, b[key]) for key, value in a.items())
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(_same, a, b))
    return a is None or (isinstance(a, bool | int | float | str) and a == b)
