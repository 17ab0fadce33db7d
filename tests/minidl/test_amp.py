"""Mixed precision: which operators are cast, float32 masters, the loss scaler; on the CPU and on a device."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

import minidl
from minidl import Tensor, models, nn, optim
from minidl.nn import functional as F
from minidl.testing.cases import TABLE
from minidl.testing.operators import run
from tests.minidl.nn.module_cases import CASES, build, inputs

HALVES = {"bf16": "bfloat16", "f16": "float16"}


@pytest.fixture(params=["cpu", "device"])
def place(request: pytest.FixtureRequest) -> str:
    return "cpu" if request.param == "cpu" else str(request.getfixturevalue("device"))


@pytest.mark.parametrize("name", HALVES)
def test_products_are_cast_and_losses_are_not(name: str, place: str) -> None:
    half = minidl.float16 if name == "f16" else minidl.bfloat16
    x = minidl.randn(2, 3, 6, 6, device=place)
    w = minidl.randn(4, 3, 3, 3, device=place)
    with minidl.autocast(name):
        y = F.conv2d(x, w)
        assert y.dtype == half
        flat = y.flatten(1)
        z = F.linear(flat, minidl.randn(5, flat.shape[1], device=place))
        assert z.dtype == half and (z @ minidl.ones(5, 2, device=place)).dtype == half
        assert F.relu(y).dtype == half and F.max_pool2d(y, 2).dtype == half
        for wide in (
            F.softmax(z, 1),
            F.log_softmax(z, 1),
            F.cross_entropy(z, np.array([0, 1])),
            F.gelu(z),
            z.mean(),
            z + z.float(),
        ):
            assert wide.dtype == np.float32
        assert z.sum().dtype == half
        assert (
            F.layer_norm(z, (5,), minidl.ones(5, device=place), minidl.zeros(5, device=place)).dtype
            == np.float32
        )
    assert F.conv2d(x, w).dtype == np.float32


def test_gradients_and_batch_norm_statistics_stay_float32(place: str) -> None:
    minidl.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 5)
    ).to(place)
    x = minidl.randn(4, 3, 6, 6).to(place)
    with minidl.autocast("bf16"):
        loss = F.cross_entropy(model(x), np.array([0, 1, 2, 3]))
        loss.backward()
    assert loss.dtype == np.float32
    assert {t.dtype for t in (*model.parameters(), *model.buffers())} == {np.dtype("f4"), np.dtype("i8")}
    for parameter in model.parameters():
        assert parameter.grad is not None and parameter.grad.dtype == np.float32
    assert model[1].running_mean.abs().sum().item() > 0


@pytest.mark.parametrize(("name", "digits"), [("bf16", 8), ("f16", 11)])
def test_every_operator_of_the_table_comes_near_float32(name: str, digits: int, place: str) -> None:
    far = []
    for entry in TABLE:

        def mixed(m: Any, functional: Any, *tensors: Tensor, function: Any = entry.function) -> Tensor:
            with minidl.autocast(name):
                y = function(m, functional, *tensors)
            return y.float()

        exact, expected = run(entry, entry.inputs(np.float32))
        y, grads = run(dataclasses.replace(entry, function=mixed), entry.inputs(np.float32), place)
        for found, wanted in ((y, exact), *zip(grads, expected, strict=True)):
            # operands and results are rounded to so many digits; they are of order 1, and their products may cancel
            scale = max(np.abs(wanted[np.isfinite(wanted)]).max(initial=0), 0.1)
            if not np.allclose(found, wanted, rtol=0, atol=4 * 2.0**-digits * scale, equal_nan=True):
                far.append(entry.name)
    assert far == []


@pytest.mark.parametrize("text", [text for text, shapes in CASES.items() if shapes])
def test_every_module_takes_what_a_convolution_gives(text: str) -> None:
    module = build(text, nn)
    arrays = [a.astype(np.float32) if a.dtype.kind == "f" else a for a in inputs(text, CASES[text])]
    wide = [Tensor(a) for a in arrays]
    halves = [minidl.cast(t, minidl.bfloat16) if t.dtype == np.float32 else t for t in wide]
    minidl.manual_seed(0)
    exact = module(*wide)
    minidl.manual_seed(0)
    with minidl.autocast("bf16"):
        found = module(*halves)
    y, expected = (t[0] if isinstance(t, tuple) else t for t in (found, exact))
    scale = max(expected.abs().max().item(), 0.1)
    np.testing.assert_allclose(y.detach().float(), expected.detach(), atol=6 * 2.0**-8 * scale)
    if y.requires_grad:
        y.float().sum().backward()
    assert {p.grad.dtype for p in module.parameters() if p.grad is not None} <= {np.dtype("f4")}


@pytest.mark.parametrize("given", [np.float32, minidl.bfloat16], ids=str)
def test_attention_takes_masks_in_float32(given: Any) -> None:
    minidl.manual_seed(0)
    layer, x = nn.MultiheadAttention(8, 2), minidl.randn(5, 2, 8)
    past, padding = np.log(np.tri(5, dtype=np.float32) + 1e-30), np.arange(10).reshape(2, 5) % 5 == 4
    for masks in ({"attn_mask": past}, {"attn_mask": past, "key_padding_mask": padding}, {"is_causal": True}):
        exact, _ = layer(x, x, x, **masks)
        with minidl.autocast("bf16"):
            y, weights = layer(*[minidl.cast(x, given)] * 3, **masks)
        assert weights.dtype == np.float32
        np.testing.assert_allclose(y.float().detach(), exact.detach(), atol=0.01)


def test_float32_and_16_bit_tensors_meet() -> None:
    q, k = minidl.randn(2, 5, 8), minidl.randn(2, 5, 8)
    v = minidl.cast(minidl.randn(2, 5, 8), minidl.bfloat16)
    x = minidl.randn(2, 3, 4)
    half = minidl.cast(x, minidl.bfloat16)
    with pytest.raises(TypeError, match="value has dtype bfloat16"):
        F.scaled_dot_product_attention(q, k, v)
    with minidl.autocast("bf16"):
        assert F.scaled_dot_product_attention(q, k, v).dtype == minidl.bfloat16
        for residual in (x, half):
            y = F.batch_norm(half, None, None, training=True, residual=residual)
            assert y.dtype == minidl.bfloat16
        with pytest.raises(TypeError, match="residual has dtype float64"):
            F.batch_norm(half, None, None, training=True, residual=x.double())


@pytest.mark.parametrize("name", HALVES)
def test_a_training_run_comes_near_float32(name: str) -> None:
    def losses(half: str | None) -> list[float]:
        minidl.manual_seed(0)
        model = models.create("resnet20", num_classes=4, layers=[1, 1, 1])
        optimizer = optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        scaler = minidl.GradScaler(enabled=half == "f16")
        rng = np.random.default_rng(0)
        images = Tensor(rng.standard_normal((8, 3, 16, 16)).astype(np.float32))
        labels = rng.integers(0, 4, 8)
        out = []
        for _ in range(6):
            optimizer.zero_grad()
            with minidl.autocast(half or "bf16", enabled=half is not None):
                loss = F.cross_entropy(model(images), labels)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            out.append(loss.item())
        return out

    exact, mixed = losses(None), losses(name)
    assert mixed[-1] < 0.7 * mixed[0]
    np.testing.assert_allclose(mixed, exact, rtol=0.02)


def test_the_scaler_skips_steps_that_overflow_and_grows_after_good_ones() -> None:
    p = nn.Parameter(np.ones(2, np.float32))
    optimizer = optim.SGD([p], lr=1.0)
    scaler = minidl.GradScaler(init_scale=8.0, growth_interval=2)
    for gradient, done, scale in ((1.0, True, 8.0), (np.inf, False, 4.0), (1.0, True, 4.0), (2.0, True, 8.0)):
        before = p.data.copy()
        p.grad = Tensor(np.full(2, gradient * scaler.get_scale(), np.float32))
        assert scaler.step(optimizer) is done
        scaler.update()
        assert scaler.get_scale() == scale
        np.testing.assert_array_equal(p.data, before - (gradient if done else 0))


def test_gradients_are_unscaled_once_for_clipping() -> None:
    p = nn.Parameter(np.ones(1, np.float32))
    optimizer = optim.SGD([p], lr=1.0)
    scaler = minidl.GradScaler(init_scale=4.0)
    scaler.scale((p * 3).sum()).backward()
    assert p.grad is not None
    earlier = p.grad * minidl.ones(1, requires_grad=True)
    scaler.unscale_(optimizer)
    assert p.grad.item() == 3.0
    with pytest.raises(RuntimeError, match="changed in place"):
        earlier.backward()
    with pytest.raises(RuntimeError, match="unscale_ was called already"):
        scaler.unscale_(optimizer)
    scaler.step(optimizer)
    assert p.item() == -2.0
    scaler.update()
    with pytest.raises(RuntimeError, match="update without a step"):
        scaler.update()


def test_the_scalers_state_is_saved_and_loaded() -> None:
    scaler = minidl.GradScaler(init_scale=32.0)
    other = minidl.GradScaler()
    other.load_state_dict(scaler.state_dict())
    assert other.get_scale() == 32.0
    with pytest.raises(ValueError, match="scale above 0"):
        other.load_state_dict({"scale": 0.0, "good_steps": 0})
    with pytest.raises(ValueError, match="GradScaler: expects init_scale > 0"):
        minidl.GradScaler(growth_factor=1.0)
    with pytest.raises(TypeError, match="autocast: dtype expects 'bf16' or 'f16', got 'float32'"):
        minidl.autocast("float32")


def test_a_checkpoint_is_recomputed_in_the_precision_of_its_forward_pass() -> None:
    seen = []

    def block(x: Tensor) -> Tensor:
        y = x @ minidl.ones(3, 3)
        seen.append(y.dtype.name)
        return y

    x = minidl.ones(2, 3, requires_grad=True)
    with minidl.autocast("f16"):
        y = minidl.checkpoint(block, x)
    y.sum().backward()
    assert seen == ["float16", "float16"]


def test_autocast_nests_and_can_decorate() -> None:
    @minidl.autocast("f16")
    def product(a: Tensor) -> Tensor:
        with minidl.autocast("f16", enabled=False):
            assert (a @ a).dtype == np.float32
        return a @ a

    assert product(minidl.ones(2, 2)).dtype == np.float16
    assert product(product(minidl.ones(2, 2)).float()).dtype == np.float16
