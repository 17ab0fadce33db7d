"""Convolutions, windows, pooling, resizing, normalisation, embedding, attention."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from minidl.testing.cases.entry import Entry, ints

IMG = (2, 4, 6, 5)
SIG = (2, 4, 9)
WORDS = np.array([[3, 0, 3], [1, 5, 3]])
SEEN = np.random.default_rng(5).random((2, 1, 4, 5)) > 0.4
SEEN[1, 0, 2] = False  # a query that sees no key
SCORES = np.random.default_rng(6).standard_normal((4, 5))


def _call(name: str, **options: Any) -> Callable[..., Any]:
    """F.name(*inputs, **options)."""
    return lambda m, F, *inputs: getattr(F, name)(*inputs, **options)


def _unpool(m: Any, F: Any, x: Any) -> Any:
    y, index = F.max_pool2d(x, 2, return_indices=True)
    return F.max_unpool2d(y, index, 2, output_size=(6, 5))


def _unpool_signal(m: Any, F: Any, x: Any) -> Any:
    y, index = F.max_pool1d(x, 2, return_indices=True)
    return F.max_unpool1d(y, index, 2, output_size=(9,))


def _instance_norm_eval(m: Any, F: Any, x: Any, w: Any, b: Any) -> Any:
    mean, var = m.tensor(np.linspace(-0.5, 0.5, 4)), m.tensor(np.linspace(0.5, 2.0, 4))
    mean, var = (t.to(x.dtype) for t in (mean, var))
    return F.instance_norm(x, mean, var, w, b, use_input_stats=False)


def _asymmetric(m: Any, F: Any, x: Any, w: Any) -> Any:
    if m.__name__ == "minidl":
        return F.conv1d(x, w, padding=((1, 3),))
    return F.conv1d(F.pad(x, (1, 3)), w)


def _cropped_transpose(m: Any, F: Any, x: Any, w: Any) -> Any:
    if m.__name__ == "minidl":
        return F.conv_transpose2d(x, w, stride=2, padding=((0, 2), (1, 0)))
    return F.conv_transpose2d(x, w, stride=2)[:, :, :-2, 1:]


def _attention(**options: Any) -> Callable[..., Any]:
    return lambda m, F, q, k, v: F.scaled_dot_product_attention(q, k, v, **options)


QKV = ((2, 3, 4, 6), (2, 3, 5, 6), (2, 3, 5, 2))
T_WEIGHT = (4, 3, 3, 3)

TABLE = [
    Entry("conv1d", _call("conv1d"), (SIG, (3, 4, 3), (3,))),
    Entry("conv1d_stride", _call("conv1d", stride=2, padding=1), (SIG, (3, 4, 3), (3,))),
    Entry("conv1d_dilation_groups", _call("conv1d", dilation=2, groups=2), (SIG, (6, 2, 3), (6,))),
    Entry("conv1d_same", _call("conv1d", padding="same"), (SIG, (3, 4, 4), (3,))),
    Entry("conv1d_one_signal", _call("conv1d", padding=1), ((4, 9), (3, 4, 3))),
    Entry("conv1d_asymmetric_padding", _asymmetric, (SIG, (3, 4, 3))),
    Entry("conv2d_one_image", _call("conv2d", padding=1), ((4, 6, 5), (3, 4, 3, 3), (3,))),
    Entry("conv_transpose2d", _call("conv_transpose2d"), (IMG, T_WEIGHT, (3,))),
    Entry(
        "conv_transpose2d_stride",
        _call("conv_transpose2d", stride=2, padding=1, output_padding=1),
        (IMG, T_WEIGHT, (3,)),
    ),
    Entry(
        "conv_transpose2d_rectangular",
        _call("conv_transpose2d", stride=(1, 3), padding=(2, 0), output_padding=(0, 2)),
        (IMG, (4, 3, 5, 2), (3,)),
    ),
    Entry(
        "conv_transpose2d_dilation",
        _call("conv_transpose2d", dilation=(2, 3), output_padding=(1, 2), padding=1),
        (IMG, T_WEIGHT, (3,)),
    ),
    Entry(
        "conv_transpose2d_output_padding_beyond_reach",
        _call("conv_transpose2d", dilation=2, output_padding=1),
        (IMG, T_WEIGHT, (3,)),
    ),
    Entry(
        "conv_transpose2d_groups", _call("conv_transpose2d", groups=2, stride=2), (IMG, (4, 3, 2, 2), (6,))
    ),
    Entry("conv_transpose2d_depthwise", _call("conv_transpose2d", groups=4, padding=1), (IMG, (4, 1, 3, 3))),
    Entry("conv_transpose2d_one_image", _call("conv_transpose2d"), ((4, 3, 2), T_WEIGHT, (3,))),
    Entry("conv_transpose2d_asymmetric_padding", _cropped_transpose, (IMG, T_WEIGHT)),
    Entry("conv_transpose1d", _call("conv_transpose1d"), (SIG, (4, 3, 3), (3,))),
    Entry(
        "conv_transpose1d_options",
        _call("conv_transpose1d", stride=3, padding=1, output_padding=2, groups=2, dilation=2),
        (SIG, (4, 3, 3), (6,)),
    ),
    Entry("unfold", _call("unfold", kernel_size=(2, 3)), (IMG,)),
    Entry(
        "unfold_options",
        _call("unfold", kernel_size=3, dilation=(1, 2), padding=(1, 2), stride=(2, 1)),
        (IMG,),
    ),
    Entry("unfold_one_image", _call("unfold", kernel_size=2, stride=2), ((4, 6, 5),)),
    Entry("fold", _call("fold", output_size=(6, 5), kernel_size=(2, 3)), ((2, 12, 15),)),
    Entry(
        "fold_options",
        _call("fold", output_size=(6, 5), kernel_size=3, dilation=(1, 2), padding=(1, 2), stride=(2, 1)),
        ((2, 18, 15),),
    ),
    Entry("fold_one_image", _call("fold", output_size=(4, 4), kernel_size=2, stride=2), ((8, 4),)),
    Entry("max_pool1d", _call("max_pool1d", kernel_size=3, stride=2, padding=1), (SIG,), spread=True),
    Entry("max_pool1d_ceil", _call("max_pool1d", kernel_size=2, ceil_mode=True), (SIG,), spread=True),
    Entry("max_pool1d_dilation", _call("max_pool1d", kernel_size=3, dilation=2), ((4, 9),), spread=True),
    Entry("max_pool2d_one_image", _call("max_pool2d", kernel_size=2), ((4, 6, 5),), spread=True),
    Entry("max_unpool2d", _unpool, (IMG,), spread=True),
    Entry("max_unpool1d", _unpool_signal, (SIG,), spread=True),
    Entry("avg_pool1d", _call("avg_pool1d", kernel_size=3, stride=2, padding=1), (SIG,)),
    Entry(
        "avg_pool1d_options",
        _call("avg_pool1d", kernel_size=2, ceil_mode=True, padding=1, count_include_pad=False),
        (SIG,),
    ),
    Entry("avg_pool2d_divisor", _call("avg_pool2d", kernel_size=3, divisor_override=5), (IMG,)),
    Entry(
        "avg_pool2d_divisor_ceil",
        _call("avg_pool2d", kernel_size=(3, 2), stride=2, padding=1, ceil_mode=True, divisor_override=4),
        (IMG,),
    ),
    Entry("adaptive_avg_pool1d", _call("adaptive_avg_pool1d", output_size=4), (SIG,)),
    Entry("adaptive_max_pool1d", _call("adaptive_max_pool1d", output_size=4), (SIG,), spread=True),
    Entry("adaptive_max_pool2d", _call("adaptive_max_pool2d", output_size=(4, 3)), (IMG,), spread=True),
    Entry(
        "adaptive_max_pool2d_even", _call("adaptive_max_pool2d", output_size=(3, None)), (IMG,), spread=True
    ),
    Entry("interpolate_nearest", _call("interpolate", size=(4, 9)), (IMG,)),
    Entry("interpolate_nearest_signal", _call("interpolate", scale_factor=2), (SIG,)),
    Entry("interpolate_nearest_exact", _call("interpolate", size=(4, 9), mode="nearest-exact"), (IMG,)),
    Entry("interpolate_linear", _call("interpolate", size=13, mode="linear"), (SIG,)),
    Entry(
        "interpolate_linear_corners", _call("interpolate", size=5, mode="linear", align_corners=True), (SIG,)
    ),
    Entry("interpolate_bilinear", _call("interpolate", scale_factor=2, mode="bilinear"), (IMG,)),
    Entry(
        "interpolate_bilinear_factors",
        _call("interpolate", scale_factor=(1.7, 0.65), mode="bilinear", align_corners=False),
        (IMG,),
    ),
    Entry(
        "interpolate_bilinear_recomputed",
        _call("interpolate", scale_factor=(1.7, 0.65), mode="bilinear", recompute_scale_factor=True),
        (IMG,),
    ),
    Entry(
        "interpolate_bilinear_corners",
        _call("interpolate", size=(11, 1), mode="bilinear", align_corners=True),
        (IMG,),
    ),
    Entry("interpolate_bicubic", _call("interpolate", size=(9, 3), mode="bicubic"), (IMG,)),
    Entry(
        "interpolate_bicubic_corners",
        _call("interpolate", size=(4, 8), mode="bicubic", align_corners=True),
        (IMG,),
    ),
    Entry("interpolate_area", _call("interpolate", size=(4, 3), mode="area"), (IMG,)),
    Entry(
        "interpolate_antialias", _call("interpolate", size=(3, 2), mode="bilinear", antialias=True), (IMG,)
    ),
    Entry(
        "interpolate_antialias_bicubic",
        _call("interpolate", size=(4, 7), mode="bicubic", antialias=True),
        (IMG,),
    ),
    Entry("pad_crop", _call("pad", pad=(1, -2, -1, 0), value=0.5), (IMG,)),
    Entry("pad_reflect", _call("pad", pad=(1, 4, 5, 0), mode="reflect"), (IMG,)),
    Entry("pad_replicate", _call("pad", pad=(3, 0, 1, 7), mode="replicate"), (IMG,)),
    Entry("pad_circular", _call("pad", pad=(5, 2, 0, 6), mode="circular"), (IMG,)),
    Entry("pixel_shuffle", _call("pixel_shuffle", upscale_factor=2), ((2, 8, 3, 2),)),
    Entry("pixel_unshuffle", _call("pixel_unshuffle", downscale_factor=3), ((2, 2, 6, 3),)),
    Entry("layer_norm", _call("layer_norm", normalized_shape=(5,)), ((3, 4, 5),)),
    Entry(
        "layer_norm_affine",
        lambda m, F, x, w, b: F.layer_norm(x, (4, 5), w, b, 1e-3),
        ((3, 4, 5), (4, 5), (4, 5)),
    ),
    Entry("layer_norm_no_bias", lambda m, F, x, w: F.layer_norm(x, (5,), w), ((3, 4, 5), (5,))),
    Entry("group_norm", lambda m, F, x, w, b: F.group_norm(x, 2, w, b), (IMG, (4,), (4,))),
    Entry("group_norm_rows", lambda m, F, x: F.group_norm(x, 2), ((3, 6),)),
    Entry("group_norm_signal", lambda m, F, x, w: F.group_norm(x, 4, w, eps=1e-2), (SIG, (4,))),
    Entry("instance_norm", lambda m, F, x: F.instance_norm(x), (IMG,)),
    Entry(
        "instance_norm_affine",
        lambda m, F, x, w, b: F.instance_norm(x, weight=w, bias=b, eps=1e-3),
        (SIG, (4,), (4,)),
    ),
    Entry("instance_norm_eval", _instance_norm_eval, (IMG, (4,), (4,))),
    Entry("embedding", lambda m, F, w: F.embedding(ints(m, WORDS), w), ((6, 4),)),
    Entry("attention", _attention(), QKV),
    Entry("attention_scale", _attention(scale=0.3), QKV),
    Entry("attention_causal", _attention(is_causal=True), QKV),
    Entry(
        "attention_bool_mask",
        lambda m, F, q, k, v: F.scaled_dot_product_attention(q, k, v, ints(m, SEEN)),
        QKV,
    ),
    Entry(
        "attention_float_mask",
        lambda m, F, q, k, v: F.scaled_dot_product_attention(q, k, v, m.tensor(SCORES, dtype=q.dtype)),
        QKV,
    ),
    Entry(
        "attention_learned_mask",
        lambda m, F, q, k, v, b: F.scaled_dot_product_attention(q, k, v, b),
        (*QKV, (3, 1, 5)),
    ),
    Entry("attention_grouped_heads", _attention(enable_gqa=True), ((2, 4, 3, 6), (2, 2, 5, 6), (2, 2, 5, 3))),
]
