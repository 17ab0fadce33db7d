"""Modules that hold modules or parameters, by position ("0", "1", ...) or by name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Self

import numpy as np

from minidl.nn.module import Module
from minidl.tensor import Parameter, Tensor

__all__ = ["ModuleDict", "ModuleList", "ParameterDict", "ParameterList", "Sequential"]


class _Indexed(Module):
    """Children by position."""

    def __len__(self) -> int:
        return sum(1 for _ in self._items())

    def _items(self) -> Iterator[Any]:
        return self.children()

    def __iter__(self) -> Iterator[Any]:
        return self._items()

    def __getitem__(self, index: int | slice) -> Any:
        """The child at a position, negative counted from the end; a slice gives a container of its kind.
        IndexError beyond."""
        if isinstance(index, slice):
            return self._of(list(self)[index])
        return self.__dict__[str(self._position(index))]

    def __setitem__(self, index: int, module: Any) -> None:
        self._put(str(self._position(index)), module)

    def __delitem__(self, index: int | slice) -> None:
        doomed = range(len(self))[index] if isinstance(index, slice) else [self._position(index)]
        self._replace([child for i, child in enumerate(self) if i not in doomed])

    def append(self, module: Any) -> Self:
        """Adds one at the end; returns itself."""
        self._put(str(len(self)), module)
        return self

    def extend(self, modules: Iterable[Any]) -> Self:
        """Adds several at the end; returns itself."""
        for module in modules:
            self.append(module)
        return self

    def insert(self, index: int, module: Any) -> Self:
        """Puts one before a position, as a list does; returns itself."""
        children = list(self)
        children.insert(index, module)
        self._replace(children)
        return self

    def _of(self, children: list[Any]) -> Any:
        return type(self)(children)  # type: ignore[call-arg]

    def _put(self, name: str, module: Any) -> None:
        self.add_module(name, module)

    def _replace(self, children: list[Any]) -> None:
        for i in range(len(self)):
            delattr(self, str(i))
        self.extend(children)

    def _position(self, index: int) -> int:
        if not -len(self) <= index < len(self):
            raise IndexError(f"{type(self).__name__}: index {index} out of range for {len(self)} items")
        return index % len(self)


class Sequential(_Indexed):
    """Runs its modules one after the other; a dict of modules names them."""

    def __init__(self, *modules: Module | Mapping[str, Module]) -> None:
        super().__init__()
        if len(modules) == 1 and isinstance(modules[0], Mapping):
            for name, module in modules[0].items():
                self.add_module(name, module)
            return
        self.extend(modules)

    def __getitem__(self, index: int | slice) -> Any:
        """The module at a position; a slice gives a Sequential of the same modules under the same names."""
        names = [name for name, _ in self.named_children()]
        if isinstance(index, slice):
            return Sequential({name: self.__dict__[name] for name in names[index]})
        return self.__dict__[names[self._position(index)]]

    def __setitem__(self, index: int, module: Module) -> None:
        self.add_module([name for name, _ in self.named_children()][self._position(index)], module)

    def _replace(self, children: list[Any]) -> None:
        for name in [name for name, _ in self.named_children()]:
            delattr(self, name)
        self.extend(children)

    def forward(self, x: Any) -> Any:
        for module in self:
            x = module(x)
        return x


class ModuleList(_Indexed):
    """A list of modules whose parameters are found; calling it is an error, its owner calls the items."""

    def __init__(self, modules: Iterable[Module] = ()) -> None:
        super().__init__()
        self.extend(modules)

    def forward(self, *args: Any) -> Any:
        raise TypeError("ModuleList: a list of modules cannot be called; iterate over it, or use Sequential")

    def __repr__(self) -> str:
        """One line for each run of equal modules."""
        runs: list[tuple[str, int]] = []
        for text in map(repr, self):
            if runs and runs[-1][0] == text:
                runs[-1] = (text, runs[-1][1] + 1)
            else:
                runs.append((text, 1))
        lines, at = [], 0
        for text, count in runs:
            place = f"({at}): " if count == 1 else f"({at}-{at + count - 1}): {count} x "
            lines.append("  " + (place + text).replace("\n", "\n  "))
            at += count
        return "\n".join(["ModuleList(", *lines, ")"]) if lines else "ModuleList()"


class ParameterList(_Indexed):
    """A list of parameters; tensors and arrays become parameters."""

    def __init__(self, values: Iterable[Any] = ()) -> None:
        super().__init__()
        self.extend(values)

    def _items(self) -> Iterator[Any]:
        return (parameter for _, parameter in self._own_parameters())

    def _put(self, name: str, module: Any) -> None:
        setattr(self, name, _as_parameter(module))

    def forward(self, *args: Any) -> Any:
        raise TypeError("ParameterList: a list of parameters cannot be called")

    def __repr__(self) -> str:
        return _list_parameters(self)


class _Named(Module):
    """Items by name, in insertion order."""

    def __init__(self, items: Mapping[str, Any] | Iterable[tuple[str, Any]] = ()) -> None:
        super().__init__()
        self.update(items)

    def _pairs(self) -> Iterator[tuple[str, Any]]:
        return self.named_children()

    def _put(self, name: str, value: Any) -> None:
        self.add_module(name, value)

    def __len__(self) -> int:
        return sum(1 for _ in self._pairs())

    def __iter__(self) -> Iterator[str]:
        return self.keys()

    def __contains__(self, name: object) -> bool:
        return name in list(self.keys())

    def __getitem__(self, name: str) -> Any:
        for key, value in self._pairs():
            if key == name:
                return value
        raise KeyError(
            f"{type(self).__name__}: no item {name!r}; there are {', '.join(self.keys()) or 'none'}"
        )

    def __setitem__(self, name: str, value: Any) -> None:
        if hasattr(type(self), name):
            raise KeyError(f"{type(self).__name__}: name {name!r} is a method of the container")
        self._put(name, value)

    def __delitem__(self, name: str) -> None:
        self[name]
        delattr(self, name)

    def keys(self) -> Iterator[str]:
        """The names."""
        return (name for name, _ in self._pairs())

    def values(self) -> Iterator[Any]:
        """The items."""
        return (value for _, value in self._pairs())

    def items(self) -> Iterator[tuple[str, Any]]:
        """(name, item)."""
        return self._pairs()

    def pop(self, name: str) -> Any:
        """Takes an item out."""
        value = self[name]
        del self[name]
        return value

    def clear(self) -> None:
        """Takes all items out."""
        for name in list(self.keys()):
            delattr(self, name)

    def update(self, items: Mapping[str, Any] | Iterable[tuple[str, Any]]) -> None:
        """Adds or replaces items."""
        for name, value in items.items() if isinstance(items, Mapping) else items:
            self[name] = value


class ModuleDict(_Named):
    """Modules by name; calling it is an error, its owner calls the items."""

    def forward(self, *args: Any) -> Any:
        raise TypeError("ModuleDict: a dict of modules cannot be called; call one of its items")


class ParameterDict(_Named):
    """Parameters by name; tensors and arrays become parameters."""

    def _pairs(self) -> Iterator[tuple[str, Any]]:
        return self._own_parameters()

    def _put(self, name: str, value: Any) -> None:
        setattr(self, name, _as_parameter(value))

    def forward(self, *args: Any) -> Any:
        raise TypeError("ParameterDict: a dict of parameters cannot be called")

    def __repr__(self) -> str:
        return _list_parameters(self)


def _as_parameter(value: Any) -> Parameter:
    if isinstance(value, Parameter):
        return value
    if isinstance(value, Tensor | np.ndarray):
        return Parameter(value)
    raise TypeError(f"a parameter must be a Tensor or array, got {type(value).__name__}")


def _list_parameters(module: Module) -> str:
    lines = [
        f"  ({name}): Parameter containing: [{p.dtype} of size {'x'.join(map(str, p.shape))}]"
        for name, p in module._own_parameters()
    ]
    return "\n".join([f"{type(module).__name__}(", *lines, ")"]) if lines else f"{type(module).__name__}()"
