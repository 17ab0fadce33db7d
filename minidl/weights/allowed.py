"""The allow-list: every global that a pickle may name, with what stands in for it here.

Nothing of what a file names is ever imported or called: the table maps a name to a function of this package
that checks its arguments and builds plain data. A name that is not in the table is refused.
"""

from __future__ import annotations

from typing import NoReturn

from minidl.errors import MinidlError
from minidl.weights.dtypes import BY_NAME, BY_STORAGE, Element, count
from minidl.weights.files import quoted
from minidl.weights.stand_ins import (
    AllowedGlobal,
    Build,
    LegacyParameter,
    NumpyArray,
    NumpyDtype,
    PickledObject,
    StorageRef,
    TensorRef,
    as_bytes,
    checked_key,
    natural,
    naturals,
    short,
)

# ---- tensors


def rebuild_tensor(arguments: tuple[object, ...]) -> TensorRef:
    """torch._utils._rebuild_tensor(_v2): storage, offset, size, stride[, requires_grad, hooks, metadata]."""
    storage, offset, size, stride, *rest = arguments
    if not isinstance(storage, StorageRef):
        raise TypeError(f"a tensor on {short(storage)}")
    return _checked_tensor(storage, storage.element, offset, size, stride, rest[2:3])


def _tensor_v3(arguments: tuple[object, ...]) -> TensorRef:
    """torch._utils._rebuild_tensor_v3: as v2, with the dtype beside an untyped storage."""
    storage, offset, size, stride, _requires_grad, _hooks, dtype, *rest = arguments
    if not isinstance(storage, StorageRef):
        raise TypeError(f"a tensor on {short(storage)}")
    if not isinstance(dtype, AllowedGlobal) or dtype.element is None:
        raise TypeError("a tensor without a dtype")
    return _checked_tensor(storage, dtype.element, offset, size, stride, rest[:1])


def _checked_tensor(
    storage: StorageRef,
    element: Element,
    offset: object,
    size: object,
    stride: object,
    metadata: list[object],
) -> TensorRef:
    """Every element must lie inside the storage; Python's integers do not overflow."""
    if metadata and metadata[0]:
        raise ValueError("a tensor that is conjugate or negated, or carries other metadata")
    sizes, strides, start = naturals(size), naturals(stride), natural(offset)
    if len(sizes) != len(strides):
        raise ValueError(f"a tensor of {len(sizes)} sizes and {len(strides)} strides")
    if count(sizes):
        last = start + sum((length - 1) * step for length, step in zip(sizes, strides, strict=True))
        if (last + 1) * element.itemsize > storage.nbytes:
            raise ValueError(
                f"a tensor of size {sizes[:8]} that reaches element {last} "
                f"of a storage of {storage.nbytes // element.itemsize}"
            )
    return TensorRef(storage, element, start, sizes, strides)


def _first_tensor(arguments: tuple[object, ...]) -> object:
    """torch._utils._rebuild_parameter: data, requires_grad, hooks[, state]."""
    if not arguments or not isinstance(arguments[0], TensorRef):
        raise TypeError("a parameter without a tensor")
    return arguments[0]


def _tensor_with_attributes(arguments: tuple[object, ...]) -> object:
    """torch._tensor._rebuild_from_type_v2: function, type, its arguments, attributes (dropped)."""
    function, _type, inner, _attributes = arguments
    if not isinstance(function, AllowedGlobal) or not function.name.startswith("torch._utils._rebuild_"):
        raise TypeError("a tensor rebuilt by something else")
    if type(inner) is not tuple:
        raise TypeError("arguments that are not a tuple")
    return function(inner)


def _legacy_parameter(arguments: tuple[object, ...]) -> object:
    return _first_tensor(arguments) if arguments else LegacyParameter()


# ---- plain data


def _inert(_arguments: tuple[object, ...]) -> object:
    return PickledObject()


def _dictionary(arguments: tuple[object, ...]) -> object:
    """dict() or OrderedDict([[key, value], ...])."""
    if not arguments:
        return {}
    (pairs,) = arguments
    if type(pairs) is dict:
        return pairs
    if type(pairs) not in (list, tuple):
        raise TypeError(f"a dictionary of {short(pairs)}")
    result = {}
    for pair in pairs:  # type: ignore[attr-defined]
        if type(pair) not in (list, tuple) or len(pair) != 2:
            raise TypeError("a dictionary of something else than pairs")
        result[checked_key(pair[0])] = pair[1]
    return result


def _default_dictionary(arguments: tuple[object, ...]) -> object:
    return _dictionary(arguments[1:2])  # the first argument is the factory


def _sequence(arguments: tuple[object, ...]) -> object:
    """set, frozenset, list or tuple of one sequence: the sequence itself, a copy would cost memory."""
    (items,) = arguments or ((),)
    if type(items) not in (list, tuple):
        raise TypeError(f"a sequence of {short(items)}")
    return items


def _size(arguments: tuple[object, ...]) -> object:
    (sizes,) = arguments or ((),)
    return naturals(sizes)


def _encoded(arguments: tuple[object, ...]) -> object:
    """_codecs.encode(text, "latin1"): how protocol 2 carries bytes."""
    text, codec, *_ = (*arguments, "utf-8")
    if type(text) is not str or codec not in ("latin1", "latin-1", "utf-8"):
        raise TypeError("an encoding other than latin1")
    return text.encode("latin1" if codec != "utf-8" else "utf-8")


def _bytes(arguments: tuple[object, ...]) -> object:
    """bytes() or bytearray(bytes): never a length, which would allocate."""
    return as_bytes(arguments[0]) if arguments else b""


