"""Module: the base of layers and networks (PyTorch's interface, attributes kept as plain attributes).

Parameters, buffers and children are found by walking the instance's attributes in the order of their first
assignment, so the names of a network equal those of the same network in PyTorch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import DTypeLike

from minidl.autograd.mode import deferring, mode
from minidl.kernels import devices
from minidl.nn.state import load_tensors
from minidl.tensor import Parameter, Tensor

__all__ = ["HookHandle", "Module"]

Hook = Callable[["Module", tuple[Any, ...], Any], Any]


class HookHandle:
    """Removes a forward hook: call `remove()`, or use it as a context manager."""

    def __init__(self, hooks: dict[int, Hook], key: int) -> None:
        self._hooks, self._key = hooks, key

    def remove(self) -> None:
        self._hooks.pop(self._key, None)
        Module._changes[0] += 1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.remove()


def _no_forward(self: Module, *args: Any, **kwargs: Any) -> Any:
    raise NotImplementedError(f"{type(self).__name__} does not define forward")


class Module:
    """A layer or a network: subclasses assign parameters and children in `__init__` and define `forward`.

    A `Parameter` or `Module` assigned to an attribute is registered under the attribute's name, a buffer
    through `register_buffer`. A missing attribute raises the ordinary AttributeError. Unlike PyTorch's, a
    list or dict of modules is refused with TypeError (its parameters would silently not be trained): use
    ModuleList.
    """

    training: bool
    keeps_statistics: bool = False  # True for batch norms: what `freeze` holds in eval mode
    _changes: ClassVar[list[int]] = [0]  # how often an attribute or a hook of any module has changed
    forward: Callable[..., Any] = _no_forward  # every subclass defines it with its own arguments

    def __init__(self) -> None:
        self.training = True
        self._buffer_names: dict[str, bool] = {}  # name -> persistent; a dict because its order counts
        self._forward_hooks: dict[int, Hook] = {}
        self._next_hook = 0
        self._held_in_eval = False

    # ---- attributes ------------------------------------------------------------------------------

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, Module | Parameter) and "_buffer_names" not in self.__dict__:
            raise AttributeError(f"{type(self).__name__}: call super().__init__() before assigning {name!r}")
        items = value.values() if isinstance(value, dict) else value
        if isinstance(value, dict | list | tuple | set) and any(
            isinstance(v, Module | Parameter) for v in items
        ):
            raise TypeError(
                f"{type(self).__name__}.{name}: a {type(value).__name__} of modules or parameters would not "
                "be trained; use nn.ModuleList, nn.Sequential or one attribute each"
            )
        held = self.__dict__.get(name)
        if isinstance(held, Parameter) and not isinstance(value, Parameter | None):
            raise TypeError(f"{type(self).__name__}.{name} is a Parameter, got {type(value).__name__}")
        if name in self.__dict__.get("_buffer_names", ()) and (
            isinstance(value, Parameter) or not isinstance(value, Tensor | None)
        ):
            raise TypeError(f"{type(self).__name__}.{name} is a buffer (Tensor), got {type(value).__name__}")
        object.__setattr__(self, name, value)
        Module._changes[0] += 1

    def __delattr__(self, name: str) -> None:
        object.__delattr__(self, name)
        Module._changes[0] += 1
        self._buffer_names.pop(name, None)

    def register_buffer(self, name: str, value: Tensor | np.ndarray | None, persistent: bool = True) -> None:
        """Keeps a tensor that is no parameter: it is saved in the state dict unless persistent=False.

        Raises ValueError when the name is taken or holds a dot, TypeError for anything but a Tensor, array or
        None.
        """
        owner = type(self).__name__
        if not name or "." in name:
            raise ValueError(f"{owner}.register_buffer: name must be an attribute name, got {name!r}")
        if hasattr(self, name) and name not in self._buffer_names:
            raise ValueError(f"{owner}.register_buffer: attribute {name!r} already exists")
        if isinstance(value, Parameter) or not isinstance(value, Tensor | np.ndarray | None):
            raise TypeError(
                f"{owner}.register_buffer: {name!r} must be a Tensor or array, got {type(value).__name__}"
            )
        tensor = Tensor(value) if isinstance(value, np.ndarray) else value
        self._buffer_names[name] = persistent
        setattr(self, name, tensor)

    def add_module(self, name: str, module: Module) -> None:
        """Registers a child under a name that may be a number ("0", as Sequential does)."""
        if not isinstance(module, Module):
            raise TypeError(
                f"{type(self).__name__}: child {name!r} must be a Module, got {type(module).__name__}"
            )
        if not name or "." in name:
            raise ValueError(
                f"{type(self).__name__}: child name must be non-empty without dots, got {name!r}"
            )
        if name in self.__dict__ and not isinstance(self.__dict__[name], Module):
            raise ValueError(f"{type(self).__name__}: attribute {name!r} already exists")
        setattr(self, name, module)

    # ---- walking ---------------------------------------------------------------------------------

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """The direct children in the order of their assignment."""
        for name, value in list(self.__dict__.items()):
            if isinstance(value, Module):
                yield name, value

    def children(self) -> Iterator[Module]:
        return (child for _, child in self.named_children())

    def named_modules(self, prefix: str = "") -> Iterator[tuple[str, Module]]:
        """Itself (under `prefix`) and every module below, depth first, each once."""
        return self._walk(prefix, set())

    def _walk(self, prefix: str, seen: set[int] | None) -> Iterator[tuple[str, Module]]:
        if seen is not None:
            if id(self) in seen:
                return
            seen.add(id(self))
        yield prefix, self
        for name, child in self.named_children():
            yield from child._walk(f"{prefix}.{name}" if prefix else name, seen)

    def modules(self) -> Iterator[Module]:
        return (module for _, module in self.named_modules())

    def get_submodule(self, name: str) -> Module:
        """The module under a dotted name; "" is the module itself. AttributeError names the part that is
        missing.
        """
        module: Module = self
        for part in name.split(".") if name else ():
            child = module.__dict__.get(part)
            if not isinstance(child, Module):
                raise AttributeError(f"{type(self).__name__} has no module {name!r}: {part!r} is missing")
            module = child
        return module

    def _own_parameters(self) -> Iterator[tuple[str, Parameter]]:
        for name, value in list(self.__dict__.items()):
            if isinstance(value, Parameter):
                yield name, value

    def _own_buffers(self, persistent_only: bool = False) -> Iterator[tuple[str, Tensor]]:
        for name, persistent in list(self._buffer_names.items()):
            value = self.__dict__[name]
            if value is not None and (persistent or not persistent_only):
                yield name, value

    def named_parameters(self, prefix: str = "") -> Iterator[tuple[str, Parameter]]:
        """(dotted name, parameter) in insertion order; a parameter that is shared appears once, at its first
        name.
        """
        seen: set[int] = set()
        for path, module in self.named_modules(prefix):
            for name, parameter in module._own_parameters():
                if id(parameter) not in seen:
                    seen.add(id(parameter))
                    yield (f"{path}.{name}" if path else name), parameter

    def parameters(self) -> Iterator[Parameter]:
        return (parameter for _, parameter in self.named_parameters())

    def named_buffers(self, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
        """(dotted name, buffer) of the buffers that are set, each once."""
        seen: set[int] = set()
        for path, module in self.named_modules(prefix):
            for name, buffer in module._own_buffers():
                if id(buffer) not in seen:
                    seen.add(id(buffer))
                    yield (f"{path}.{name}" if path else name), buffer

    def buffers(self) -> Iterator[Tensor]:
        return (buffer for _, buffer in self.named_buffers())

    # ---- state -----------------------------------------------------------------------------------

    def _state_tensors(self) -> dict[str, Tensor]:
        """Parameters then persistent buffers of each module, children after; shared ones under every name."""
        tensors: dict[str, Tensor] = {}
        for path, module in self._walk("", None):
            own = [*module._own_parameters(), *module._own_buffers(persistent_only=True)]
            tensors.update({(f"{path}.{name}" if path else name): tensor for name, tensor in own})
        return tensors

    def state_dict(self) -> dict[str, np.ndarray]:
        """Parameters and persistent buffers by dotted name, in PyTorch's order.

        The arrays are C-contiguous copies: what is done to them, or to the module later, leaves the other
        alone.
        """
        return {
            name: np.array(devices.host(tensor.data), order="C")
            for name, tensor in self._state_tensors().items()
        }

    def load_state_dict(self, state: Mapping[str, Any], strict: bool = True) -> tuple[list[str], list[str]]:
        """Copies arrays into parameters and buffers by name; returns (missing names, unexpected names).

        All is checked before anything is changed. strict=True: missing and unexpected names are errors,
        except that an absent `num_batches_tracked` is tolerated (files older than it lack the name). Wrong
        shapes and dtypes that cannot hold the values are errors always. float16 and bfloat16 widen exactly;
        float64 is rounded to a float32 parameter, but a value that would become infinite is an error.

        Raises nn.StateDictError, with every missing, unexpected and misshapen name in one message.
        """
        return load_tensors(type(self).__name__, self._state_tensors(), state, strict)

    # ---- modes -----------------------------------------------------------------------------------

    def train(self, mode: bool = True) -> Self:
        """Training mode here and in all modules below, except batch norms held in eval mode by a freeze."""
        if not isinstance(mode, bool):
            raise TypeError(f"{type(self).__name__}.train: mode must be a bool, got {type(mode).__name__}")
        for module in self.modules():
            module.training = mode and not module._held_in_eval
        return self

    def eval(self) -> Self:
        """Evaluation mode here and below. Gradients are not switched off: that is `no_grad`."""
        return self.train(False)

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Sets requires_grad on every parameter below; a parameter switched off also loses its gradient."""
        for parameter in self.parameters():
            _set_requires_grad(parameter, requires_grad)
        return self

    def freeze(self, bn: Literal["eval", "train"] = "eval") -> Self:
        """No gradients for any parameter below, so the backward graph ends above this module.

        bn="eval" also holds the batch norms below in eval mode: their running statistics stay as they are,
        whatever `train()` is called on this module or a parent, until `unfreeze`. bn="train" lets the
        statistics move.
        """
        _check_bn("freeze", bn)
        self.requires_grad_(False)
        if bn == "eval":
            self.freeze_norms()
        else:
            self._release_norms()
        return self

    def unfreeze(self, bn: Literal["train", "eval"] = "train") -> Self:
        """Undoes `freeze`. bn="eval" keeps (or makes) the batch norms frozen, the rest becomes trainable."""
        _check_bn("unfreeze", bn)
        self.requires_grad_(True)
        if bn == "eval":
            self.freeze_norms()
        else:
            self._release_norms()
        return self

    def freeze_norms(self, affine: bool = True) -> Self:
        """Holds every batch norm below in eval mode; affine=True also freezes their weight and bias."""
        for module in self.modules():
            if module.keeps_statistics:
                module._held_in_eval = True
                module.training = False
                if affine:
                    for _, parameter in module._own_parameters():
                        _set_requires_grad(parameter, False)
        return self

    def _release_norms(self) -> None:
        for module in self.modules():
            if module._held_in_eval:
                module._held_in_eval = False
                module.training = self.training  # on a norm itself: eval until the next train()

    def zero_grad(self) -> None:
        """Drops the gradients of all parameters (sets them to None)."""
        for parameter in self.parameters():
            parameter.grad = None

    def apply(self, function: Callable[[Module], Any]) -> Self:
        """Calls function(module) on every module below, children first, then on this one."""
        for child in self.children():
            child.apply(function)
        function(self)
        return self

    # ---- device and dtype -----------------------------------------------------------------------------------

    def to(self, target: DTypeLike) -> Self:
        """Moves parameters, gradients and buffers in place to a device ("cpu", "cuda", "cuda:1", "emulated"), or
        converts those that are floating to float32 or float64.

        Raises ImportError or DeviceError where the device is not there.
        """
        if devices.is_name(target):
            name = devices.place(str(target)).name
            self._replace_arrays(lambda array: devices.move(array, name))
            return self
        wanted = np.dtype(target)
        if wanted not in (np.dtype(np.float32), np.dtype(np.float64)):
            raise TypeError(f"{type(self).__name__}.to: dtype must be float32 or float64, got {wanted}")
        self._replace_arrays(
            lambda array: array.astype(wanted) if np.issubdtype(array.dtype, np.floating) else array
        )
        return self

    def _replace_arrays(self, change: Callable[[Any], Any]) -> None:
        """Puts change(array) in the place of the array of each parameter, its gradient, and each buffer."""
        for tensor in (*self.parameters(), *self.buffers()):
            array = change(tensor.data)
            if array is tensor.data or (array.dtype == tensor.dtype and type(array) is type(tensor.data)):
                continue
            grad = tensor.grad
            tensor.grad = None
            tensor.data = array
            tensor.mark_changed()
            if grad is not None:
                tensor.grad = Tensor(change(grad.data))

    def cuda(self, index: int = 0) -> Self:
        """Moves it to a graphics card."""
        return self.to(f"cuda:{index}")

    def cpu(self) -> Self:
        """Moves it to main memory."""
        return self.to("cpu")

    def double(self) -> Self:
        return self.to(np.float64)

    def float(self) -> Self:
        return self.to(np.float32)

    # ---- calling ---------------------------------------------------------------------------------

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if mode.witness is not None:
            mode.witness.module(self)
        if mode.deferring:
            output = self.forward(*args, **kwargs)
        else:
            with deferring():
                output = self.forward(*args, **kwargs)
        if self._forward_hooks:
            for hook in list(self._forward_hooks.values()):
                changed = hook(self, args, output)
                output = output if changed is None else changed
        return output

    def register_forward_hook(self, hook: Hook) -> HookHandle:
        """Calls hook(module, args, output) after every forward; what it returns, unless None, replaces the
        output.
        """
        if not callable(hook):
            raise TypeError(f"register_forward_hook: hook must be callable, got {type(hook).__name__}")
        key = self._next_hook
        self._next_hook += 1
        self._forward_hooks[key] = hook
        Module._changes[0] += 1
        return HookHandle(self._forward_hooks, key)

    # ---- text ------------------------------------------------------------------------------------

    def extra_repr(self) -> str:
        """What the representation shows between the brackets: the constructor's arguments."""
        return ""

    def __repr__(self) -> str:
        extra = self.extra_repr()
        lines = [f"({name}): " + repr(child).replace("\n", "\n  ") for name, child in self.named_children()]
        if not lines:
            return f"{type(self).__name__}({extra})"
        head = f"{type(self).__name__}(" + (f"{extra}," if extra else "")
        return head + "\n  " + "\n  ".join(lines) + "\n)"


def _set_requires_grad(parameter: Parameter, requires_grad: bool) -> None:
    parameter.requires_grad_(requires_grad)
    if not requires_grad:
        parameter.grad = None  # a stale gradient would still move it at the next optimizer step


def _check_bn(function: str, bn: str) -> None:
    if bn not in ("eval", "train"):
        raise ValueError(f"{function}: bn must be 'eval' or 'train', got {bn!r}")
