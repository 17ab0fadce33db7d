"""Pictures of graphs: every operator and leaf once, nothing overlaps, arrows point down."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest

from minidl import Tensor, nn
from minidl.autograd import draw
from minidl.autograd.draw import draw_graph

SVG = "{http://www.w3.org/2000/svg}"


def loss() -> tuple[Tensor, nn.Module]:
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    x = Tensor(np.ones((5, 3), np.float32))
    h = net(x)
    return (h * h.exp()).sum(), net


def test_an_svg_shows_every_operator_and_named_leaf(tmp_path: Path) -> None:
    y, net = loss()
    path = draw_graph(y, tmp_path / "a.svg", dict(net.named_parameters()))
    texts = [t.text for t in ET.parse(path).iter(SVG + "text")]
    assert texts.count("Linear") == 2 and {"ReLU", "Mul", "Exp", "Sum"} <= set(texts)
    assert {"0.weight", "0.bias", "2.weight", "2.bias"} <= set(texts)
    assert "4 x 3 float32" in texts and "scalar float32" in texts
    assert not list(tmp_path.glob("*.part"))


def test_boxes_do_not_overlap_and_inputs_are_above(tmp_path: Path) -> None:
    y, _ = loss()
    boxes = draw._collect(y, {}, 100)
    width, height = draw._place(boxes)
    for a in boxes:
        assert a.x > 0 and a.x + a.width < width and 0 < a.y < height
        assert all(s.y < a.y for s in a.sources)
        for b in boxes:
            if a is not b and a.layer == b.layer:
                assert a.x + a.width <= b.x or b.x + b.width <= a.x


def test_a_png_is_a_picture(tmp_path: Path) -> None:
    from PIL import Image

    y, _ = loss()
    with Image.open(draw_graph(y, tmp_path / "a.png")) as image:
        assert image.format == "PNG" and image.width > 200 and len(image.convert("P").getcolors()) > 3


def test_operator_names_are_escaped(tmp_path: Path) -> None:
    x = Tensor(np.ones(2), requires_grad=True)
    path = draw_graph((x * 2).sum(), tmp_path / "a.svg", {"<&>": x})
    assert "<&>" in [t.text for t in ET.parse(path).iter(SVG + "text")]


def test_wrong_use_is_told(tmp_path: Path) -> None:
    y, _ = loss()
    with pytest.raises(ValueError, match=r"expects to end in .svg or .png, got .*a.gif"):
        draw_graph(y, tmp_path / "a.gif")
    with pytest.raises(ValueError, match="more than max_nodes=3"):
        draw_graph(y, tmp_path / "a.svg", max_nodes=3)
    with pytest.raises(ValueError, match="not computed by recorded operators"):
        draw_graph(Tensor([1.0]), tmp_path / "a.svg")
    y.backward()
    with pytest.raises(ValueError, match="already walked"):
        draw_graph(y, tmp_path / "a.svg")