def _complex(arguments: tuple[object, ...]) -> object:
    real, imaginary = arguments
    if type(real) is not float or type(imaginary) is not float:
        raise TypeError("a complex number of something else than two floats")
    return complex(real, imaginary)


# ---- NumPy


def _numpy_dtype(arguments: tuple[object, ...]) -> object:
    code = arguments[0] if arguments else None
    if isinstance(code, AllowedGlobal):
        raise TypeError("a NumPy dtype that is a class")
    if type(code) is not str:
        raise TypeError("a NumPy dtype without a code")
    return NumpyDtype(code)


def _numpy_scalar(arguments: tuple[object, ...]) -> object:
    """numpy's scalar(dtype, bytes), as a Python number."""
    dtype, data = arguments
    if not isinstance(dtype, NumpyDtype):
        raise TypeError("a NumPy scalar without a dtype")
    return dtype.array((), as_bytes(data), False).item() if dtype.plain else PickledObject()


def _numpy_frombuffer(arguments: tuple[object, ...]) -> object:
    """numpy's _frombuffer(bytes, dtype, shape, order) of protocol 5."""
    data, dtype, shape, order = arguments
    if not isinstance(dtype, NumpyDtype):
        raise TypeError("a NumPy array without a dtype")
    return NumpyArray(dtype.array(naturals(shape), as_bytes(data), order == "F"))


def _table() -> dict[tuple[str, str], AllowedGlobal]:
    names: dict[str, Build | None] = {
        "collections OrderedDict": _dictionary,
        "collections defaultdict": _default_dictionary,
        "collections Counter": _dictionary,
        "_codecs encode": _encoded,
        "torch Size": _size,
        "torch Tensor": None,
        "torch device": _inert,
        "torch._utils _rebuild_tensor": rebuild_tensor,
        "torch._utils _rebuild_tensor_v2": rebuild_tensor,
        "torch._utils _rebuild_tensor_v3": _tensor_v3,
        "torch._utils _rebuild_parameter": _first_tensor,
        "torch._utils _rebuild_parameter_with_state": _first_tensor,
        "torch._tensor _rebuild_from_type_v2": _tensor_with_attributes,
        "torch.nn.parameter Parameter": _legacy_parameter,
        "torch.autograd.variable Variable": _legacy_parameter,
        "torch.nn.parameter Buffer": None,
        "torch.serialization _get_layout": _inert,
        "argparse Namespace": _inert,
        "types SimpleNamespace": _inert,
        "datetime datetime": _inert,
        "datetime date": _inert,
        "datetime timedelta": _inert,
        "numpy dtype": _numpy_dtype,
        "numpy ndarray": None,
    }
    for kind in ("Path", "PosixPath", "WindowsPath", "PurePath", "PurePosixPath", "PureWindowsPath"):
        names[f"pathlib {kind}"] = _inert
        names[f"pathlib._local {kind}"] = _inert
    for module in ("builtins", "__builtin__"):  # Python 3 and 2
        for kind in ("set", "frozenset", "list", "tuple"):
            names[f"{module} {kind}"] = _sequence
        for kind in ("int", "float", "str", "bool"):
            names[f"{module} {kind}"] = None
        names[f"{module} dict"] = _dictionary
        names[f"{module} complex"] = _complex
        names[f"{module} bytes"] = names[f"{module} bytearray"] = _bytes
    for module in ("numpy.core", "numpy._core"):  # NumPy 1 and 2
        names[f"{module}.multiarray scalar"] = _numpy_scalar
        names[f"{module}.multiarray _reconstruct"] = lambda _arguments: NumpyArray()
        names[f"{module}.numeric _frombuffer"] = _numpy_frombuffer
    table = {}
    for key, build in names.items():
        module, _, name = key.partition(" ")
        table[module, name] = AllowedGlobal(f"{module}.{name}", build)
    for storage, element in BY_STORAGE.items():
        for module in ("torch", "torch.cuda"):
            for kind in (
                storage,
                storage.replace("Storage", "Tensor"),
            ):  # the tar format names tensor types too
                table[module, kind] = AllowedGlobal(f"{module}.{kind}", None, element)
    for module in ("torch", "torch.cuda", "torch.storage"):
        table[module, "UntypedStorage"] = AllowedGlobal(f"{module}.UntypedStorage", None, BY_NAME["uint8"])
    for name, element in BY_NAME.items():
        table["torch", name] = AllowedGlobal(f"torch.{name}", None, element)
    return table


ALLOWED = _table()
"""(module, name) -> what stands in for it. The whole list of what a weights file can name."""


def find_global(module: str, name: str, path: str) -> AllowedGlobal:
    """The stand-in for `module`.`name`; MinidlError naming it when it is not in the table."""
    found = ALLOWED.get((module, name))
    return found if found is not None else _refuse(module, name, path)


def _refuse(module: str, name: str, path: str) -> NoReturn:
    asked = quoted(f"{module}.{name}", 120)[1:-1]
    if module == "__main__" or module.startswith(("torch.nn.modules", "torchvision.models", "timm.models")):
        reason = (
            "a class: the file holds a whole pickled model, not only its weights; "
            "save model.state_dict() with torch.save instead"
        )
    elif module.startswith("torch") and any(
        part in name for part in ("Storage", "float8", "qtensor", "sparse")
    ):
        reason = "a kind of tensor that it has no counterpart for"
    else:
        reason = "it could run code"
    raise MinidlError(f"{path}: asks for {asked}, which minidl does not load: {reason}")
