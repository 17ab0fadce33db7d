"""The tensor as users of NumPy and PyTorch expect it: dtypes, conversions, shared memory, in-place operators."""

from __future__ import annotations

import copy
import math
import pickle

import numpy as np
import pytest

import minidl
from minidl import Tensor

ml_dtypes = pytest.importorskip("ml_dtypes")
BF16 = np.dtype(ml_dtypes.bfloat16)
HALVES = [np.dtype(np.float16), BF16]


def leaf(*shape: int) -> Tensor:
    rng = np.random.default_rng(sum(shape) + 1)
    return Tensor(rng.standard_normal(shape), requires_grad=True)


class Used:
    """Hands out a capsule that somebody took the memory of."""

    def __init__(self, t: Tensor) -> None:
        self.t = t

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.t.__dlpack_device__()

    def __dlpack__(self, **options: object) -> object:
        class Once:
            def __init__(self, capsule: object) -> None:
                self.capsule = capsule

            def __dlpack_device__(self) -> tuple[int, int]:
                return (1, 0)

            def __dlpack__(self, **options: object) -> object:
                return self.capsule

        capsule = self.t.__dlpack__()
        np.from_dlpack(Once(capsule))
        return capsule


# --- dtypes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        (minidl.float32, minidl.float64, "float64"),
        (minidl.float16, minidl.bfloat16, "float32"),
        (minidl.bfloat16, minidl.float32, "float32"),
        (minidl.bfloat16, minidl.int64, "bfloat16"),
        (minidl.int64, minidl.float16, "float16"),
        (minidl.uint8, minidl.int8, "int16"),
        (minidl.int32, minidl.int64, "int64"),
        (minidl.bool_, minidl.uint8, "uint8"),
    ],
)
def test_promotion_between_tensors(a: np.dtype, b: np.dtype, expected: str) -> None:
    x, y = minidl.ones(2, dtype=a), minidl.ones(2, dtype=b)
    for left, right in ((x, y), (y, x)):
        assert (left * right).dtype == expected
        assert minidl.result_type(left, right) == expected
    assert minidl.promote_types(a, b) == minidl.promote_types(b, a) == expected


def test_0d_tensors_and_numbers_change_only_the_kind() -> None:
    x, i, b = minidl.ones(2), minidl.tensor([1, 2]), minidl.tensor([True, False])
    assert (x * minidl.tensor(2.0, dtype=np.float64)).dtype == np.float32
    assert (x * np.float64(2)).dtype == np.float32
    assert (minidl.tensor(1.0) * minidl.tensor(2.0, dtype=np.float64)).dtype == np.float64
    assert (i * 2).dtype == np.int64 and (i * 2.5).dtype == np.float32
    assert (i * minidl.tensor(2.5, dtype=np.float64)).dtype == np.float64
    assert (i.to(np.int32) + minidl.tensor(1)).dtype == np.int32
    assert (b + 1).dtype == np.int64 and (b * 0.5).dtype == np.float32
    assert (x.half() * 2.5).dtype == np.float16 and (x.bfloat16() + 1).dtype == BF16
    with pytest.raises(TypeError, match="no integer dtype holds both"):
        minidl.ones(2, dtype=np.uint64) + minidl.ones(2, dtype=np.int64)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_half_types_accumulate_in_float32(dtype: np.dtype) -> None:
    unit = 2.0**-10 if dtype == np.float16 else 2.0**-7  # in the last place, relative
    ones = minidl.ones(3000, dtype=dtype)
    assert ones.sum().dtype == dtype and ones.sum().item() == pytest.approx(3000, rel=unit / 2)
    assert minidl.ones(70000, dtype=dtype).mean().item() == 1.0
    assert ones.norm().item() == pytest.approx(math.sqrt(3000), rel=unit / 2)
    assert (ones @ ones).item() == pytest.approx(3000, rel=unit / 2)
    assert ones.cumsum(0)[-1].item() == pytest.approx(3000, rel=unit / 2)
    x = Tensor(np.linspace(-1, 1, 12).reshape(3, 4), dtype=dtype, requires_grad=True)
    for f in (
        lambda t: t.softmax(1),
        lambda t: t.var(1),
        lambda t: t.logsumexp(0),
        lambda t: t.prod(1),
        lambda t: minidl.einsum("ij,kj->ik", t, t),
        lambda t: (t.exp() / (t * t + 1)).sigmoid(),
    ):
        y = f(x)
        assert y.dtype == dtype
        (g,) = minidl.grad(y.sum(), x)
        wide = x.detach().double().requires_grad_()
        exact = f(wide)
        # the longest chain rounds its values four times on the way, and as often on the way back
        slopes = minidl.grad(exact.sum(), wide)[0].data
        np.testing.assert_allclose(y.detach().double().data, exact.data, rtol=2 * unit, atol=unit / 2)
        assert g.dtype == dtype
        np.testing.assert_allclose(g.double().data, slopes, rtol=4 * unit, atol=unit)


