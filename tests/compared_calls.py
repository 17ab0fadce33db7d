"""The calls that compare_with_pytorch.py runs through both libraries. Names are those of its ``inputs``."""

# ruff: noqa: SIM905 (a table: one call a line, names in a row)

from __future__ import annotations

UNARY = """
abs acos acosh asin asinh atan atanh ceil cos cosh erf exp exp2 expm1 floor frac isfinite isinf isnan log
log10 log1p log2 logical_not neg reciprocal round rsqrt sigmoid sign sin sinh sqrt square tan tanh trunc relu
""".split()
BINARY = """
add sub mul div pow maximum minimum fmod remainder floor_divide atan2 eq ne lt le gt ge
""".split()
REDUCTIONS = """
sum mean prod amax amin max min argmax argmin any all std var median norm
""".split()
ALONG = [name for name in REDUCTIONS if name != "norm"]
OPERANDS = """
x d h b16 i i32 u8 mask s sd si 2 2.5 True
""".split()
NUMBERS = ("2", "2.5")

COMBINED = [
    *[f"m.{name}({t})" for name in UNARY for t in ("x", "z", "h", "b16", "i", "e")],
    *[
        f"m.{name}({a}, {b})"
        for name in BINARY
        for a, b in (("x", "p"), ("x", "v"), ("i", "i32 * 2 + 1"), ("x", "si"))
    ],
    *[f"x.{name}({b})" for name in BINARY for b in ("2", "2.5", "sd")],
    *[f"{a} + {b}" for a in OPERANDS[:11] for b in OPERANDS],
    *[f"{a} * {b}" for a in OPERANDS[:11] for b in OPERANDS],
    *[f"{a} / {b}" for a in ("x", "i", "mask", "h") for b in ("2", "2.5", "si", "i32 * 2 + 1")],
    *[f"{a} // {b}" for a in ("x", "i", "u8") for b in ("2", "-3", "0.7")],
    *[f"{a} % {b}" for a in ("x", "i", "u8") for b in ("2", "-3", "0.7")],
    *[f"{a} == {b}" for a in ("x", "i", "mask", "u8") for b in ("2", "2.5", "True", "None", "-1", "300")],
    *[f"{b} - {a}" for a in ("x", "i", "h", "u8") for b in ("2", "2.5")],
    *[f"{b} ** {a}" for a in ("x", "h") for b in ("2", "2.5")],
    *[
        f"{a} {op} {b}"
        for op in "&|^"
        for a, b in (("mask", "mask"), ("i", "i32"), ("x", "x"), ("mask", "i"))
    ],
    *[
        f"{t}.{name}()"
        for name in REDUCTIONS
        for t in ("x", "h", "b16", "i", "i32", "u8", "mask", "t", "z", "e", "s")
    ],
    *[f"{t}.{name}({d})" for name in ALONG for t in ("x", "t") for d in ("0", "-1")],
    *[
        f"x.{name}({d})"
        for name in ("sum", "mean", "amax", "std", "any")
        for d in ("(0, 2)", "5", "(0, 0)", "()", "[1]")
    ],
    *[f"x.{name}(1, keepdim=True)" for name in ALONG],
    *[f"e.{name}({d})" for name in ALONG for d in ("0", "1")],
]

