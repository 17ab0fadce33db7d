"""Loading a state dict: every name, shape and value is checked before the first one is copied."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from minidl.autograd import no_grad
from minidl.errors import MinidlError
from minidl.kernels import devices
from minidl.tensor import Tensor

__all__ = ["StateDictError", "load_tensors"]

OPTIONAL_SUFFIX = "num_batches_tracked"  # files written before it existed lack it


class StateDictError(MinidlError, RuntimeError):
    """A state dict does not fit a module; the message lists every name.

    Attributes: `owner` and `source` (what was loaded into, what from), `missing`, `unexpected` (lists of
    names) and `mismatched` (name -> what is wrong with it).
    """

    def __init__(
        self,
        owner: str,
        missing: list[str],
        unexpected: list[str],
        mismatched: dict[str, str],
        source: str = "the state dict",
    ) -> None:
        self.owner, self.source = owner, source
        self.missing, self.unexpected, self.mismatched = missing, unexpected, mismatched
        super().__init__(self.short(None))

    def short(self, limit: int | None = 3) -> str:
        """The message with at most `limit` names of each kind."""
        kinds = {
            "missing": self.missing,
            "unexpected": self.unexpected,
            "that do not fit": [f"{name} {reason}" for name, reason in self.mismatched.items()],
        }
        parts = []
        for kind, names in kinds.items():
            if names:
                shown = names if limit is None else names[:limit]
                more = ", ..." if len(shown) < len(names) else ""
                parts.append(f"{len(names)} {kind}: {', '.join(shown)}{more}")
        return f"{self.source} does not fit {self.owner}: {'; '.join(parts)}"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.owner, self.missing, self.unexpected, self.mismatched, self.source)


def load_tensors(
    owner: str, tensors: Mapping[str, Tensor], state: Mapping[str, Any], strict: bool
) -> tuple[list[str], list[str]]:
    """Copies state[name] into tensors[name].data; returns (missing, unexpected). Changes nothing when it
    raises.
    """
    if not isinstance(state, Mapping):
        raise TypeError(
            f"{owner}.load_state_dict: state must be a dict of arrays, got {type(state).__name__}"
        )
    missing = [name for name in tensors if name not in state and not _optional(name)]
    unexpected = [str(name) for name in state if name not in tensors]
    mismatched: dict[str, str] = {}
    converted: dict[str, np.ndarray] = {}
    for name, tensor in tensors.items():
        if name in state:
            value = state[name]
            array = devices.host(value.data) if isinstance(value, Tensor) else np.asarray(value)
            if array.shape != tensor.shape:
                mismatched[name] = f"(shape {tensor.shape} expected, got {array.shape})"
                continue
            try:
                converted[name] = convert(array, tensor.dtype)
            except ValueError as error:
                mismatched[name] = f"({error})"
    if mismatched or (strict and (missing or unexpected)):
        shown = (missing, unexpected) if strict else ([], [])
        raise StateDictError(owner, *shown, mismatched)
    with no_grad():
        for name, array in converted.items():
            tensors[name].copy_(array)
    return missing, unexpected


def convert(array: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray:
    """The array in a dtype that must hold its values: integers exactly, floats rounded but never to infinity.

    bfloat16 and float16 widen exactly. Raises ValueError with a short reason.
    """
    if array.dtype == dtype:
        return array
    floating = array.dtype.kind == "f" or array.dtype.name == "bfloat16"
    if not (floating or array.dtype.kind in "iub"):
        raise ValueError(f"dtype {dtype} expected, got {array.dtype}")
    with np.errstate(all="ignore"):
        result = array.astype(dtype)
        if dtype.kind == "f" and floating:
            wide = array.astype(np.float64)
            if np.any(np.isinf(result) & np.isfinite(wide)):
                raise ValueError(f"values beyond the range of {dtype}")
        elif not np.array_equal(result.astype(array.dtype), array):
            raise ValueError(f"dtype {dtype} cannot hold the values of {array.dtype} exactly")
    return result


def _optional(name: str) -> bool:
    return name.rpartition(".")[2] == OPTIONAL_SUFFIX