def test_functions_of_integers_are_float32_and_sums_int64() -> None:
    i = minidl.tensor(np.array([1, 2, 3], np.int32))
    assert i.exp().dtype == i.sigmoid().dtype == i.sqrt().dtype == (i / 2).dtype == np.float32
    assert i.sum().dtype == i.prod().dtype == i.cumsum(0).dtype == np.int64
    assert minidl.tensor([True, True]).sum().item() == 2
    with pytest.raises(TypeError, match="mean: x expects a floating dtype, got int32"):
        i.mean()


def test_names_of_dtypes() -> None:
    assert minidl.float32 == np.float32 and minidl.bfloat16 == BF16 and minidl.long == np.int64
    assert minidl.zeros(2, dtype="bfloat16").dtype == BF16
    for wrong in (np.complex64, "U3", object, "no such"):
        with pytest.raises(TypeError, match="dtype"):
            minidl.zeros(2, dtype=wrong)
    for data in (1j, "text", [[1], [2, 3]], {"a": 1}, np.array(["a"])):
        with pytest.raises(TypeError, match="Tensor: data must be"):
            Tensor(data)


# --- out of the engine and back -----------------------------------------------------------------------------


def test_dlpack_shares_memory_both_ways() -> None:
    x = minidl.arange(6.0).reshape(2, 3)
    array = np.from_dlpack(x)
    array[0, 0] = 9
    assert x[0, 0].item() == 9
    y = minidl.from_dlpack(np.arange(4.0).reshape(2, 2).T)
    assert y.dtype == np.float64 and y.stride() == (1, 2)
    back = minidl.from_dlpack(x)
    back.fill_(1)
    assert x.sum().item() == 6
    half = minidl.arange(4.0).bfloat16()
    shared = minidl.from_dlpack(half)  # NumPy alone cannot carry this dtype
    shared[0] = 3
    assert shared.dtype == BF16 and half.tolist() == [3.0, 1.0, 2.0, 3.0]
    with pytest.raises(BufferError, match="requires a gradient"):
        np.from_dlpack(leaf(2))
    with pytest.raises(BufferError, match="consumed already"):
        minidl.from_dlpack(Used(minidl.ones(2)))
    with pytest.raises(TypeError, match="__dlpack__"):
        minidl.from_dlpack([1, 2])


def test_numpy_and_array_share_or_copy() -> None:
    x = minidl.ones(3)
    assert x.numpy() is x.data and np.asarray(x) is x.data
    assert np.array(x, copy=True) is not x.data
    assert np.asarray(x, dtype=np.float64).dtype == np.float64
    with pytest.raises(ValueError, match="needs a copy"):
        np.array(x, dtype=np.float64, copy=False)
    assert minidl.from_numpy(x.data).data is x.data
    assert minidl.tensor(x.data).data is not x.data
    assert minidl.as_tensor(x) is x
    with pytest.raises(TypeError, match=r"numpy\.ndarray"):
        minidl.from_numpy([1.0])