SINGLE = """
~mask
~i
~x
-mask
-u8
mask - mask
i ** -1
i // 0
i % 0
i / 0
z / 0
z ** 0
# reductions
x.sum(dtype=m.float64)
i.sum(dtype=m.float32)
i.mean(dtype=m.float32)
x.var(1, unbiased=False)
x.var((0, 1), correction=0)
x.std(-1, unbiased=True)
m.ones(1).var()
m.ones(2).var(correction=3)
m.ones(70000, dtype=m.float16).mean()
m.ones(5000, dtype=m.bfloat16).sum()
m.ones(3000, dtype=m.float16).sum()
x.cumsum(1)
i.cumsum(0)
h.cumsum(2)
mask.cumsum(0)
x.cumprod(-1)
i32.cumprod(1)
s.cumsum(0)
x.cumsum(3)
x.logsumexp(1)
x.logsumexp((0, 1), keepdim=True)
z.logsumexp(0)
x.norm(1)
x.norm(3, 1)
x.norm(inf)
x.norm(2, (0, 1), keepdim=True)
x.norm(0)
x.count_nonzero()
mask.count_nonzero(1)
# order
x.sort()
x.sort(0, descending=True)
t.sort(dim=1, stable=True)
z.sort()
x.argsort(1)
x.topk(2)
x.topk(2, 0, largest=False)
x.topk(9)
t.max(1)
t.min(1)
z.max()
z.max(0)
z.min(0)
z.median()
z.argmax()
t.kthvalue(3)
t.median(1)
m.unique(k)
m.unique(k, return_inverse=True, return_counts=True)
m.max(x, p)
m.min(x, v)
s.sort()
s.max(0)
s.topk(1)
x.sort(1).values
x.max(2).indices
# products of matrices
x @ x.mT
x @ v
v @ v
x @ sq
x[0].T @ x[0]
m.mm(sq, sq)
m.mm(x, x)
m.mv(sq, v[:3])
m.bmm(x, x.mT)
m.dot(v, v)
m.dot(sq, sq)
m.outer(v, v)
h @ h.mT
b16 @ b16.mT
i @ i.mT
s @ v
m.einsum('bij,bkj->bik', x, x)
m.einsum('ii', sq)
m.einsum('ii->i', sq)
m.einsum('...j->...', x)
m.einsum('ij,jk', sq, sq)
m.einsum('ij,jk->ii', sq, sq)
m.einsum('ij', sq, sq)
m.einsum('bn,nm,bm->b', x[0].mT, sq, x[1].mT)
# shapes
x.reshape(6, -1)
x.reshape(5, -1)
x.view(-1)
x.reshape(-1, -1)
x.flatten(1)
s.flatten()
x.permute(2, 0, 1)
x.permute(0, 1)
x.transpose(0, -1)
x.T if x.ndim == 2 else x.mT
x.expand(5, 2, 3, 4)
x[:, :1].expand(-1, 3, 4)
x.expand(3, 3, 4)
x.unsqueeze(-1)
x.unsqueeze(5)
x.unsqueeze(0).squeeze(0)
x.squeeze(0)
x.flip(0)
x.flip((0, 2))
x.roll(1, 2)
x.roll(5)
x.roll((1, 2), (0, 1))
x.repeat(2, 1, 1, 3)
x.repeat(2)
x.tile((2,))
x.repeat_interleave(2)
x.repeat_interleave(2, 1)
k.repeat_interleave(k)
x.movedim(0, 2)
x.swapaxes(0, 1)
x.split(2, 2)
x.split(3, 2)
x.split([1, 3], 2)
x.split([1, 2], 2)
x.chunk(3, 2)
x.chunk(5, 0)
x.unbind(1)
x.narrow(1, 1, 2)
x.narrow(1, 2, 2)
x.select(2, -1)
x.select(2, 4)
x.unflatten(2, (2, 2))
x.broadcast_to((2, 2, 3, 4))
m.meshgrid(v, k, indexing='ij')
m.broadcast_tensors(v, x)
m.cat([x, x], 1)
m.cat([x, d], 0)
m.cat([x, i], -1)
m.cat([], 0)
m.cat([x, v], 0)
m.cat([s, s])
m.stack([v, v], 1)
m.stack([v, k])
m.stack([v, s])
m.stack([])
F.pad(x, (1, 2))
F.pad(x, (1, 0, 2, 1), value=3.0)
# indexing
x[0]
x[-1, ..., 1:]
x[:, [0, 2]]
x[mask]
x[..., None]
x[1, :, k]
x[..., 0, k[:2]]
x[mask[0, 0], 0]
x[0, None, :, k]
x[:, 1, mask[0, 0]]
x[1, mask[0]]
x[0, :, [1, 2]]
x[k[:2] % 2, :, k[:2]]
x[5]
x[True]
x[si - 3]
x[:, k]
x[mask[:, :, 0]]
x[::-1]
k[k]
x.gather(2, (i % 4).abs())
x.gather(1, k.reshape(1, 1, 4))
x.gather(1, k)
x.gather(1, -k.reshape(1, 1, 4))
v.take_along_dim(k)
x.scatter_add(2, i % 4, p)
x.scatter(1, k.reshape(1, 1, 4), 2.0)
v.scatter_add(0, k, v)
x.index_select(1, k)
x.index_select(1, k + 1)
x.masked_fill(mask, 0)
i.masked_fill(mask, 1.5)
x.masked_select(mask)
F.one_hot(k)
F.one_hot(k, 2)
m.nonzero(mask)
m.nonzero(k, as_tuple=True)
m.where(mask, x, 0.0)
m.where(mask, x, i)
m.where(mask)
m.where(x, x, x)
sq.diagonal()
x.diagonal(1, 1, 2)
sq.trace()
x.tril()
sq.triu(1)
v.tril()
# clamping and friends
x.clamp(-0.5, 0.5)
i.clamp(-1, 2)
i.clamp(0.5, 2)
x.clamp(min=v)
x.clamp()
x.clamp(1, 0)
z.clamp(0, 1)
u8.clamp(5, 9)
m.lerp(x, p, 0.5)
z.nan_to_num()
z.nan_to_num(1.0, 2.0, 3.0)
x.round(decimals=1)
m.allclose(x, x)
m.equal(x, x)
m.isclose(x, p)
m.add(x, p, alpha=2)
m.sub(i, i32, alpha=3)
m.div(x, p, rounding_mode='floor')
m.div(i, 2, rounding_mode='trunc')
m.div(x, 2, rounding_mode='up')
m.atan2(z, z.flip(0))
m.maximum(z, z.flip(0))
m.pow(z, 2)
z.pow(0.5)
m.fmod(z, 2)
m.remainder(z, 2)
z // 2
z.sign()
# creation
m.tensor([1, 2])
m.tensor([1.0, 2])
m.tensor(True)
m.tensor([[1], [2, 3]])
m.tensor('a')
m.tensor([])
m.tensor(1.5, dtype=m.int64)
m.zeros(2, 3)
m.zeros((2, 3), dtype=m.int32)
m.ones(2)
m.full((2,), 1)
m.full((2,), 1.0)
m.full((2,), True)
m.eye(2, 3)
m.arange(5)
m.arange(1, 2, 0.25)
m.arange(5.0)
m.arange(5, 0, -2)
m.arange(0, 5, -1)
m.arange(1, 2.05, 0.1)
m.linspace(0, 1, 5)
m.linspace(3, 3, 1)
m.full_like(i, 2)
m.zeros_like(h)
m.ones_like(x, dtype=m.float64)
m.randperm(5).sort().values
m.rand(3, 2).shape
m.randint(3, (2, 2)).dtype
m.randn(2).dtype
x.new_zeros(2)
h.new_ones((2, 2))
i.new_full((2,), 3)
m.zeros(-1)
# conversions and questions
x.double()
x.half()
x.bfloat16()
x.long()
x.int()
z.bool()
i.float()
x.to(m.float64)
i.to(x.dtype)
x.type_as(d)
x.numel()
x.size()
x.size(1)
x.size(-1)
x.dim()
x.ndim
len(x)
len(s)
x.stride()
x.mT.is_contiguous()
x.mT.contiguous().stride()
s.item()
x.item()
si.item()
k.tolist()
float(s)
int(si)
bool(s)
bool(x)
bool(e)
float(x)
x.is_floating_point()
range(10)[si]
range(10)[s]
1.5 in z
1.0 in z
f'{s:.2f}'
x.detach().requires_grad
x.is_leaf
(w * 2).is_leaf
m.promote_types(m.float16, m.bfloat16)
m.result_type(x, d)
m.result_type(x, sd)
m.result_type(i, 2.0)
m.result_type(mask, 2)
# gradients and in-place
(w * 2).numpy()
w.numpy()
w.add_(1)
y = w * 1; y.add_(1); y.sum().backward(); w.grad
y = w * w; y.mul_(w); y.sum().backward(); w.grad
y = w.exp(); y.add_(1); y.sum().backward(); w.grad
y = w * 1; y[0] = 5; y.sum().backward(); w.grad
y = m.zeros(2, 3); y[0] = w[1]; y.sum().backward(); w.grad
y = w.detach(); y.add_(1); w + 0
x.add_(d); x
x.add_(1.5); x
i.add_(1.5)
i += 2; i
i /= 2; i
x += m.ones(5, 2, 3, 4); x
v += x; v
x.copy_(v); x
x.copy_(i); x
v.copy_(x)
x.fill_(3); x
x.zero_(); x
x.clamp_(0, 1); x
x[0] = v; x
x[:, k[:3]] = 1.5; x
x[mask] = 0; x
x[1, :, k[:2]] = 3.0; x
y = w * 1; y[0, k[:2]] = w[1, :2] * 3; y.sum().backward(); w.grad
y = x * w.sum(); y[1, :, k[1:3]] = 2.0; y.sum().backward(); w.grad
x[0] = sq; x
i[0] = 2.5; i
x.expand(2, 2, 3, 4).add_(1)
m.tensor([1]).requires_grad_()
w.sum().backward(); w.grad
w.backward()
x.sum().backward()
m.amax(m.stack([w, w]), 0).sum().backward(); w.grad
m.max(m.stack([w, w]), 0).values.sum().backward(); w.grad
m.maximum(w, w).sum().backward(); w.grad
(w * 0).norm().backward(); w.grad
(w * 0).abs().sum().backward(); w.grad
(w * 0).prod().backward(); w.grad
(w * 0).std().backward(); w.grad
w.clamp(0, 1).sum().backward(); w.grad
((w * 0) ** 2).sum().backward(); w.grad
((w * 0) ** 0).sum().backward(); w.grad
(0 ** (w * 0)).sum().backward(); w.grad
w.round().sum().backward(); w.grad
w.half().sum().backward(); w.grad
w.double().sum().backward(); w.grad
w.max().backward(); w.grad
w.median().backward(); w.grad
w.sort(descending=True).values[:, 0].sum().backward(); w.grad
w[:, [0, 0]].sum().backward(); w.grad
(w > 0).requires_grad
w.argmax().requires_grad
((-1 - w * 0) ** w).sum().backward(); w.grad
m.sqrt(w * 0).sum().backward(); w.grad
m.atan2(w * 0, w * 0).sum().backward(); w.grad
"""

