"""Modules that hold a sequence of modules, named "0", "1", ..."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from minidl.nn.module import Module

__all__ = ["ModuleList", "Sequential"]


class _Indexed(Module):
    """Children by position."""

    def __len__(self) -> int:
        return sum(1 for _ in self.named_children())

    def __iter__(self) -> Iterator[Module]:
        return self.children()

    def __getitem__(self, index: int) -> Any:
        """The child at a position, negative counted from the end; IndexError beyond."""
        return self.__dict__[str(self._position(index))]

    def __setitem__(self, index: int, module: Module) -> None:
        self.add_module(str(self._position(index)), module)

    def append(self, module: Module) -> None:
        self.add_module(str(len(self)), module)

    def _position(self, index: int) -> int:
        if not -len(self) <= index < len(self):
            raise IndexError(f"{type(self).__name__}: index {index} out of range for {len(self)} modules")
        return index % len(self)


class Sequential(_Indexed):
    """Runs its modules one after the other."""

    def __init__(self, *modules: Module) -> None:
        super().__init__()
        for module in modules:
            self.append(module)

    def forward(self, x: Any) -> Any:
        for module in self:
            x = module(x)
        return x


class ModuleList(_Indexed):
    """A list of modules whose parameters are found; calling it is an error, its owner calls the items."""

    def __init__(self, modules: Iterable[Module] = ()) -> None:
        super().__init__()
        for module in modules:
            self.append(module)

    def forward(self, *args: Any) -> Any:
        raise TypeError("ModuleList: a list of modules cannot be called; iterate over it, or use Sequential")
