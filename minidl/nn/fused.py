"""Networks for inference: batch norms folded into convolutions, and all that follows in the same kernel.

In eval mode a batch norm is y = scale * x + shift per channel, so that after a convolution it is another
convolution, with weight * scale and bias * scale + shift. ReLU and the addition of a shortcut are done while
the results are still in registers, max pooling while they are in the cache.

:func:`fuse` changes no network's code and needs no pattern to be recognised: it exchanges layers for ones of
the same name and parameters whose results are deferred (:mod:`minidl.ops.deferred`). What a batch norm, ``+``,
``relu`` or max pooling is called with is then a convolution that has not run yet, and joins it. Where a result is used
twice, watched by a hook or differentiated, the layers do one by one what they did before.
"""

from __future__ import annotations

import copy
from typing import Any, NamedTuple, TypeVar

import numpy as np

from minidl import kernels
from minidl.autograd import is_grad_enabled
from minidl.autograd.mode import mode
from minidl.dtypes import as_dtype, is_half
from minidl.kernels import capturing
from minidl.nn.conv import Conv2d
from minidl.nn.linear import Linear
from minidl.nn.module import Module
from minidl.nn.norm import BatchNorm2d
from minidl.nn.pooling import MaxPool2d
from minidl.ops._common import Array, nchw, nhwc
from minidl.ops.conv import Geometry, geometry2d, output_shape
from minidl.ops.deferred import Deferred, Recipe, Step, alone, defer, may_defer
from minidl.ops.pool import MaxWindow, max_window
from minidl.ops.promotion import cast
from minidl.tensor import Tensor

__all__ = ["fuse"]

M = TypeVar("M", bound=Module)


def fuse(model: M, dtype: Any = None) -> M:
    """A copy of a network for inference: the same outputs up to rounding, faster.

    Batch norms that follow a convolution are folded into it, in float64 arithmetic; bias, addition, ReLU and max
    pooling run in the convolution's kernel; weights are brought into the order that kernels read them in once, at the
    first call. Logits differ from the original's by rounding alone: at most 1e-5 of the largest one (tested
    for the ResNets).

    The copy has the same class, names and state dict, and asks for no gradients of its parameters. Loading
    other weights into it, or training it, is possible and right, but not fast.

    With ``dtype="bfloat16"`` convolutions multiply bfloat16 numbers, with float32 sums, and what passes between
    layers is bfloat16: half the memory, and twice as fast where the processor multiplies bfloat16 (AVX512-BF16).
    Parameters stay float32 and are rounded after the batch norm is folded in; layers other than convolutions
    compute in float32. Logits then differ by about 1e-2 of the largest one.

    Args:
        model: any module in eval mode; it stays as it is.
        dtype: None (that of the parameters) or bfloat16.

    Raises:
        TypeError: ``model`` is not a module.
        ValueError: a part of it is in training mode, or ``dtype`` is another one.
        ImportError: bfloat16 is asked for and ``ml_dtypes`` is not installed.
    """
    if not isinstance(model, Module):
        raise TypeError(f"fuse: model must be a Module, got {type(model).__name__}")
    for name, module in model.named_modules():
        if module.training:
            where = f"its {name!r} ({type(module).__name__})" if name else "it"
            raise ValueError(
                f"fuse: model must be in eval mode, but {where} is in training mode; call model.eval() first"
            )
    rounded = None if dtype is None else as_dtype(dtype)
    if rounded is not None and rounded.name != "bfloat16":
        raise ValueError(f"fuse: dtype must be None or bfloat16, got {rounded}")
    fused = copy.deepcopy(model).requires_grad_(False)
    for module in fused.modules():
        kind = _FUSED.get(type(module))
        if kind is not None:
            module.__class__ = kind
        if isinstance(module, FusedConv2d):
            module.compute_dtype = rounded
        elif rounded is not None and kind is None and _has_tensors(module):
            module.__class__ = _in_float32(type(module))
    return fused


def _has_tensors(module: Module) -> bool:
    return any(True for _ in (*module._own_parameters(), *module._own_buffers()))


def _in_float32(kind: type[Module]) -> type[Module]:
    """A layer that takes half-type arguments as float32, because its parameters are."""

    def forward(self: Module, *args: Any, **options: Any) -> Any:
        return kind.forward(
            self, *map(_wide, args), **{name: _wide(value) for name, value in options.items()}
        )

    return type(kind.__name__, (kind,), {"forward": forward, "__module__": kind.__module__})


def _wide(value: Any) -> Any:
    """A half-type tensor as float32, anything else as it is."""
    return cast(value, np.float32) if isinstance(value, Tensor) and is_half(value.dtype) else value


class _Constants(NamedTuple):
    """A weight and bias that do not change, and what the kernels keep of them."""

    stamp: list[tuple[Tensor | None, Any, int]]  # the tensors that they were made from, as they were
    weight: Array
    bias: Array | None
    kept: dict[Any, Any]


def _stamp(sources: tuple[Tensor | None, ...]) -> list[tuple[Tensor | None, Any, int]]:
    return [(None, None, 0) if t is None else (t, t.data, t._version[0]) for t in sources]


