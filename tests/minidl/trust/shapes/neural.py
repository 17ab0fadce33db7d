"""Convolutions, windows, pooling, resizing, normalisation, attention: random kernels, strides, paddings, dilations and
groups. Their values are compared between the back ends; the naive sums here are a third opinion on convolutions."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

import minidl.nn.functional as F
from minidl import Tensor
from tests.minidl.trust.shapes.draws import Case, Draw, strategy


def _window(d: Draw, axes: int) -> dict[str, Any]:
    """Kernel, stride, padding and dilation along each axis."""
    return {
        "kernel": tuple(d.int(1, 3) for _ in range(axes)),
        "stride": tuple(d.int(1, 3) for _ in range(axes)),
        "padding": tuple(d.int(0, 2) for _ in range(axes)),
        "dilation": tuple(d.int(1, 2) for _ in range(axes)),
    }


def _fitting(d: Draw, w: dict[str, Any]) -> tuple[int, ...]:
    """Sizes that hold at least one window."""
    return tuple(
        max(1, k_d * (k - 1) + 1 - 2 * p) + d.int(0, 4)
        for k, p, k_d in zip(w["kernel"], w["padding"], w["dilation"], strict=True)
    )


def _naive_conv(w: dict[str, Any], groups: int) -> Any:
    """The sum that defines a convolution, window by window."""

    def exact(x: np.ndarray, weight: np.ndarray, *bias: np.ndarray) -> np.ndarray:
        axes = len(w["kernel"])
        padded = np.pad(x, [(0, 0), (0, 0), *[(p, p) for p in w["padding"]]])
        sizes = [
            (n - k_d * (k - 1) - 1) // s + 1
            for n, k, s, k_d in zip(padded.shape[2:], w["kernel"], w["stride"], w["dilation"], strict=True)
        ]
        outputs, each = weight.shape[0], weight.shape[1]
        y = np.zeros((x.shape[0], outputs, *sizes))
        for o, at in itertools.product(range(outputs), np.ndindex(*sizes)):
            g = o // (outputs // groups)
            window = tuple(
                slice(i * s, i * s + k_d * (k - 1) + 1, k_d)
                for i, s, k, k_d in zip(at, w["stride"], w["kernel"], w["dilation"], strict=True)
            )
            part = padded[(slice(None), slice(g * each, (g + 1) * each), *window)]
            y[(slice(None), o, *at)] = (part * weight[o]).sum(tuple(range(1, axes + 2)))
        return y + bias[0].reshape(-1, *[1] * axes) if bias else y

    return exact


@strategy("conv1d", "conv2d")
def conv(d: Draw, name: str) -> Case:
    axes = int(name[4])
    w, groups = _window(d, axes), d.int(1, 3)
    each, outputs, n = d.int(1, 3), d.int(1, 2) * groups, d.int(0, 2)
    shapes = [(n, each * groups, *_fitting(d, w)), (outputs, each, *w["kernel"])]
    if d.flag():
        shapes.append((outputs,))
    options = {"stride": w["stride"], "padding": w["padding"], "dilation": w["dilation"], "groups": groups}
    return Case(
        lambda *xs: getattr(F, name)(*xs, **options),
        [d.normal(s) for s in shapes],
        _naive_conv(w, groups),
    )


@strategy("conv_transpose1d", "conv_transpose2d")
def conv_transpose(d: Draw, name: str) -> Case:
    axes = int(name[-2])
    w, groups = _window(d, axes), d.int(1, 3)
    each, inputs, n = d.int(1, 2), d.int(1, 2) * groups, d.int(1, 2)
    extra = tuple(d.int(0, max(s, k_d) - 1) for s, k_d in zip(w["stride"], w["dilation"], strict=True))
    sizes = [
        1 + max(0, -((k_d * (k - 1) + e + 1 - 2 * p - 1) // s)) + d.int(0, 2)
        for k, s, p, k_d, e in zip(w["kernel"], w["stride"], w["padding"], w["dilation"], extra, strict=True)
    ]
    shapes = [(n, inputs, *sizes), (inputs, each, *w["kernel"])]
    if d.flag():
        shapes.append((each * groups,))
    options = {k: w[k] for k in ("stride", "padding", "dilation")} | {
        "groups": groups,
        "output_padding": extra,
    }
    return Case(lambda *xs: getattr(F, name)(*xs, **options), [d.normal(s) for s in shapes])


@strategy("unfold", "fold")
def unfold(d: Draw, name: str) -> Case:
    w = _window(d, 2)
    h, width = _fitting(d, w)
    c, lead = d.int(1, 2), d.pick((), (1,), (2,))
    options = {k: w[k] for k in ("stride", "padding", "dilation")}
    image = d.normal((*lead, c, h, width))
    if name == "unfold":
        return Case(lambda x: F.unfold(x, w["kernel"], **options), [image])
    columns = F.unfold(Tensor(image), w["kernel"], **options).shape
    return Case(lambda x: F.fold(x, (h, width), w["kernel"], **options), [d.normal(columns)])


def _pool_options(d: Draw, axes: int) -> tuple[dict[str, Any], tuple[int, ...]]:
    w = _window(d, axes)
    w["padding"] = tuple(d.int(0, k // 2) for k in w["kernel"])
    # at least as many pixels as the dilation: no window covers padding only, which is an error
    return w, tuple(max(n, k_d) for n, k_d in zip(_fitting(d, w), w["dilation"], strict=True))


@strategy("max_pool1d", "max_pool2d", "max_unpool1d", "max_unpool2d")
def max_pool(d: Draw, name: str) -> Case:
    axes = int(name[-2])
    w, sizes = _pool_options(d, axes)
    lead = (d.int(1, 2), d.int(1, 3)) if d.flag() else (d.int(1, 3),)
    if "unpool" in name:
        kernel = tuple(d.int(1, 3) for _ in range(axes))
        sizes = tuple(n + k for n, k in zip(sizes, kernel, strict=True))
        pool = getattr(F, name.replace("unpool", "pool"))

        def run(x: Any) -> Any:
            y, index = pool(x, kernel, return_indices=True)
            return getattr(F, name)(y, index, kernel, output_size=sizes)

        return Case(run, [d.distinct((*lead, *sizes))])
    ceil = d.flag()
    return Case(
        lambda x: getattr(F, name)(x, w["kernel"], w["stride"], w["padding"], w["dilation"], ceil),
        [d.distinct((*lead, *sizes))],
    )


@strategy("avg_pool1d", "avg_pool2d")
def avg_pool(d: Draw, name: str) -> Case:
    axes = int(name[-2])
    w, sizes = _pool_options(d, axes)
    lead = (d.int(0, 2), d.int(1, 3)) if d.flag() else (d.int(1, 3),)
    options: dict[str, Any] = {"ceil_mode": d.flag(), "count_include_pad": d.flag()}
    if axes == 2 and d.flag():
        options["divisor_override"] = d.int(1, 5)
    return Case(
        lambda x: getattr(F, name)(x, w["kernel"], w["stride"], w["padding"], **options),
        [d.normal((*lead, *sizes))],
    )


@strategy("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_max_pool1d", "adaptive_max_pool2d")
def adaptive_pool(d: Draw, name: str) -> Case:
    axes = int(name[-2])
    lead = (d.int(1, 2), d.int(1, 3)) if d.flag() else (d.int(1, 3),)
    shape = (*lead, *[d.int(1, 6) for _ in range(axes)])
    out = tuple(d.int(1, 7) for _ in range(axes))

    def exact(x: np.ndarray) -> np.ndarray:
        y = np.zeros((*lead, *out))
        for at in np.ndindex(*out):
            part = tuple(
                slice(i * n // o, -(-(i + 1) * n // o))
                for i, n, o in zip(at, x.shape[-axes:], out, strict=True)
            )
            cell = x[(..., *part)]
            over = tuple(range(-axes, 0))
            y[(..., *at)] = cell.mean(over) if "avg" in name else cell.max(over)
        return y

    numbers = d.normal(shape) if "avg" in name else d.distinct(shape)
    return Case(lambda x: getattr(F, name)(x, out if axes > 1 else out[0]), [numbers], exact)


@strategy("interpolate")
def interpolate(d: Draw, name: str) -> Case:
    axes = d.int(1, 2)
    lead = (d.int(1, 2), d.int(1, 2))
    shape = (*lead, *[d.int(1, 5) for _ in range(axes)])
    modes = ["nearest", "nearest-exact", "area", "linear" if axes == 1 else "bilinear"]
    mode = d.pick(*modes, *(["bicubic"] if axes == 2 else []))
    options: dict[str, Any] = {"mode": mode}
    if mode in ("linear", "bilinear", "bicubic"):
        options["align_corners"] = d.flag()
    if mode in ("bilinear", "bicubic"):
        options["antialias"] = d.flag()
    if d.flag():
        options["size"] = tuple(d.int(1, 7) for _ in range(axes))
    else:
        options["scale_factor"] = tuple(d.pick(1.0, 1.7, 2.0, 3.0) for _ in range(axes))
    return Case(lambda x: F.interpolate(x, **options), [d.normal(shape)])


# --- normalisation ----------------------------------------------------------------------------------------------


@strategy("batch_norm")
def batch_norm(d: Draw, name: str) -> Case:
    """With and without weight, residual and ReLU, by the batch's and by given statistics."""
    shape = (d.int(2, 4), d.int(1, 4), *[d.int(1, 3) for _ in range(d.int(0, 2))])
    c = shape[1]
    training, affine, residual, relu = d.flag(), d.flag(), d.flag(), d.flag()
    mean, var = d.normal((c,)), d.uniform((c,), 0.5, 2)
    arrays = [d.normal(shape)]
    if affine:
        arrays += [d.uniform((c,), 0.5, 1.5), d.normal((c,))]

    def apply(x: np.ndarray, *rest: np.ndarray) -> np.ndarray:
        over = (0, *range(2, len(shape)))
        channel = (1, c, *[1] * (len(shape) - 2))
        m, v = (x.mean(over), x.var(over)) if training else (mean, var)
        y = (x - m.reshape(channel)) / np.sqrt(v.reshape(channel) + 0.1)
        if affine:
            y = y * rest[0].reshape(channel) + rest[1].reshape(channel)
        if residual:
            y = y + rest[-1]
        return np.maximum(y, 0) if relu else y

    if residual:
        arrays.append(d.normal(shape))
    if relu:  # no output near the kink: the residual lifts or lowers what is close, or there is no ReLU
        kept, relu = relu, False
        y = apply(*arrays)
        if residual:
            arrays[-1] = arrays[-1] + np.where(np.abs(y) < 0.05, 0.1, 0)
            relu = kept
        else:
            relu = bool((np.abs(y) > 0.05).all())

    def run(x: Any, *rest: Any) -> Any:
        w, b = rest[:2] if affine else (None, None)
        r = rest[-1] if residual else None
        stats = (None, None) if training else (Tensor(mean), Tensor(var))
        return F.batch_norm(x, *stats, w, b, training, eps=0.1, residual=r, relu=relu)

    return Case(run, arrays, apply)


