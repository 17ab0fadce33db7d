"""A training or inference step captured once and replayed: on a card one CUDA graph instead of hundreds of launches, on
the CPU, for inference, one compiled loop over them (:mod:`minidl.replays`).

    @minidl.compile_step
    def step(images, labels):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        return loss

    for images, labels in loader:
        loss = step(images.to("cuda"), labels)
        scheduler.step()                           # the next replay has the new learning rate

Cf. ``torch.cuda.make_graphed_callables``. What differs, on purpose: a warm-up call is a step like any other, results
are copies, and a learning rate or Adam's count of steps goes on.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Generic, ParamSpec, TypeVar

from minidl import random
from minidl.autograd import is_grad_enabled
from minidl.autograd.mode import mode, settle
from minidl.kernels import devices
from minidl.kernels.capturing import Capture, CaptureError, active
from minidl.kernels.cuda import tiling
from minidl.nested import copied, filled, leaves, like, map_leaves, signature
from minidl.replays import KINDS, MOST, Replays
from minidl.tensor import Tensor

__all__ = ["CaptureError", "CompiledStep", "compile_step"]

P = ParamSpec("P")
R = TypeVar("R")


def compile_step(
    function: Callable[P, R] | None = None, *, device: str | None = None, warmup: int = 2
) -> Any:
    """``function`` as a step that is captured and replayed; also a decorator.

    The first ``warmup`` calls with arguments of some shapes run as they are. The next one records everything that the
    function starts on the device, and from then on a call copies its arguments into the recorded ones and replays.

    - Tensors and NumPy arrays, also in lists, tuples and dicts, are inputs; arrays arrive in the function as tensors of
      the device. Every new shape, dtype or memory layout is a capture of its own, and so is every new value of anything
      else (numbers, strings, models). No gradient goes past an argument, or stays on it: return ``x.grad``.
    - Results are copies, without a graph: the step holds forward and backward, or runs under ``no_grad``.
    - Everything else that the function reads on the host is read once, at the capture: modes of layers, Python numbers,
      NumPy arrays. What goes on as without capture: learning rates and step counts of minidl's optimizers, random
      numbers on the device (dropout, ``randn``), the running statistics of batch norms.
    - Parameters, buffers and gradients must stay where they are: load weights with ``load_state_dict``, which writes to
      them, and let the step call ``zero_grad``. What makes a new capture: an optimizer's state, or weights of a fused
      network, that were loaded; parameters of an optimizer that are frozen or added; a setting of it, other than the
      learning rate, that becomes 0 or ceases to be.
    - One thread at a time calls the step on a device.

    On the CPU steps in which nothing asks for a gradient are captured: under ``no_grad``, or of a network from
    ``minidl.fuse``. A training step is simply called. Only what kernels and operators compute is replayed, so the
    recording is compared with the function first, on two sets of made-up arguments, for which the function is called
    too (what it does in Python besides computing, hooks included, happens then and at no replay). Where it computes by
    NumPy on ``.data``, reads values, draws random numbers or changes what was there before, it is called each time, and
    one RuntimeWarning says why; what is refused in the middle of the function is then done again from its start.
    Weights and buffers that change (after a write to ``.data``: ``mark_changed``), an attribute or a hook that is set
    on a module of the step, another number of threads or another algorithm of convolutions make a new capture. Arrays
    stay arrays in the function. A call from another thread in the meantime runs the function itself.

    Args:
        function: the step.
        device: where it runs; default: where its first tensor on a device lies.
        warmup: uncaptured calls before a capture, at least 1: kernels are compiled and chosen, optimizer states made.

    Returns:
        A :class:`CompiledStep`.

    Raises:
        CaptureError: on a device, from a call, when the step reads a value of the device (``item()``, ``if tensor:``,
            an index of bools), draws random numbers in main memory, or adds to gradients that were there before it.
        ValueError: ``warmup`` is less than 1.
    """
    if function is None:
        return functools.partial(compile_step, device=device, warmup=warmup)
    return CompiledStep(function, device, warmup)


class CompiledStep(Generic[P, R]):
    """A step that is captured when it is called; see :func:`compile_step`."""

    def __init__(self, function: Callable[P, R], device: str | None, warmup: int) -> None:
        if not isinstance(warmup, int) or warmup < 1:
            raise ValueError(f"compile_step: warmup expects an integer of at least 1, got {warmup!r}")
        self.function, self.warmup = function, warmup
        self.device = None if device is None else devices.canonical(device)
        self._calls: dict[Any, int] = {}
        self._graphs: dict[Any, _Graph] = {}
        self._replays = Replays(function, warmup, self._name())
        functools.update_wrapper(self, function, updated=())

    @property
    def captures(self) -> int:
        """How many captures there are, one for each kind of arguments."""
        return len(self._graphs) + len(self._replays)

    def reset(self) -> None:
        """Forget all captures, and free their memory."""
        self._calls.clear()
        self._graphs.clear()
        self._replays.clear()

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """The step's results, for these arguments."""
        found = leaves((args, kwargs))
        where = (t.device for t in found if isinstance(t, Tensor) and t.device != "cpu")
        name = self.device or next(where, "cpu")
        if active() is not None:  # inside another captured step: a part of it
            return self.function(*args, **kwargs)
        if name == "cpu":
            return self._replays(args, kwargs, found)
        place = devices.place(name)
        inputs = [leaf if isinstance(leaf, Tensor) else Tensor(leaf) for leaf in found]
        modes = is_grad_enabled(), str(mode.autocast), tiling.get_float32_precision()
        key = (name, modes, signature((args, kwargs), place))
        graph = self._graphs.get(key)
        if graph is not None and not graph.capture.valid():  # as new, but for one call to warm up
            del self._graphs[key]
            graph, self._calls[key] = None, self.warmup - 1
        if graph is not None:
            graph.fill(inputs)
            return graph.replay()
        done = self._calls.get(key, 0)
        if done < self.warmup:
            moved = filled((args, kwargs), [_here(a, place) for a in inputs])
            result = copied(self.function(*moved[0], **moved[1]))
            self._calls[key] = done + 1  # a call that raised has warmed up nothing
            if len(self._calls) > KINDS:
                del self._calls[next(iter(self._calls))]
            return result
        if len(self._graphs) >= MOST:
            raise CaptureError(
                f"compile_step: {self._name()} was captured for {MOST} kinds of arguments already, and each capture "
                f"keeps its memory; pass what changes as a tensor, and pad the shapes"
            )
        self._graphs[key] = graph = _Graph(self.function, args, kwargs, inputs, place, self._name())
        del self._calls[key]
        return graph.replay()

    def _name(self) -> str:
        return getattr(self.function, "__qualname__", type(self.function).__name__)