CALLS = [*COMBINED, *[line for line in SINGLE.splitlines() if line and not line.startswith("#")]]

# call: why (docs/differences-from-pytorch.md)
DELIBERATE = {
    "m.sign(z)": "NaN stays NaN",
    "z.sign()": "NaN stays NaN",
    "m.pow(i, i32 * 2 + 1)": "an integer to a negative power has no integer value",
    **dict.fromkeys(
        [f"x.{name}({number})" for name in ("maximum", "minimum", "atan2") for number in ("2", "2.5")],
        "numbers are operands like tensors",
    ),
    "u8 // -3": "a number that the dtype does not hold",
    "u8 % -3": "a number that the dtype does not hold",
    "mask.argmax()": "bools have an order",
    "mask.argmin()": "bools have an order",
    "mask.median()": "bools have an order",
    "u8.any()": "always bool",
    "u8.all()": "always bool",
    "e.median()": "nothing has no median",
    **dict.fromkeys(
        [f"x.{name}(())" for name in ("sum", "mean", "amax", "std")], "no dimensions are no dimensions"
    ),
    "t.kthvalue(3)": "of equal values the first index",
    "m.meshgrid(v, k, indexing='ij')": "dtypes may differ",
    "x[::-1]": "NumPy's negative steps",
    "i.masked_fill(mask, 1.5)": "a fraction does not fit into integers",
}
