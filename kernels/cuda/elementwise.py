"""ReLU and the sigmoid, their gradients, and addition, launched."""

from __future__ import annotations

from minidl.kernels.cuda.device import Device, blocks
from minidl.kernels.cuda.launch import element, operand, piece
from minidl.kernels.reference import ReferenceBackend
from minidl.kernels.reference.checks import Array, expect_shape


def same_order(*arrays: Array) -> tuple[int, ...] | None:
    """The axes in which all these arrays are C-contiguous: as they are, or channels last; None if there is none."""
    ndim = arrays[0].ndim
    orders = [tuple(range(ndim))]
    if ndim >= 3:
        orders.append((0, *range(2, ndim), 1))
    for order in orders:
        if all(a.transpose(order).flags.c_contiguous for a in arrays):
            return order
    return None


def apply(device: Device, operator: str, a: Array, b: Array | None = None) -> Array:
    """The elements of ``operator`` (a struct of pointwise.cu); the result lies in memory like the operands."""
    order = same_order(a) if b is None else same_order(a, b)
    if order is None:
        order = tuple(range(a.ndim))
    a = operand(device, a.transpose(order))
    b = None if b is None else operand(device, b.transpose(order))
    y = device.empty(a.shape, a.dtype)
    if y.size:
        instance = f"pointwise<{element(a)}, {operator}>"
        kernel = device.compile("pointwise.cu", instances=[instance])[instance]
        device.launch(kernel, blocks(y.size, 256 * piece(y)), 256, (a, b, y, y.size))
    return y.transpose(sorted(range(y.ndim), key=lambda axis: order[axis]))


class ElementwiseMixin(ReferenceBackend):
    """relu, sigmoid, their gradients, and add."""

    device: Device

    def relu(self, x: Array) -> Array:
        """max(x, 0), any shape; NaN stays NaN."""
        return super().relu(x) if element(x) is None else apply(self.device, "Relu", x)

    def relu_backward(self, gy: Array, y: Array) -> Array:
        """gy where the output y of ReLU is positive, 0 elsewhere (also where y is NaN)."""
        expect_shape("relu_backward", "y", y, gy.shape)
        if element(gy) is None or y.dtype != gy.dtype:
            return super().relu_backward(gy, y)
        return apply(self.device, "ReluGradient", gy, y)

    def sigmoid(self, x: Array) -> Array:
        """1 / (1 + exp(-x)), any shape."""
        return super().sigmoid(x) if element(x) is None else apply(self.device, "Sigmoid", x)

    def sigmoid_backward(self, gy: Array, y: Array) -> Array:
        """gy * y * (1 - y), for the output y of the sigmoid."""
        expect_shape("sigmoid_backward", "y", y, gy.shape)
        if element(gy) is None or y.dtype != gy.dtype:
            return super().sigmoid_backward(gy, y)
        return apply(self.device, "SigmoidGradient", gy, y)

    def add(self, a: Array, b: Array) -> Array:
        """a + b, both of one shape."""
        expect_shape("add", "b", b, a.shape)
        if element(a) is None or a.dtype != b.dtype:
            return super().add(a, b)
        return apply(self.device, "Add", a, b)
