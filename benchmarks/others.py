"""The other sides of the network benchmarks: PyTorch in three modes, ONNX Runtime, OpenVINO.

Each takes part when it is installed. PyTorch's networks are those of tests/fixtures/make_model_fixtures.py
and make_autoencoder_fixtures.py; the runtimes get the PyTorch network as an ONNX file (``pip install onnx``).
"""

from __future__ import annotations

import functools
import importlib
import io
import warnings
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.cases import AUTOENCODER, AUTOENCODER_OPTIONS, Contestant, Network, data_of

State = dict[str, np.ndarray]


def _import(name: str) -> Any | None:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def torch_network(case: Network, state: State) -> Any:
    """PyTorch's network with these weights, or without any with its own random ones."""
    import torch
    from torch import nn

    from tests.fixtures.make_autoencoder_fixtures import build
    from tests.fixtures.make_model_fixtures import TorchResNet
    from tests.models.parity_cases import Case

    model: Any
    if case.model == AUTOENCODER:
        twin = build(AUTOENCODER, (3, case.size, case.size), AUTOENCODER_OPTIONS)
        model = nn.Sequential(OrderedDict(twin.named_children()))
    else:
        model = TorchResNet(Case("", case.model, classes=10 if case.model == "resnet20" else 1000))
    if state:
        model.load_state_dict({k: torch.from_numpy(v.copy()) for k, v in state.items()})
    return model


def torch_convolution(
    torch: Any, images: Any, weights: Any, grads: Any, stride: int, pad: int
) -> list[Callable[[], Any]]:
    """PyTorch's three directions of a convolution: the result, the input's gradient, the weight's."""

    def gradient(mask: list[bool]) -> Any:
        return torch.ops.aten.convolution_backward(
            grads, images, weights, None, [stride] * 2, [pad] * 2, [1, 1], False, [0, 0], 1, mask
        )

    return [
        lambda: torch.conv2d(images, weights, None, stride, pad),
        lambda: gradient([True, False, False])[0],
        lambda: gradient([False, True, False])[1],
    ]


def torch_contestant(case: Network, state: State, channels_last: bool, compiled: bool = False) -> Contestant:
    """The same work as minidl's in PyTorch."""
    import torch

    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    model = torch_network(case, state).to(memory_format=memory_format)
    call: Any = torch.compile(model) if compiled else model
    x, labels = data_of(case)
    images = torch.from_numpy(np.ascontiguousarray(x)).contiguous(memory_format=memory_format)
    targets = torch.from_numpy(labels)
    if not case.training:
        model.eval()

        def infer() -> np.ndarray:
            with torch.inference_mode():
                return np.asarray(call(images).numpy())

        return Contestant(infer)
    reconstructs = case.model == AUTOENCODER
    optimizer: Any = (
        torch.optim.Adam(model.parameters(), lr=1e-3)
        if reconstructs
        else torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    )

    def step() -> float:
        optimizer.zero_grad()
        y = call(images)
        if reconstructs:
            loss = torch.nn.functional.mse_loss(torch.sigmoid(y), images)
        else:
            loss = torch.nn.functional.cross_entropy(y, targets)
        loss.backward()
        optimizer.step()
        return float(loss.item())

    def gradients() -> State:
        return {name: p.grad.numpy() for name, p in model.named_parameters()}

    return Contestant(step, gradients)


@functools.cache
def compile_problem() -> str:
    """Why torch.compile does not work here (no C++ compiler, most often); empty where it does."""
    import torch

    try:
        torch.compile(lambda x: 2 * x + 1)(torch.ones(8))
    except Exception as error:  # whatever the tool chain raises
        return (str(error).strip().splitlines() or [repr(error)])[0][:200]
    return ""


def onnx_bytes(case: Network, state: State) -> bytes:
    """The PyTorch network in evaluation mode as an ONNX file, for the case's input shape."""
    import torch

    model = torch_network(case, state).eval()
    images = torch.from_numpy(np.ascontiguousarray(data_of(case)[0]))
    file = io.BytesIO()
    with warnings.catch_warnings():  # the exporter's own deprecations
        warnings.simplefilter("ignore")
        options: dict[str, Any] = {"dynamo": False, "input_names": ["images"], "output_names": ["logits"]}
        torch.onnx.export(model, (images,), file, **options)  # type: ignore[arg-type]  # a file object is fine
    return file.getvalue()


def onnx_runtime(case: Network, file: bytes, threads: int) -> Contestant:
    """Inference by ONNX Runtime with its own settings but for the number of threads."""
    import onnxruntime  # type: ignore[import-untyped]

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    feed = {"images": np.ascontiguousarray(data_of(case)[0])}
    return Contestant(lambda: session.run(None, feed)[0])


def openvino(case: Network, file: bytes, threads: int) -> dict[str, Contestant]:
    """Inference by OpenVINO in float32 and, where the processor has it, in bfloat16."""
    import openvino as ov  # type: ignore[import-untyped]

    core = ov.Core()
    images = np.ascontiguousarray(data_of(case)[0])
    precisions = {"OpenVINO": "f32"}
    if "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        precisions["OpenVINO bf16"] = "bf16"

    def runner(precision: str) -> Callable[[], np.ndarray]:
        config = {
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": precision,
        }
        request = core.compile_model(core.read_model(file), "CPU", config).create_infer_request()
        return lambda: np.array(request.infer({0: images}, share_inputs=True)[0])

    return {name: Contestant(runner(precision)) for name, precision in precisions.items()}


def enter(
    contestants: dict[str, Contestant], case: Network, state: State, compiled: bool, threads: int
) -> dict[str, str]:
    """Add everyone who can take part; returns who cannot, and why."""
    torch = _import("torch")
    if torch is None:
        return dict.fromkeys(("PyTorch", "ONNX Runtime", "OpenVINO"), "torch is not installed")
    missing: dict[str, str] = {}
    torch.set_num_threads(threads)
    contestants["torch NCHW"] = torch_contestant(case, state, False)
    contestants["torch NHWC"] = torch_contestant(case, state, True)
    problem = compile_problem() if compiled else "left out, as asked for"
    if problem:
        missing["torch.compile"] = problem
    else:
        torch._dynamo.reset()
        contestants["torch.compile"] = torch_contestant(case, state, True, compiled=True)
    if case.training:
        return missing
    file = None
    for module, name in (("onnxruntime", "ONNX Runtime"), ("openvino", "OpenVINO")):
        for needed in (module, "onnx"):
            if _import(needed) is None:
                missing[name] = f"{needed} is not installed"
        if name in missing:
            continue
        file = file or onnx_bytes(case, state)
        if module == "onnxruntime":
            contestants[name] = onnx_runtime(case, file, threads)
        else:
            contestants |= openvino(case, file, threads)
    return missing
