"""Pooling of signals (N, C, L) and images (N, C, H, W); the batch dimension may be missing."""

from __future__ import annotations

from typing import Any, ClassVar

from minidl.nn import functional as F
from minidl.nn._checks import IntPair, IntSingle, integer, pair, single
from minidl.nn.module import Module
from minidl.tensor import Tensor

__all__ = [
    "AdaptiveAvgPool1d",
    "AdaptiveAvgPool2d",
    "AdaptiveMaxPool1d",
    "AdaptiveMaxPool2d",
    "AvgPool1d",
    "AvgPool2d",
    "MaxPool1d",
    "MaxPool2d",
    "MaxUnpool1d",
    "MaxUnpool2d",
]


def _shown(value: tuple[int, ...]) -> str:
    return str(value[0] if len(set(value)) == 1 else value)


class _Pool(Module):
    """A window, a stride (default: the window) and padding."""

    axes: ClassVar[int] = 2

    def __init__(self, kernel_size: Any, stride: Any, padding: Any) -> None:
        super().__init__()
        name, sizes = type(self).__name__, self._sizes()
        self.kernel_size = sizes(f"{name}: kernel_size", kernel_size, 1)
        self.stride = self.kernel_size if stride is None else sizes(f"{name}: stride", stride, 1)
        self.padding = sizes(f"{name}: padding", padding, 0)
        if any(2 * p > k for p, k in zip(self.padding, self.kernel_size, strict=True)):
            raise ValueError(
                f"{name}: padding {self.padding} must be at most half of kernel_size {self.kernel_size}"
            )

    def _sizes(self) -> Any:
        return pair if self.axes == 2 else single

    def extra_repr(self) -> str:
        return (
            f"kernel_size={_shown(self.kernel_size)}, stride={_shown(self.stride)}, "
            f"padding={_shown(self.padding)}"
        )


class MaxPool2d(_Pool):
    """Maximum of each window; the padding never wins (it counts as minus infinity).

    ceil_mode=True keeps a last window that starts inside the input or its left padding but ends beyond it.
    return_indices=True returns (maxima, indices), see :func:`minidl.nn.functional.max_pool2d`.
    """

    def __init__(
        self,
        kernel_size: IntPair,
        stride: IntPair | None = None,
        padding: IntPair = 0,
        dilation: IntPair = 1,
        return_indices: bool = False,
        ceil_mode: bool = False,
    ) -> None:
        super().__init__(kernel_size, stride, padding)
        self.dilation = self._sizes()(f"{type(self).__name__}: dilation", dilation, 1)
        self.return_indices, self.ceil_mode = bool(return_indices), bool(ceil_mode)

    def forward(self, x: Tensor) -> Any:
        pool: Any = F.max_pool2d if self.axes == 2 else F.max_pool1d
        return pool(
            x,
            self.kernel_size,
            self.stride,
            self.padding,
            self.dilation,
            self.ceil_mode,
            return_indices=self.return_indices,
        )

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, dilation={_shown(self.dilation)}, ceil_mode={self.ceil_mode}"


class MaxPool1d(MaxPool2d):
    """Maximum of each window of (N, C, L); arguments as :class:`MaxPool2d`'s, each an int."""

    axes = 1

    def __init__(
        self,
        kernel_size: IntSingle,
        stride: IntSingle | None = None,
        padding: IntSingle = 0,
        dilation: IntSingle = 1,
        return_indices: bool = False,
        ceil_mode: bool = False,
    ) -> None:
        super().__init__(
            kernel_size,  # type: ignore[arg-type]
            stride,  # type: ignore[arg-type]
            padding,  # type: ignore[arg-type]
            dilation,  # type: ignore[arg-type]
            return_indices,
            ceil_mode,
        )


