"""Run one list of calls through minidl and PyTorch and print where value, shape, dtype or error differ.

Run by hand with PyTorch installed: ``python tests/compare_with_pytorch.py [-v]``. The exit code is 1 when a difference
is found that compared_calls.DELIBERATE does not list; docs/differences-from-pytorch.md explains those. ``-v`` also
prints the calls that fail in both.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import minidl
import minidl.nn.functional
from tests.compared_calls import CALLS, DELIBERATE


def inputs(m: Any) -> dict[str, Any]:
    """The tensors that calls name, in either library."""
    rng = np.random.default_rng(0)
    f = rng.standard_normal((2, 3, 4))
    return {
        "m": m,
        "F": m.nn.functional,
        "x": m.tensor(f.astype(np.float32)),
        "d": m.tensor(f, dtype=m.float64),
        "h": m.tensor(f.astype(np.float16)),
        "b16": m.tensor(f.astype(np.float32)).to(m.bfloat16),
        "v": m.tensor(rng.standard_normal(4).astype(np.float32)),
        "p": m.tensor((np.abs(f) + 0.5).astype(np.float32)),
        "i": m.tensor(rng.integers(-5, 6, (2, 3, 4))),
        "i32": m.tensor(rng.integers(-5, 6, (2, 3, 4)).astype(np.int32)),
        "u8": m.tensor(rng.integers(0, 200, (2, 3, 4)).astype(np.uint8)),
        "k": m.tensor(np.array([2, 0, 1, 2])),
        "mask": m.tensor(f > 0),
        "s": m.tensor(1.5),
        "sd": m.tensor(1.5, dtype=m.float64),
        "si": m.tensor(3),
        "e": m.tensor(np.zeros((0, 3), np.float32)),
        "z": m.tensor(np.array([0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan], np.float32)),
        "t": m.tensor(np.array([[1.0, 3.0, 3.0, 0.0], [2.0, 2.0, 2.0, 2.0]], np.float32)),
        "sq": m.tensor(rng.standard_normal((3, 3)).astype(np.float32)),
        "w": m.tensor(rng.standard_normal((2, 3)).astype(np.float32)).requires_grad_(),
        "inf": float("inf"),
        "nan": float("nan"),
    }


def plain(value: Any) -> Any:
    """A result as (kind, shape, dtype, array), comparable between libraries."""
    if isinstance(value, (tuple, list)):
        return [plain(v) for v in value]
    if hasattr(value, "requires_grad"):
        value = value.detach()
        dtype = str(value.dtype).replace("torch.", "")
        wide = value.double() if value.dtype not in (np.bool_,) else value
        return ("tensor", tuple(value.shape), dtype, np.asarray(wide.numpy()))
    if str(type(value).__module__).startswith("torch"):
        return ("other", str(value).replace("torch.", ""))
    return ("other", str(value))


def outcome(m: Any, call: str) -> Any:
    """The value of a call, or its exception."""
    names = inputs(m)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            lines = call.split("; ")
            for line in lines[:-1]:
                exec(line, names)
            return plain(eval(lines[-1], names))
    except SyntaxError:
        raise
    except Exception as error:
        return error


def difference(ours: Any, theirs: Any) -> str:
    """What differs, in a few words; empty when nothing does."""
    if isinstance(ours, Exception) or isinstance(theirs, Exception):
        if isinstance(ours, Exception) and isinstance(theirs, Exception):
            return ""
        told = [
            f"{type(r).__name__}: {r}".splitlines()[0][:90] if isinstance(r, Exception) else "a value"
            for r in (ours, theirs)
        ]
        return f"error: minidl {told[0]} | PyTorch {told[1]}"
    if isinstance(ours, list) or isinstance(theirs, list):
        if not (isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs)):
            return "number of results"
        return "; ".join(filter(None, (difference(a, b) for a, b in zip(ours, theirs, strict=True))))
    if ours[0] != "tensor" or theirs[0] != "tensor":
        return "" if ours[:2] == theirs[:2] else f"value: minidl {ours[1]} | PyTorch {theirs[1]}"
    found = []
    if ours[1] != theirs[1]:
        return f"shape: minidl {ours[1]} | PyTorch {theirs[1]}"
    if ours[2] != theirs[2]:
        found.append(f"dtype: minidl {ours[2]} | PyTorch {theirs[2]}")
    tolerance = {"float16": 2e-3, "bfloat16": 1.6e-2}.get(theirs[2], 2e-6)
    if not np.allclose(ours[3], theirs[3], tolerance, tolerance, equal_nan=True):
        found.append(f"value: minidl {ours[3].reshape(-1)[:4]} | PyTorch {theirs[3].reshape(-1)[:4]}")
    return "; ".join(found)


def main() -> int:
    """Print the differences; 1 when one of them is not listed as deliberate."""
    import torch

    same, deliberate, other = 0, 0, 0
    for call in CALLS:
        text = difference(outcome(minidl, call), outcome(torch, call))
        if not text:
            if "-v" in sys.argv and isinstance(outcome(minidl, call), Exception):
                print(f"both fail  {call}\n    {outcome(minidl, call)!r}\n    {outcome(torch, call)!r}")
            same += 1
            if call in DELIBERATE:
                print(f"now the same, though listed as different: {call}")
                other += 1
            continue
        listed = call in DELIBERATE
        deliberate, other = deliberate + listed, other + (not listed)
        print(f"{'deliberate' if listed else 'DIFFERENT'}  {call}\n    {text}")
    print(f"{len(CALLS)} calls: {same} the same, {deliberate} deliberately different, {other} to look at")
    return 1 if other else 0


if __name__ == "__main__":
    sys.exit(main())