@pytest.mark.parametrize(
    "clone", [copy.deepcopy, lambda t: pickle.loads(pickle.dumps(t))], ids=["deepcopy", "pickle"]
)
def test_copies_keep_values_class_and_gradient(clone: object) -> None:
    p = minidl.Parameter(np.arange(4, dtype=np.float32))
    (p * p).sum().backward()
    q = clone(p)  # type: ignore[operator]
    assert type(q) is minidl.Parameter and q.requires_grad and q.data is not p.data
    np.testing.assert_array_equal(q.data, p.data)
    np.testing.assert_array_equal(q.grad.data, p.grad.data)
    assert clone(minidl.ones(2, dtype=BF16)).dtype == BF16  # type: ignore[operator]
    with pytest.raises(RuntimeError, match="detach"):
        clone(p * 2)  # type: ignore[operator]


def test_repr_shows_values_dtype_and_gradient_function() -> None:
    assert repr(minidl.tensor([1.0, 2.5])) == "tensor([1. , 2.5])"
    assert repr(minidl.zeros(2, dtype=np.float64)) == "tensor([0., 0.], dtype=float64)"
    assert repr(minidl.zeros(1, dtype=BF16)) == "tensor([0.], dtype=bfloat16)"
    assert "grad_fn=<Exp>" in repr(leaf(2).exp()) and "requires_grad=True" in repr(leaf(2))
    assert "size=(0, 3)" in repr(minidl.zeros(0, 3))
    assert f"{minidl.tensor(1.5):.2f}" == "1.50"


def test_shape_questions_answer_numpy_and_pytorch_habits() -> None:
    x = minidl.zeros(2, 3)
    assert x.size == 6 and x.size() == (2, 3) and x.size(-1) == 3
    assert x.dim() == x.ndim == 2 and x.numel() == 6 and x.nbytes == 24
    assert x.mT.shape == x.T.shape == (3, 2) and not x.T.is_contiguous()
    assert x.T.contiguous().is_contiguous() and x.contiguous() is x
    assert x.new_zeros(2, dtype=np.int64).dtype == np.int64 and x.half().new_ones((2,)).dtype == np.float16
    assert (x == None).__class__ is bool  # noqa: E711
    assert 0.0 in x and 1.0 not in x


# --- in place -----------------------------------------------------------------------------------------------


def test_in_place_operators_write_to_the_same_memory() -> None:
    x = minidl.ones(2, 3)
    memory, view = x.data, x[0]
    x += 1
    x.mul_(3).sub_(1)
    x[:, 1] = 0
    assert x.data is memory
    assert view.tolist() == [5.0, 0.0, 5.0]
    i = minidl.tensor([3, 4])
    i += 1
    assert i.dtype == np.int64 and i.tolist() == [4, 5]
    with pytest.raises(TypeError, match="add_: a result of dtype float32 does not fit into int64"):
        i += 0.5
    with pytest.raises(ValueError, match=r"add_: the result has shape \(2, 3\)"):
        minidl.ones(3).add_(x)
    with pytest.raises(RuntimeError, match="read-only"):
        minidl.ones(1).expand(3).add_(1)
    with pytest.raises(ValueError, match=r"copy_: source has shape \(2,\)"):
        x.copy_([1.0, 2.0])


def test_in_place_operators_on_the_graph_have_the_gradient_of_the_new_value() -> None:
    w = leaf(2, 3)
    y = w * w
    y *= w  # needs the old y, which is kept
    y.add_(w, alpha=2)
    (g,) = minidl.grad(y.sum(), w)
    np.testing.assert_allclose(g.data, 3 * w.data**2 + 2)
    z = minidl.zeros(2, 3, dtype=np.float64)
    z.copy_(w)
    assert z is not w and not z.is_leaf
    z[0] = w[1] * 2
    (g,) = minidl.grad(z.sum(), w)
    np.testing.assert_array_equal(g.data, [[0, 0, 0], [3, 3, 3]])