def _unchanged(found: _Constants, sources: tuple[Tensor | None, ...]) -> bool:
    for (t, data, version), now in zip(found.stamp, sources, strict=True):
        if now is not t or (t is not None and (t.data is not data or t._version[0] != version)):
            return False
    return True


def _forget(found: _Constants) -> None:
    """Let them be made again."""
    found.stamp[0] = None, None, 0


def _used(found: _Constants, sources: tuple[Tensor | None, ...]) -> _Constants:
    """The constants; a captured step that has them is captured anew when one of their sources has changed."""
    capture = capturing.active()
    if capture is not None:
        capture.hold(found)
        capture.if_it_fails(lambda: _forget(found))  # they, or what is kept of them, may be made in it
        if mode.witness is None:
            capture.depends(lambda: _unchanged(found, sources))
        else:
            mode.witness.tensors(*sources)
    return found


def _recorded(x: Tensor) -> bool:
    return is_grad_enabled() and x.requires_grad


class FusedConv2d(Conv2d):
    """A Conv2d whose result is deferred, with or without the batch norm that follows it.

    compute_dtype: what its operands are rounded to, or None.
    """

    compute_dtype: np.dtype[Any] | None = None

    _laid_out: dict[Any, tuple[Geometry, tuple[int, ...]]]
    _constants: dict[Any, _Constants]

    def forward(self, x: Tensor) -> Tensor:
        data = x.data  # computes what is deferred: chains of layers would be chains of calls
        if self.padding_mode != "zeros" or _recorded(x) or self.weight.requires_grad or not may_defer():
            return super().forward(_wide(x))
        key = data.shape, data.dtype, self.padding, self.stride, self.dilation
        known = self.__dict__.setdefault("_laid_out", {})
        if key not in known:
            if x.ndim != 4 or self.weight.dtype not in (np.float32, np.float64):
                return super().forward(_wide(x))
            options = (self.stride, self.padding, self.dilation, self.groups)
            geometry = geometry2d("conv2d", self.kernel_size, *options)
            known[key] = geometry, output_shape("conv2d", _wide(x), self.weight, self.bias, geometry)
        return defer(_Convolution(self, data, *known[key]))

    def constants(self, norm: BatchNorm2d | None) -> _Constants:
        """Weight and bias with a batch norm folded in, made again when one of their sources has changed."""
        sources: tuple[Tensor | None, ...] = (self.weight, self.bias)
        if norm is not None:
            sources += (norm.weight, norm.bias, norm.running_mean, norm.running_var)
        known = self.__dict__.setdefault("_constants", {})
        found: _Constants | None = known.get(id(norm))
        if found is None or not _unchanged(found, sources):
            weight, bias = self.weight.data, None if self.bias is None else self.bias.data
            if norm is not None:
                weight, bias = _folded(weight, bias, norm)
            if self.compute_dtype is not None:
                weight = kernels.backend(weight).cast(weight, self.compute_dtype)
            found = known[id(norm)] = _Constants(_stamp(sources), nhwc(weight), bias, {})
        return _used(found, sources)

    def run(
        self,
        x: Array,
        geometry: Geometry,
        norm: BatchNorm2d | None,
        residual: Tensor | None,
        relu: bool,
        pool: MaxWindow | None = None,
    ) -> Tensor:
        """[relu](norm(convolution) [+ residual]) by one kernel; with the window of a max pooling, its maxima, of no
        residual."""
        g, constants = geometry, self.constants(norm)
        if self.compute_dtype is not None:
            x = kernels.backend(x).cast(x, self.compute_dtype)
        backend = kernels.backend(x)
        place = nhwc(x), constants.weight, constants.bias, g.stride, g.pad, g.dilation, g.groups
        if pool is not None:
            y = backend.conv2d_max_pool2d(*place, pool, relu=relu, kept=constants.kept)
        else:
            other = None if residual is None else nhwc(residual.data)
            y = backend.conv2d(*place, relu=relu, residual=other, kept=constants.kept)
        return Tensor._wrap(nchw(y))


def _folded(weight: Array, bias: Array | None, norm: BatchNorm2d) -> tuple[Array, Array]:
    """Weight (O, C, KH, KW) and bias (O,) of a convolution and the batch norm after it, by float64
    arithmetic."""
    assert norm.running_mean is not None and norm.running_var is not None
    mean, var = norm.running_mean.data.astype(np.float64), norm.running_var.data.astype(np.float64)
    scale = 1.0 / np.sqrt(var + norm.eps)
    if norm.weight is not None:
        scale = scale * norm.weight.data
    shift = -mean * scale if bias is None else (bias - mean) * scale
    if norm.bias is not None:
        shift = shift + norm.bias.data
    folded = weight * scale.reshape(-1, 1, 1, 1)
    return folded.astype(weight.dtype), shift.astype(weight.dtype)


