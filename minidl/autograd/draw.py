"""The graph behind a tensor as a picture, SVG or PNG, laid out in layers from the leaves down to the result.

Layers are longest paths from the leaves; within a layer nodes are put at the mean of their neighbours' positions,
alternately from above and from below (the barycentre method of Sugiyama, Tagawa & Toda 1981).
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minidl.autograd.function import Function

if TYPE_CHECKING:
    from minidl.tensor import Tensor

__all__ = ["draw_graph"]

_HEIGHT, _GAP_X, _GAP_Y, _MARGIN = 40, 24, 44, 20
_CHARACTER = 7.3  # width of one character of the 12-pixel monospaced font
_COLOURS = {"leaf": ("#d5e8d4", "#5f8f4e"), "node": ("#ffffff", "#555555"), "root": ("#dae8fc", "#4a6fa5")}


@dataclass(eq=False)
class _Box:
    """One node of the picture."""

    kind: str
    lines: tuple[str, ...]
    sources: list[_Box] = field(default_factory=list)
    targets: list[_Box] = field(default_factory=list)
    layer: int = 0
    x: float = 0.0

    @property
    def width(self) -> float:
        return max(len(t) for t in self.lines) * _CHARACTER + 20

    @property
    def y(self) -> float:
        return _MARGIN + self.layer * (_HEIGHT + _GAP_Y)


def draw_graph(
    tensor: Tensor,
    path: str | os.PathLike[str],
    names: Mapping[str, Tensor] | None = None,
    max_nodes: int = 400,
) -> Path:
    """Write a picture of the graph that ``tensor`` was computed by.

    Args:
        tensor: the result, usually a loss; its graph must not have been freed by ``backward``.
        path: a file that ends in ``.svg``, or ``.png`` (needs Pillow).
        names: what to call leaves: ``dict(model.named_parameters())``.
        max_nodes: a larger graph is an error: nobody could read it.

    Returns:
        The path.

    Raises:
        ValueError: another ending, a tensor without a graph, or one that is too large.
    """
    target = Path(path)
    if target.suffix.lower() not in (".svg", ".png"):
        raise ValueError(f"draw_graph: path expects to end in .svg or .png, got {os.fspath(path)!r}")
    if tensor._node is None:
        raise ValueError("draw_graph: this tensor was not computed by recorded operators")
    boxes = _collect(tensor, {id(t): name for name, t in (names or {}).items()}, max_nodes)
    width, height = _place(boxes)
    partial = target.with_name(target.name + ".part")
    if target.suffix.lower() == ".svg":
        partial.write_text(_svg(boxes, width, height), encoding="utf8")
    else:
        _png(boxes, width, height).save(partial, format="PNG")
    os.replace(partial, target)
    return target


def _collect(tensor: Tensor, names: Mapping[int, str], max_nodes: int) -> list[_Box]:
    """Boxes of all nodes and leaves, inputs before outputs, with their arrows and layers."""
    nodes: dict[int, Function] = {}
    stack: list[Function] = [tensor._node]  # type: ignore[list-item]
    while stack:
        node = stack.pop()
        if node._saved is None:
            raise ValueError("draw_graph: the graph was already walked and freed; draw it before backward")
        if node._seq not in nodes:
            nodes[node._seq] = node
            stack.extend([e[0] for e in node._edges if e is not None and isinstance(e[0], Function)])
            if len(nodes) > max_nodes:
                raise ValueError(f"draw_graph: the graph has more than max_nodes={max_nodes} operators")
    boxes: dict[int, _Box] = {}
    shapes = {tensor._node._seq: _text(tensor.shape, tensor.dtype)}  # type: ignore[union-attr]
    for number in sorted(nodes, reverse=True):  # an output's shape is known from the node that reads it
        for edge in nodes[number]._edges:
            if edge is not None and isinstance(edge[0], Function):
                shapes[edge[0]._seq] = _text(edge[1], edge[2])
    for number in sorted(nodes):
        node = nodes[number]
        kind = "root" if node is tensor._node else "node"
        box = _Box(kind, (node.name, shapes[number]))
        for edge in node._edges:
            if edge is None:
                continue
            source = boxes.get(id(edge[0]))
            if source is None:
                source = boxes[id(edge[0])] = _Box(
                    "leaf", (names.get(id(edge[0]), "leaf"), _text(edge[1], edge[2]))
                )
            box.sources.append(source)
            source.targets.append(box)
        box.layer = 1 + max(s.layer for s in box.sources)
        boxes[id(node)] = box
    out = list(boxes.values())
    for box in out:
        if box.kind == "leaf":  # next to its first reader rather than at the top
            box.layer = min(t.layer for t in box.targets) - 1
    return out


def _text(shape: tuple[int, ...], dtype: Any) -> str:
    return f"{' x '.join(map(str, shape)) or 'scalar'} {dtype}"


def _place(boxes: list[_Box]) -> tuple[float, float]:
    """Positions within the layers; returns the size of the picture."""
    layers: list[list[_Box]] = [[] for _ in range(1 + max(b.layer for b in boxes))]
    for box in boxes:
        layers[box.layer].append(box)
    layers = [layer for layer in layers if layer]
    for i, layer in enumerate(layers):
        x = 0.0
        for box in layer:
            box.layer, box.x = i, x
            x += box.width + _GAP_X
    for turn in range(12):
        downwards = turn % 2 == 0
        for layer in layers if downwards else layers[::-1]:
            for box in layer:
                near = (box.sources if downwards else box.targets) or box.targets or box.sources
                box.x = sum(b.x + b.width / 2 for b in near) / len(near) - box.width / 2
            layer.sort(key=lambda b: b.x + b.width / 2)
            for before, after in itertools.pairwise(layer):
                after.x = max(after.x, before.x + before.width + _GAP_X)
    left = min(b.x for b in boxes)
    for box in boxes:
        box.x += _MARGIN - left
    return max(b.x + b.width for b in boxes) + _MARGIN, max(b.y for b in boxes) + _HEIGHT + _MARGIN


def _arrows(boxes: list[_Box]) -> list[tuple[float, float, float, float]]:
    """(x, y) from the bottom of a source to the top of its reader, spread over the reader's width."""
    out = []
    for box in boxes:
        for i, source in enumerate(box.sources):
            x2 = box.x + box.width * (i + 1) / (len(box.sources) + 1)
            out.append((source.x + source.width / 2, source.y + _HEIGHT, x2, box.y))
    return out


