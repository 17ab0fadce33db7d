"""What a network is made of: output shapes, parameters, multiply-adds and activation memory of each layer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from minidl import kernels, nn
from minidl.autograd import no_grad
from minidl.nn.module import HookHandle
from minidl.tensor import Tensor

__all__ = ["Summary", "SummaryRow", "summarize"]


@dataclass(frozen=True)
class SummaryRow:
    """One call of a layer without children (a layer called twice has two rows; its parameters are in the
    first).

    Attributes:
        name: dotted name in the network.
        kind: class of the layer.
        output_shape: with the batch dimension.
        parameters: numbers learned.
        multiply_adds: of convolutions and fully connected layers, one multiplication with its addition
            counted as 1.
        activation_bytes: size of the output; 0 when the output is the input or a view of it.
    """

    name: str
    kind: str
    output_shape: tuple[int, ...]
    parameters: int
    multiply_adds: int
    activation_bytes: int


@dataclass(frozen=True)
class Summary:
    """The rows in the order of the calls, and the totals for the given input."""

    model: str
    input_shape: tuple[int, ...]
    rows: tuple[SummaryRow, ...]
    parameters: int
    trainable_parameters: int
    multiply_adds: int
    activation_bytes: int
    parameter_bytes: int

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            **{k: v for k, v in vars(self).items() if k != "rows"},
            "input_shape": list(self.input_shape),
            "rows": [{**vars(row), "output_shape": list(row.output_shape)} for row in self.rows],
        }

    def table(self) -> str:
        """A plain text table: one line per row, the totals below."""
        header = ("layer", "type", "output", "parameters", "mult-adds", "activations")
        cells = [header]
        for row in self.rows:
            cells.append(
                (
                    row.name,
                    row.kind,
                    " x ".join(map(str, row.output_shape)),
                    f"{row.parameters:,}" if row.parameters else "",
                    _count(row.multiply_adds) if row.multiply_adds else "",
                    _bytes(row.activation_bytes) if row.activation_bytes else "",
                )
            )
        widths = [max(len(line[i]) for line in cells) for i in range(len(header))]
        lines = []
        for line in cells:
            left = [text.ljust(width) for text, width in zip(line[:3], widths[:3], strict=True)]
            right = [text.rjust(width) for text, width in zip(line[3:], widths[3:], strict=True)]
            lines.append("  ".join(left + right).rstrip())
        rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
        totals = [
            f"{self.model} on an input of {' x '.join(map(str, self.input_shape))}",
            f"parameters       {self.parameters:,} ({self.trainable_parameters:,} trainable), "
            f"{_bytes(self.parameter_bytes)}",
            f"multiply-adds    {_count(self.multiply_adds)}",
            f"activations      {_bytes(self.activation_bytes)} (outputs of all layers)",
        ]
        return "\n".join([lines[0], rule, *lines[1:], rule, *totals])

    def __str__(self) -> str:
        return self.table()


def summarize(model: nn.Module, input_size: Sequence[int] | None = None, batch_size: int = 1) -> Summary:
    """Runs zeros through a network in eval mode, without gradients, and notes every layer's call.

    Args:
        model: left as it was found (mode, statistics, hooks).
        input_size: (C, H, W); None takes the network's pretrained_cfg.
        batch_size: images; multiply-adds and activations grow with it.

    The reference kernels do the work: no compiler is loaded for it.
    """
    if input_size is None:
        config = getattr(model, "pretrained_cfg", None)
        if config is None:
            raise ValueError("summarize: input_size (C, H, W) is needed, the model has no pretrained_cfg")
        input_size = config.input_size
    size = tuple(input_size)
    if len(size) != 3 or any(
        isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in (*size, batch_size)
    ):
        raise ValueError(
            f"summarize: input_size must be (C, H, W), got {input_size!r} and batch {batch_size!r}"
        )
    parameters = list(model.parameters())
    dtype = parameters[0].dtype if parameters else np.dtype(np.float32)
    recorder = _Recorder()
    modes = [(module, module.training) for module in model.modules()]
    try:
        for name, module in model.named_modules():
            if next(module.children(), None) is None:
                recorder.watch(name, module)
        for module, _ in modes:
            module.training = False
        with no_grad(), kernels.use("reference"):
            model(Tensor(np.zeros((batch_size, *size), dtype=dtype)))
    finally:
        recorder.remove()
        for module, training in modes:
            module.training = training
    return Summary(
        model=getattr(model, "name", "") or type(model).__name__,
        input_shape=(batch_size, *size),
        rows=tuple(recorder.rows),
        parameters=sum(p.size for p in parameters),
        trainable_parameters=sum(p.size for p in parameters if p.requires_grad),
        multiply_adds=sum(row.multiply_adds for row in recorder.rows),
        activation_bytes=sum(row.activation_bytes for row in recorder.rows),
        parameter_bytes=sum(p.size * p.dtype.itemsize for p in parameters),
    )


class _Recorder:
    """Collects a row at each call of the modules it watches."""

    def __init__(self) -> None:
        self.rows: list[SummaryRow] = []
        self._handles: list[HookHandle] = []
        self._counted: set[int] = set()  # parameters that already stand in a row

    def watch(self, name: str, module: nn.Module) -> None:
        def record(layer: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            if not isinstance(output, Tensor):
                return
            fresh = [p for p in layer.parameters() if id(p) not in self._counted]
            self._counted.update(id(p) for p in fresh)
            shares = any(isinstance(a, Tensor) and np.shares_memory(a.data, output.data) for a in args)
            self.rows.append(
                SummaryRow(
                    name=name,
                    kind=type(layer).__name__,
                    output_shape=output.shape,
                    parameters=sum(p.size for p in fresh),
                    multiply_adds=_multiply_adds(layer, args[0], output),
                    activation_bytes=0 if shares else output.data.nbytes,
                )
            )

        self._handles.append(module.register_forward_hook(record))

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()


def _multiply_adds(layer: nn.Module, given: Any, output: Tensor) -> int:
    """Each output element is one dot product with a row of the weight; in a transposed convolution each input
    element is multiplied with a row.
    """
    if isinstance(layer, nn.Conv2d | nn.Linear):
        return math.prod(output.shape) * math.prod(layer.weight.shape[1:])
    if isinstance(layer, nn.ConvTranspose2d) and isinstance(given, Tensor):
        return math.prod(given.shape) * math.prod(layer.weight.shape[1:])
    return 0


def _count(number: int) -> str:
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if number >= size:
            return f"{number / size:.2f} {unit}"
    return str(number)


def _bytes(number: int) -> str:
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if number >= size:
            return f"{number / size:.2f} {unit}"
    return f"{number} B"
