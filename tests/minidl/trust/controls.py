"""Deliberately wrong gradients: a line of an operator or kernel, what it is replaced by, and the table entries that
must notice."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Control:
    """One defect."""

    kind: str
    path: str  # module:Class.method
    old: str
    new: str
    entries: tuple[str, ...]
    backend: str = "cpu"
    pytorch: bool = False  # only PyTorch's numbers can tell: forward and gradient are wrong together

    @property
    def name(self) -> str:
        return f"{self.path.split(':')[1]}: {self.kind}"


OPS = "minidl.ops."
REF = "minidl.kernels.reference."
R = "reference"

CONTROLS = [
    # sign
    Control("sign", OPS + "arithmetic:Sub.backward", "-grad if", "grad if", ("sub",)),
    Control("sign", OPS + "arithmetic:Neg.backward", "-grad", "grad", ("neg",)),
    Control("sign", OPS + "unary:Cos.backward", "-grad", "grad", ("cos",)),
    Control("sign", OPS + "unary:Atan2.backward", "-scaled * y", "scaled * y", ("atan2",)),
    Control("sign", OPS + "rounding:Remainder.backward", "-grad *", "grad *", ("remainder", "fmod")),
    # missing term or factor
    Control("missing factor", OPS + "arithmetic:Div.backward", "/ (b * b)", "/ b", ("div",)),
    Control("missing factor", OPS + "unary:Sqrt.backward", " * 2", "", ("sqrt",)),
    Control("missing square", OPS + "unary:TanhBackward.forward", "1 - y * y", "1 - y", ("tanh",)),
    Control(
        "missing gradient",
        OPS + "arithmetic:Mul.backward",
        "grad * a if",
        "grad * 0 if",
        ("mul", "mul_broadcast"),
    ),
    Control(
        "missing term",
        OPS + "reduce:Softmax.backward",
        "gy - y * sum(gy, self.dim, keepdim=True)",
        "gy",
        ("softmax",),
    ),
    Control("missing term", OPS + "activations:SiLU.backward", "s * (1 + x * (1 - s))", "s", ("silu",)),
    Control(
        "missing term",
        OPS + "activations:GELU.backward",
        "(share + x * density)",
        "share",
        ("gelu",),
    ),
    Control(
        "missing exponent",
        OPS + "arithmetic:Pow.backward",
        "_scalar(1, b), b) - 1",
        "_scalar(1, b), b)",
        ("pow", "pow_cube"),
    ),
    Control(
        "missing term of the variance",
        REF + "norm:Normalisation.batch_norm_backward",
        "- xhat * (gweight / rows)",
        "",
        ("batch_norm_train",),
        R,
    ),
    Control(
        "missing term of the mean",
        REF + "norm:Normalisation.batch_norm_backward",
        "- gbias / rows",
        "",
        ("batch_norm_train", "batch_norm_rows"),
        R,
    ),
    Control(
        "missing term of the variance",
        REF + "standardize:Standardisation.standardize_backward",
        "gx -= xhat",
        "gx -= 0",
        ("layer_norm", "group_norm"),
        R,
    ),
    Control(
        "missing term, recorded path only",
        OPS + "norms:Standardize._differentiable",
        "g - through_mean - through_rstd",
        "g - through_rstd",
        ("layer_norm_affine", "instance_norm"),
    ),
    Control(
        "missing term, recorded path only",
        OPS + "norm:BatchNorm._differentiable_backward",
        "- mean(grad, dims, keepdim=True) ",
        "",
        ("batch_norm_train",),
    ),
    # assignment in place of accumulation
    Control(
        "assignment where windows overlap",
        REF + "conv:Convolution.conv2d_input_grad",
        "gpadded[window] +=",
        "gpadded[window] =",
        ("conv2d", "conv2d_stride"),
        R,
    ),
    Control(
        "assignment where windows overlap",
        REF + "scatter:Scattering.scatter_add",
        "numpy.add.at(out[:, 0], index, values[:, 0])",
        "out[index, 0] = values[:, 0]",
        ("max_pool2d_overlap",),
        R,
    ),
    Control(
        "assignment where windows overlap",
        REF + "pool:Pooling.avg_pool2d_backward",
        "gpadded[window] +=",
        "gpadded[window] =",
        ("avg_pool2d_padding",),
        R,
    ),
    Control(
        "assignment where cells overlap",
        REF + "pool:Pooling.adaptive_avg_pool2d_backward",
        "] += gy[",
        "] = gy[",
        ("adaptive_avg_pool2d",),
        R,
    ),
    Control(
        "assignment where windows overlap",
        REF + "windows:Windows.fold2d",
        "padded[window] +=",
        "padded[window] =",
        ("unfold", "fold"),
        R,
    ),
    Control(
        "assignment at repeated indices",
        OPS + "movement:add_at",
        "np.add.at(out, index, values)",
        "out[index] = values",
        ("getitem_repeated", "scatter_add", "gather"),
    ),
    Control(
        "assignment at the nodes",
        "minidl.autograd.walk:_Gradients.send",
        "entry[1] = entry[1] + g",
        "entry[1] = g",
        ("add_same_tensor_twice", "mul_same_tensor_twice"),
    ),
    # axes
    Control(
        "wrong axis",
        OPS + "reduce:LogSoftmax.backward",
        "sum(grad, self.dim",
        "sum(grad, 0",
        ("log_softmax",),
    ),
    Control("wrong axis", OPS + "linear:Linear.backward", "sum(grad, 0)", "sum(grad, 1)", ("linear",)),
    Control(
        "wrong axis", OPS + "movement:Permute.backward", "np.argsort(self.dims)", "self.dims", ("permute",)
    ),
    Control("wrong axis", OPS + "movement:Cat.backward", "* self.dim +", "* 0 +", ("cat",)),
    Control(
        "wrong direction",
        OPS + "reduce:Cumsum.backward",
        "not self.backwards",
        "self.backwards",
        ("cumsum", "cumsum_last"),
    ),
    Control("wrong direction", OPS + "shapes:Roll.backward", "-s for s", "s for s", ("roll", "roll_flat")),
    Control("wrong order", OPS + "shapes:Flip.backward", "Flip(self.dims)(grad)", "grad", ("flip",)),
    # broadcasting
    Control(
        "mean in place of the broadcast sum",
        "minidl.autograd.walk:_fit",
        "g.sum_to(shape)",
        "g.sum_to(shape) * (len(shape) / max(g.ndim, 1))",
        ("add_broadcast", "expand"),
    ),
    Control(
        "missing broadcast sum",
        "minidl.autograd.walk:_fit",
        "g = g.sum_to(shape)",
        "g = g[(0,) * (g.ndim - len(shape))][tuple(slice(n) for n in shape)]",
        ("add_broadcast", "mul_broadcast", "expand"),
    ),
    # what was saved
    Control(
        "stale value",
        OPS + "unary:Exp.backward",
        "self.saved_output()",
        "self.saved_output().detach()",
        ("exp",),
    ),
    Control(
        "stale value",
        OPS + "unary:Sigmoid.backward",
        "self.saved_output()",
        "self.saved_output().detach()",
        ("sigmoid",),
    ),
    Control(
        "stale statistics", OPS + "norm:BatchNorm.backward", "self.training,", "True,", ("batch_norm_eval",)
    ),
    Control("wrong mask", OPS + "activations:PReLU.backward", "(~above)", "above", ("prelu",)),
    Control(
        "mask forgotten", OPS + "arithmetic:Mask.backward", "Mask(self.mask)(grad)", "grad", ("leaky_relu",)
    ),
    Control(
        "branches exchanged",
        OPS + "arithmetic:Where.backward",
        "where(self.condition, zero, grad)",
        "where(self.condition, grad, zero)",
        ("where",),
    ),
    # ties
    Control(
        "ties counted in full",
        OPS + "reduce:Amax.backward",
        "hit / hit.sum(self.dims, keepdims=True)",
        "hit * 1.0",
        ("amax_of_ties", "max_of_all_ties"),
        pytorch=True,
    ),
    # weights
    Control(
        "weighted by column instead of by label",
        REF + "loss:Losses.softmax_cross_entropy_backward",
        "p * row_weight[:, None]",
        "p * weights",
        ("cross_entropy_ignore_weight", "cross_entropy_weight_smoothing"),
        R,
    ),
    Control(
        "weight forgotten, recorded path only",
        OPS + "loss:SoftmaxCrossEntropy._target_distribution",
        "(1 - smoothing) * w[target[rows]]",
        "(1 - smoothing)",
        ("cross_entropy_ignore_weight",),
    ),
    Control(
        "mean over the rows instead of the weights",
        OPS + "loss:cross_entropy",
        "node.row_weight.sum(dtype=np.float64)",
        "flat.size",
        ("cross_entropy_ignore_weight",),
        pytorch=True,
    ),
    Control(
        "padding counted",
        REF + "pool:window_counts",
        "if count_include_pad:",
        "if True:",
        ("avg_pool2d_exclude_pad",),
        R,
        pytorch=True,
    ),
    # padding
    Control(
        "padded with 0 instead of minus infinity",
        REF + "pool:Pooling.max_pool2d",
        "dilation, out_hw, -xp.inf)",
        "dilation, out_hw, 0)",
        ("max_pool2d",),
        R,
        pytorch=True,
    ),
    Control(
        "padded with 0 instead of the value",
        OPS + "movement:Pad.forward",
        "inner, self.value)",
        "inner, 0)",
        ("pad",),
        pytorch=True,
    ),
    # off by one
    Control(
        "off by one",
        REF + "conv:Convolution.conv2d_input_grad",
        "gpadded[:, top : top + input_hw[0],",
        "gpadded[:, top - 1 : top - 1 + input_hw[0],",
        ("conv2d", "conv2d_stem"),
        R,
    ),
    Control("off by one", OPS + "movement:Cat.backward", "start += size", "start += size - 1", ("cat",)),
    Control(
        "off by one",
        OPS + "reduce:Sum.backward",
        "expand(grad, self.shape)",
        "expand(grad, self.shape) * (1 + 1 / 10**4)",
        ("sum_all", "mean"),
    ),
    Control(
        "rows for columns",
        REF + "conv:tap_windows",
        "kw * dilation[1]",
        "kw * dilation[0]",
        ("conv2d_dilation",),
        R,
        pytorch=True,
    ),
    Control(
        "one window too few",
        OPS + "pool:pooled_size",
        "// s) + 1",
        "// s)",
        ("max_pool2d", "avg_pool2d_ceil"),
        pytorch=True,
    ),
    # second order
    Control(
        "sign, second order only",
        OPS + "conv:Conv2dInputGrad.backward",
        "Conv2d(self.geometry)(grad, w, None)",
        "-Conv2d(self.geometry)(grad, w, None)",
        ("conv2d", "conv2d_groups"),
    ),
    Control(
        "sign, second order only",
        OPS + "arithmetic:ReLUBackward.backward",
        "ReLUBackward()(grad, *self.saved())",
        "-ReLUBackward()(grad, *self.saved())",
        ("relu",),
    ),
    Control(
        "missing gradient, second order only",
        OPS + "pool:MaxPoolScatter.backward",
        "return ",
        "return 0 * ",
        ("max_pool2d",),
    ),
    # which gradients are asked for
    Control(
        "wrong flag",
        OPS + "linear:MatMul.backward",
        "gb = matmul(transpose(a, -1, -2), grad) if self.needs_input_grad[1]",
        "gb = matmul(transpose(a, -1, -2), grad) if self.needs_input_grad[0]",
        ("matmul",),
    ),
    # memory
    Control(
        "elements read in memory order",
        REF + "elementwise:Elementwise.relu_backward",
        "y > 0",
        "(y > 0).ravel('K').reshape(y.shape)",
        ("relu",),
        R,
    ),
    Control(
        "not deterministic",
        OPS + "unary:Exp.backward",
        "grad *",
        "grad * (1 + 1e-9 * np.random.random()) *",
        ("exp",),
    ),
]