class AvgPool2d(_Pool):
    """Mean of each window; count_include_pad=False leaves the padding out of the divisor, divisor_override
    replaces it."""

    def __init__(
        self,
        kernel_size: IntPair,
        stride: IntPair | None = None,
        padding: IntPair = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> None:
        super().__init__(kernel_size, stride, padding)
        self.ceil_mode = bool(ceil_mode)
        self.count_include_pad = bool(count_include_pad)
        self.divisor_override = (
            None if divisor_override is None else integer("AvgPool2d: divisor_override", divisor_override, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(
            x,
            self.kernel_size,
            self.stride,
            self.padding,
            self.ceil_mode,
            self.count_include_pad,
            self.divisor_override,
        )


class AvgPool1d(_Pool):
    """Mean of each window of (N, C, L); arguments as :class:`AvgPool2d`'s, each an int."""

    axes = 1

    def __init__(
        self,
        kernel_size: IntSingle,
        stride: IntSingle | None = None,
        padding: IntSingle = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
    ) -> None:
        super().__init__(kernel_size, stride, padding)
        self.ceil_mode = bool(ceil_mode)
        self.count_include_pad = bool(count_include_pad)

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool1d(
            x, self.kernel_size, self.stride, self.padding, self.ceil_mode, self.count_include_pad
        )

    def extra_repr(self) -> str:  # the sizes as PyTorch shows them here
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class _AdaptivePool(Module):
    """Windows chosen so that the output is output_size."""

    axes: ClassVar[int] = 2

    def __init__(self, output_size: Any) -> None:
        super().__init__()
        where = f"{type(self).__name__}: output_size"
        if self.axes == 1:
            self.output_size: Any = single(where, output_size, 1)[0]
            return
        both = output_size if isinstance(output_size, tuple | list) else (output_size, output_size)
        if len(both) != 2:
            raise ValueError(f"{where} must be an int or a pair of ints, got {output_size!r}")
        checked = tuple(None if n is None else integer(where, n, 1) for n in both)
        self.output_size = checked if isinstance(output_size, tuple | list) else checked[0]

    def _pair(self) -> Any:
        return self.output_size if isinstance(self.output_size, tuple) else (self.output_size,) * 2

    def extra_repr(self) -> str:
        return f"output_size={self.output_size}"


class AdaptiveAvgPool2d(_AdaptivePool):
    """Mean over windows chosen so that the output is output_size, an int or (height, width); None keeps a
    side."""

    def forward(self, x: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(x, self._pair())


class AdaptiveAvgPool1d(_AdaptivePool):
    """Mean over windows chosen so that the output has output_size elements."""

    axes = 1

    def forward(self, x: Tensor) -> Tensor:
        return F.adaptive_avg_pool1d(x, self.output_size)


class AdaptiveMaxPool2d(_AdaptivePool):
    """Maximum over windows chosen so that the output is output_size; return_indices=True returns
    (maxima, indices)."""

    def __init__(self, output_size: Any, return_indices: bool = False) -> None:
        super().__init__(output_size)
        self.return_indices = bool(return_indices)

    def forward(self, x: Tensor) -> Any:
        return F.adaptive_max_pool2d(x, self._pair(), self.return_indices)


class AdaptiveMaxPool1d(AdaptiveMaxPool2d):
    """Maximum over windows chosen so that the output has output_size elements."""

    axes = 1

    def forward(self, x: Tensor) -> Any:
        return F.adaptive_max_pool1d(x, self.output_size, self.return_indices)


class _MaxUnpool(_Pool):
    def forward(self, x: Tensor, indices: Tensor, output_size: Any = None) -> Tensor:
        unpool: Any = F.max_unpool2d if self.axes == 2 else F.max_unpool1d
        result: Tensor = unpool(x, indices, self.kernel_size, self.stride, self.padding, output_size)
        return result

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class MaxUnpool2d(_MaxUnpool):
    """Puts maxima back where they were: `forward(x, indices, output_size=None)`, see
    :func:`minidl.nn.functional.max_unpool2d`."""

    def __init__(self, kernel_size: IntPair, stride: IntPair | None = None, padding: IntPair = 0) -> None:
        super().__init__(kernel_size, stride, padding)


class MaxUnpool1d(_MaxUnpool):
    """Puts maxima of signals back where they were: `forward(x, indices, output_size=None)`."""

    axes = 1

    def __init__(
        self, kernel_size: IntSingle, stride: IntSingle | None = None, padding: IntSingle = 0
    ) -> None:
        super().__init__(kernel_size, stride, padding)
