"""Summaries: published parameter and multiply-add counts, and a model left as it was found."""

from __future__ import annotations

import json

import numpy as np
import pytest

from minidl import models, nn

# torchvision's documentation: parameters, and GFLOPS (which are multiply-adds).
PUBLISHED = {
    "resnet18": (11_689_512, 1.814),
    "resnet34": (21_797_672, 3.664),
    "resnet50": (25_557_032, 4.089),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_counts_are_the_published_ones(name: str) -> None:
    summary = models.summarize(models.create(name))
    parameters, giga = PUBLISHED[name]
    assert summary.parameters == parameters == sum(row.parameters for row in summary.rows)
    assert round(summary.multiply_adds / 1e9, 3) == giga
    assert summary.input_shape == (1, 3, 224, 224)


def test_the_cifar_networks_counts() -> None:
    plain, projected = (
        models.summarize(models.create("resnet20", shortcut=s)) for s in ("pad", "projection")
    )
    assert (plain.parameters, plain.multiply_adds) == (269_722, 40_551_040)
    assert (projected.parameters, projected.multiply_adds) == (272_474, 40_813_184)


def test_multiply_adds_and_activations_grow_with_the_batch() -> None:
    model = models.create("resnet20", layers=[1], widths=[4])
    one, four = (models.summarize(model, (3, 16, 16), batch_size=n) for n in (1, 4))
    assert four.multiply_adds == 4 * one.multiply_adds and four.activation_bytes == 4 * one.activation_bytes
    assert four.parameters == one.parameters


def test_each_layer_is_counted_by_its_own_geometry() -> None:
    model = nn.Sequential(
        nn.Conv2d(4, 6, (3, 2), stride=2, groups=2), nn.Flatten(), nn.Linear(30, 5, bias=False)
    )
    rows = models.summarize(model, (4, 11, 3)).rows
    assert [row.output_shape for row in rows] == [(1, 6, 5, 1), (1, 30), (1, 5)]
    assert [row.multiply_adds for row in rows] == [30 * 2 * 6, 0, 150]
    assert [row.parameters for row in rows] == [6 * 2 * 6 + 6, 0, 150]
    assert rows[0].activation_bytes == 30 * 4 and rows[2].activation_bytes == 5 * 4


def test_a_layer_used_twice_counts_its_work_twice_and_its_parameters_once() -> None:
    layer = nn.Conv2d(3, 3, 1, bias=False)
    summary = models.summarize(nn.Sequential(layer, layer), (3, 4, 4))
    assert summary.parameters == 9 and summary.multiply_adds == 2 * 16 * 9


def test_the_model_is_left_as_it_was() -> None:
    model = models.create("resnet20", layers=[1], widths=[4])
    model.bn1.freeze()
    model.train()
    before, modes = model.state_dict(), [m.training for m in model.modules()]
    summary = models.summarize(model)
    assert [m.training for m in model.modules()] == modes and False in modes and True in modes
    assert all(np.array_equal(a, before[n]) for n, a in model.state_dict().items())
    assert not any(m._forward_hooks for m in model.modules())
    assert summary.parameters - summary.trainable_parameters == 8
    with pytest.raises(ValueError, match="weight expects 3 input channels"):
        models.summarize(model, (5, 8, 8))
    assert not any(m._forward_hooks for m in model.modules()) and model.training


def test_the_table_shows_every_layer_and_the_totals() -> None:
    summary = models.summarize(models.create("resnet20"))
    lines = str(summary).splitlines()
    assert len(lines) == len(summary.rows) + 7
    assert len({len(line) for line in lines if set(line) == {"-"}}) == 1
    assert "layer2.0.downsample" in str(summary) and "40.55 M" in str(summary) and "269,722" in str(summary)
    assert json.loads(json.dumps(summary.to_dict()))["multiply_adds"] == 40_551_040


def test_wrong_sizes_are_refused() -> None:
    model = nn.Sequential(nn.ReLU())
    with pytest.raises(ValueError, match="the model has no pretrained_cfg"):
        models.summarize(model)
    for size in ((3, 0, 4), (3, 4), (3.0, 4, 4)):
        with pytest.raises(ValueError, match=r"input_size must be \(C, H, W\)"):
            models.summarize(model, size)