class _Graph:
    """One capture: its input arrays, its recorded launches, its results."""

    def __init__(
        self, function: Any, args: Any, kwargs: Any, inputs: list[Tensor], place: devices.Place, name: str
    ) -> None:
        self.place = place
        self.inputs = [place.xp.copy(a.data) if place.holds(a.data) else _here(a, place).data for a in inputs]
        self.capture = Capture(place)
        tensors = [like(a, array) for a, array in zip(inputs, self.inputs, strict=True)]
        moved = filled((args, kwargs), tensors)
        settle()  # what the caller has put off is none of the step's
        drawn = random.get_state()
        self.capture.if_it_fails(lambda: random.set_state(drawn))

        def run() -> Any:
            result = function(*moved[0], **moved[1])
            settle()
            return map_leaves(result, lambda x: x.detach() if isinstance(x, Tensor) else x)

        try:
            self.result = self.capture.record(run)
        except CaptureError as error:
            raise CaptureError(f"compile_step: {name}: {error}") from error
        self.capture.hold(moved)

    def fill(self, inputs: list[Tensor]) -> None:
        """Copy a call's inputs to where the recording reads them."""
        for array, given in zip(self.inputs, inputs, strict=True):
            if self.place.holds(given.data):
                array[...] = given.data
            else:
                self.place.write(array, devices.host(given.data))

    def replay(self) -> Any:
        """The results of the recorded launches for the present inputs."""
        self.capture.replay()
        return copied(self.result)


def _here(tensor: Tensor, place: devices.Place) -> Tensor:
    """A leaf with the tensor's array, or with a copy of it on the device."""
    array = tensor.data if place.holds(tensor.data) else place.put(devices.host(tensor.data))
    return like(tensor, array)