def _svg(boxes: list[_Box], width: float, height: float) -> str:
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}" font-family="monospace" font-size="12">',
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7" '
        'orient="auto"><path d="M0 0L8 4L0 8z" fill="#777777"/></marker></defs>',
        f'<rect width="{width:.0f}" height="{height:.0f}" fill="#ffffff"/>',
    ]
    for x1, y1, x2, y2 in _arrows(boxes):
        bend = (y2 - y1) / 2
        parts.append(
            f'<path d="M{x1:.1f} {y1:.1f}C{x1:.1f} {y1 + bend:.1f} {x2:.1f} {y2 - bend:.1f} {x2:.1f} {y2:.1f}" '
            'fill="none" stroke="#777777" marker-end="url(#tip)"/>'
        )
    for box in boxes:
        fill, line = _COLOURS[box.kind]
        radius = 14 if box.kind == "leaf" else 4
        parts.append(
            f'<rect x="{box.x:.1f}" y="{box.y:.1f}" width="{box.width:.1f}" height="{_HEIGHT}" rx="{radius}" '
            f'fill="{fill}" stroke="{line}"/>'
        )
        for i, text in enumerate(box.lines):
            weight = ' font-weight="bold"' if i == 0 else ' fill="#555555"'
            parts.append(
                f'<text x="{box.x + box.width / 2:.1f}" y="{box.y + 16 + 16 * i:.1f}" text-anchor="middle"{weight}>'
                f"{escape(text)}</text>"
            )
    return "\n".join([*parts, "</svg>\n"])


def _png(boxes: list[_Box], width: float, height: float) -> Any:
    from PIL import Image, ImageDraw, ImageFont

    scale = 2  # legible on dense screens
    image = Image.new("RGB", (int(width * scale), int(height * scale)), "white")
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(11 * scale)
    for arrow in _arrows(boxes):
        x1, y1, x2, y2 = (v * scale for v in arrow)
        draw.line((x1, y1, x2, y2), fill="#777777", width=scale)
        draw.polygon(
            ((x2, y2), (x2 - 4 * scale, y2 - 8 * scale), (x2 + 4 * scale, y2 - 8 * scale)), fill="#777777"
        )
    for box in boxes:
        fill, line = _COLOURS[box.kind]
        corners = [v * scale for v in (box.x, box.y, box.x + box.width, box.y + _HEIGHT)]
        draw.rounded_rectangle(corners, 8 * scale, fill=fill, outline=line, width=scale)
        for i, text in enumerate(box.lines):
            place = ((box.x + box.width / 2) * scale, (box.y + 12 + 16 * i) * scale)
            draw.text(place, text, fill="#000000" if i == 0 else "#555555", font=font, anchor="mm")
    return image