def test_in_place_operators_that_would_give_wrong_gradients_are_refused() -> None:
    w = leaf(2, 3)
    for change in (
        lambda: w.add_(1),
        lambda: w.zero_(),
        lambda: w.__setitem__(0, 1.0),
        lambda: w.copy_(w.data),
    ):
        with pytest.raises(RuntimeError, match="a leaf that requires a gradient"):
            change()
    with minidl.no_grad():
        w.zero_()
    y = w * 2
    row = y[0]
    for t in (y, row):
        with pytest.raises(RuntimeError, match="is a view or has views"):
            t.add_(1)


@pytest.mark.parametrize("change", ["view", "detach", "base"])
def test_views_and_detached_tensors_share_the_version(change: str) -> None:
    x, w = minidl.ones(2, 3), leaf(2, 3).float().detach().requires_grad_()
    rows = x.reshape(3, 2)
    y = (rows.reshape(2, 3) * w).sum()
    {"view": rows[0], "detach": x.detach(), "base": x}[change].add_(1)
    with pytest.raises(RuntimeError, match="changed in place"):
        y.backward()


def test_an_output_that_backward_needs_may_not_be_changed() -> None:
    y = leaf(3).exp()
    y.add_(1)
    with pytest.raises(RuntimeError, match=r"Exp: its output .* changed in place"):
        y.sum().backward()


def test_an_element_assigned_twice_gives_its_gradient_to_the_last() -> None:
    v = leaf(3)
    y = minidl.zeros(4, dtype=np.float64)
    y[np.array([1, 1, 2])] = v
    (g,) = minidl.grad(y.sum(), v)
    np.testing.assert_array_equal(g.data, [0, 1, 1])
    x = minidl.zeros(4, dtype=np.float64).scatter(0, np.array([1, 1, 2]), v)
    np.testing.assert_array_equal(minidl.grad(x.sum(), v)[0].data, [0, 1, 1])


# --- values that are easily wrong ---------------------------------------------------------------------------


def test_erf_is_accurate_to_the_last_digits() -> None:
    x = np.concatenate([np.linspace(-6.5, 6.5, 1001), np.geomspace(1e-300, 1, 200), [np.inf, -np.inf]])
    exact = np.array([math.erf(v) for v in x])
    np.testing.assert_allclose(minidl.erf(Tensor(x)).data, exact, rtol=4e-16)
    small = minidl.erf(Tensor(x.clip(1e-30, None), dtype=np.float32))
    assert small.dtype == np.float32
    np.testing.assert_allclose(small.data, [math.erf(v) for v in x.clip(1e-30, None)], rtol=3e-7)
    assert math.isnan(minidl.erf(minidl.tensor([math.nan, 9.0]))[0].item())


def test_order_is_stable_and_nan_is_largest() -> None:
    x = minidl.tensor([2.0, math.nan, 1.0, 2.0, 1.0])
    assert x.sort().indices.tolist() == [2, 4, 0, 3, 1]
    assert x.sort(descending=True).indices.tolist() == [1, 0, 3, 2, 4]
    assert x.topk(2, largest=False).indices.tolist() == [2, 4]
    assert math.isnan(x.max().item()) and x.max(0).indices.item() == 1 and x.argmin().item() == 1
    assert math.isnan(x.median().item()) and math.isnan(minidl.maximum(x, 5.0)[1].item())
    values, indices = minidl.tensor([[1.0, 3.0, 3.0]]).max(1, keepdim=True)
    assert values.tolist() == [[3.0]] and indices.tolist() == [[1]]


def test_nan_among_the_maxima_takes_the_gradient() -> None:
    x = Tensor(np.array([1.0, math.nan, 2.0]), requires_grad=True)
    x.amax().backward()
    np.testing.assert_array_equal(x.grad.data, [0, 1, 0])