class _Convolution(Recipe):
    """A convolution."""

    def __init__(self, layer: FusedConv2d, x: Array, geometry: Geometry, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.layer, self.x, self.geometry = layer, x, geometry
        self.shape, self.dtype = shape, layer.compute_dtype or x.dtype

    def finish(self, residual: Tensor | None, relu: bool) -> Tensor:
        return self.layer.run(self.x, self.geometry, None, residual, relu)


class _Folded(Recipe):
    """A deferred convolution and the batch norm after it."""

    def __init__(self, source: Deferred, norm: FusedBatchNorm2d, residual: Tensor | None, relu: bool) -> None:
        super().__init__()
        self.source, self.norm, self.residual, self.relu = source, norm, residual, relu
        self.shape, self.dtype = source.recipe.shape, source.recipe.dtype
        self.open_to_residual, self.open_to_relu = residual is None and not relu, not relu

    def finish(self, residual: Tensor | None, relu: bool) -> Tensor:
        residual, relu = self.residual if residual is None else residual, self.relu or relu
        if alone(self):
            first = self.source.recipe
            assert isinstance(first, _Convolution)
            return first.layer.run(first.x, first.geometry, self.norm, residual, relu)
        y = BatchNorm2d.forward(self.norm, _wide(self.source), _wide(residual), relu)
        return cast(y, self.dtype)


class FusedBatchNorm2d(BatchNorm2d):
    """A BatchNorm2d that is folded into the convolution before it."""

    def forward(self, x: Tensor, residual: Tensor | None = None, relu: bool = False) -> Tensor:
        if type(x) is Deferred and isinstance(x.recipe, _Convolution) and self._foldable(x.recipe, residual):
            return defer(_Folded(x, self, residual, relu))
        return super().forward(_wide(x), None if residual is None else _wide(residual), relu)

    def _foldable(self, before: _Convolution, residual: Tensor | None) -> bool:
        """Whether it is constant and everything fits together."""
        if self.training or self.running_mean is None or is_grad_enabled() is not before.recording:
            return False
        dtype = before.layer.weight.dtype
        for t in (self.weight, self.bias, self.running_mean, self.running_var):
            if t is not None and (t.requires_grad or t.data.dtype != dtype):
                return False
        same = residual is None or (residual.shape == before.shape and residual.dtype == before.dtype)
        return (
            same
            and before.shape[1] == self.num_features
            and not (residual is not None and _recorded(residual))
        )


def _convolution(recipe: Recipe) -> tuple[_Convolution, FusedBatchNorm2d | None, bool] | None:
    """The convolution, the batch norm and whether there is ReLU, of which something deferred consists; None where there
    is more to it, or somebody else may look at a part of it."""
    norm, relu = None, False
    while not isinstance(recipe, _Convolution):
        if not isinstance(recipe, Step | _Folded) or recipe.residual is not None or not alone(recipe):
            return None
        norm, relu = recipe.norm if isinstance(recipe, _Folded) else norm, relu or recipe.relu
        recipe = recipe.source.recipe
    return recipe, norm, relu


class _Pooled(Recipe):
    """The maxima of a deferred convolution."""

    open_to_residual = open_to_relu = False

    def __init__(self, source: Deferred, layer: FusedMaxPool2d, window: MaxWindow) -> None:
        super().__init__()
        self.source, self.layer, self.window = source, layer, window
        self.shape, self.dtype = (*source.shape[:2], *window[-1]), source.dtype

    def finish(self, residual: Tensor | None, relu: bool) -> Tensor:
        whole = _convolution(self.source.recipe) if alone(self) else None
        if whole is None:
            y: Tensor = MaxPool2d.forward(self.layer, self.source)
            return y
        first, norm, relu = whole
        return first.layer.run(first.x, first.geometry, norm, None, relu, self.window)


class FusedMaxPool2d(MaxPool2d):
    """A MaxPool2d that is done in the kernel of the convolution before it."""

    def forward(self, x: Tensor) -> Any:
        options = self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode
        if type(x) is Deferred and may_defer() and not self.return_indices and _convolution(x.recipe):
            return defer(_Pooled(x, self, max_window("max_pool2d", (x.shape[2], x.shape[3]), *options)))
        return super().forward(x)


class FusedLinear(Linear):
    """A Linear whose weight is packed once."""

    def forward(self, x: Tensor) -> Tensor:
        x = _wide(x)
        data, weight, bias = x.data, self.weight.data, self.bias
        fits = data.ndim == 2 and data.shape[1] == self.in_features and data.dtype == weight.dtype
        if (
            not fits
            or _recorded(x)
            or self.weight.requires_grad
            or data.dtype not in (np.float32, np.float64)
        ):
            return super().forward(x)
        known: _Constants | None = self.__dict__.get("_constants")
        sources = (self.weight, bias)
        if known is None or not _unchanged(known, sources):
            row = None if bias is None else bias.data
            known = self._constants = _Constants(_stamp(sources), weight, row, {})
        known = _used(known, sources)
        y = kernels.backend(data).linear(data, known.weight, known.bias, kept=known.kept)
        return Tensor._wrap(y)


_FUSED: dict[type[Module], type[Module]] = {
    Conv2d: FusedConv2d,
    BatchNorm2d: FusedBatchNorm2d,
    MaxPool2d: FusedMaxPool2d,
    Linear: FusedLinear,
}