@strategy("layer_norm", "group_norm", "instance_norm")
def norms(d: Draw, name: str) -> Case:
    groups = d.int(1, 3)
    shape = (d.int(1, 3), groups * d.int(1, 2), *[d.int(2, 3) for _ in range(d.int(1, 2))])
    last = d.int(1, len(shape))
    sizes = shape[-last:] if name == "layer_norm" else (shape[1],)
    if name == "layer_norm" and np.prod(sizes) == 1:
        sizes = shape[-1:]
    arrays = [d.normal(shape)]
    if d.flag():
        arrays += [d.normal(sizes), d.normal(sizes)]

    def run(x: Any, w: Any = None, b: Any = None) -> Any:
        if name == "layer_norm":
            return F.layer_norm(x, sizes, w, b, 0.1)
        if name == "group_norm":
            return F.group_norm(x, groups, w, b, 0.1)
        return F.instance_norm(x, weight=w, bias=b, eps=0.1)

    def exact(x: np.ndarray, *affine: np.ndarray) -> np.ndarray:
        if name == "layer_norm":
            flat, over = x, tuple(range(x.ndim - len(sizes), x.ndim))
        else:
            g = groups if name == "group_norm" else shape[1]
            flat, over = x.reshape(shape[0], g, -1), (2,)
        y = (flat - flat.mean(over, keepdims=True)) / np.sqrt(flat.var(over, keepdims=True) + 0.1)
        y = y.reshape(shape)
        if affine:
            wide = sizes if name == "layer_norm" else (shape[1], *[1] * (len(shape) - 2))
            y = y * affine[0].reshape(wide) + affine[1].reshape(wide)
        return y

    return Case(run, arrays, exact)


@strategy("scaled_dot_product_attention")
def attention(d: Draw, name: str) -> Case:
    lead = d.shape(0, 2, 1, 2)
    queries, keys, width, values = d.int(1, 4), d.int(1, 4), d.int(1, 4), d.int(1, 3)
    kind = d.pick("plain", "causal", "bool", "float")
    mask = {
        "bool": d.mask((queries, keys)),
        "float": d.normal((queries, keys)),
    }.get(kind)

    def exact(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
        scores = q @ k.swapaxes(-1, -2) / np.sqrt(width)
        if kind == "float":
            scores = scores + mask
        seen = np.ones((queries, keys), bool)
        if kind == "causal":
            seen = np.tril(seen)
        elif kind == "bool":
            seen = np.asarray(mask)
        e = np.exp(scores) * seen
        total = e.sum(-1, keepdims=True)
        return (e / np.where(total == 0, 1, total)) @ v

    return Case(
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, mask, is_causal=kind == "causal"),
        [
            d.normal((*lead, queries, width)),
            d.normal((*lead, keys, width)),
            d.normal((*lead, keys, values)),
        ],
        exact,
    )