def test_integer_division_rounds_down_and_refuses_zero() -> None:
    i = minidl.tensor([7, -7])
    assert (i // 2).tolist() == [3, -4] and (i % 3).tolist() == [1, 2]
    assert minidl.fmod(i, 3).tolist() == [1, -1]
    assert minidl.div(i, 2, rounding_mode="trunc").tolist() == [3, -3]
    assert minidl.div(minidl.tensor([7, -7, -8]), -2, rounding_mode="trunc").tolist() == [-3, 3, 4]
    for f in (lambda: i // 0, lambda: i % 0, lambda: minidl.fmod(i, 0)):
        with pytest.raises(ZeroDivisionError):
            f()
    assert (minidl.tensor([200], dtype=np.uint8) < 300).item()


def test_random_tensors_follow_the_seed() -> None:
    def draw() -> list[list]:
        minidl.manual_seed(3)
        made = [
            minidl.rand(4),
            minidl.randn(2, dtype=np.float64),
            minidl.randint(2, 9, (5,)),
            minidl.randperm(6),
            minidl.empty(3).uniform_(-1, 1),
            minidl.empty(3).normal_(),
        ]
        return [t.tolist() for t in made]

    assert draw() == draw()
    for dtype in HALVES:
        values = minidl.rand(4000, dtype=dtype).float()
        assert values.min().item() >= 0 and values.max().item() < 1


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda x: x.sum(3), IndexError, "sum: dim 3 is out of range"),
        (lambda x: x.amax((0, 0)), ValueError, "names a dimension twice"),
        (lambda x: x.max(1.5), TypeError, "max: dim expects an int"),
        (lambda x: minidl.zeros(0).max(), ValueError, "max: no elements"),
        (lambda x: x.topk(5), ValueError, "topk: k expects an int from 0 to 3"),
        (lambda x: x.gather(1, np.array([[0.5]])), TypeError, "gather: index expects integers"),
        (
            lambda x: x.gather(1, np.array([[3]])),
            IndexError,
            "gather: index 3 is out of range for dim 1 with size 3",
        ),
        (lambda x: x.scatter_add(1, np.array([[0]]), x.double()), TypeError, "source expects dtype float32"),
        (lambda x: x.index_select(0, np.array([-1])), IndexError, "index -1 is out of range"),
        (lambda x: minidl.einsum("ij,jk", x, x), ValueError, "needs one size for a letter, got 3 and 2"),
        (lambda x: minidl.einsum("ij->ik", x), ValueError, "has one that no operand has"),
        (lambda x: minidl.einsum("i1", x), ValueError, "letters and one '...'"),
        (lambda x: minidl.einsum("ijk", x), ValueError, "operand 0 expects 3 dimensions"),
        (lambda x: x & x, TypeError, "expects bool or integer"),
        (lambda x: -(x > 0), TypeError, "neg: not defined for bool"),
        (lambda x: x.split([1, 1], 1), ValueError, "do not add up to the 3 elements"),
        (lambda x: x.roll((1, 2), 0), ValueError, "shifts and dims expect one length"),
        (lambda x: x.repeat(2), ValueError, "repeat: counts expects at least 2"),
        (lambda x: minidl.one_hot(np.array([0, 3]), 3), ValueError, r"labels lie outside of \[0, 3\)"),
        (lambda x: minidl.arange(0, 5, -1), ValueError, "no way from 0 to 5"),
        (lambda x: minidl.rand(2, dtype=np.int64), TypeError, "rand: dtype expects a floating"),
        (lambda x: x.to("mps"), ValueError, "'mps' is not available"),
        (lambda x: x.norm("nuc"), ValueError, "norm: p expects a number or 'fro'"),
        (lambda x: minidl.stack([x, x[0]]), ValueError, "stack: tensors expects tensors of one shape"),
    ],
)
def test_wrong_use_is_told_by_name(call: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call(minidl.ones(2, 3))  # type: ignore[operator]


def test_every_method_is_a_function_with_a_docstring() -> None:
    from minidl.methods import Methods

    for name in Methods.__annotations__:
        method = getattr(Tensor, name)
        function = getattr(minidl.ops, name)
        # the method may lack its check that the first argument is a tensor
        assert method is function or method is function.__wrapped__, name
        assert method.__doc__, name
    assert all(getattr(minidl, name) is not None for name in minidl.__all__)
