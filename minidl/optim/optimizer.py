"""Optimizer: parameter groups, their settings, the state of each parameter, and saving all of it exactly."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any, ClassVar

import numpy as np

from minidl import kernels
from minidl.autograd.mode import settle
from minidl.errors import MinidlError
from minidl.kernels import capturing, devices
from minidl.tensor import Tensor

__all__ = ["Optimizer", "OptimizerStateError", "check_settings"]

Group = dict[str, Any]

# name -> (lower bound, bound itself allowed, upper bound excluded); "betas" holds two numbers
_RANGES: dict[str, tuple[float, bool, float]] = {
    "lr": (0.0, True, float("inf")),
    "momentum": (0.0, True, float("inf")),
    "dampening": (-float("inf"), False, float("inf")),
    "weight_decay": (0.0, True, float("inf")),
    "eps": (0.0, True, float("inf")),
    "alpha": (0.0, True, float("inf")),
    "lr_scale": (0.0, True, float("inf")),
    "betas": (0.0, True, 1.0),
}


class OptimizerStateError(MinidlError, RuntimeError):
    """A saved optimizer state does not fit the optimizer it is loaded into."""


def check_settings(owner: str, settings: Mapping[str, Any]) -> Group:
    """The known settings as plain Python numbers, the others untouched; ValueError or TypeError names a wrong
    one.
    """
    checked: Group = {}
    for name, value in settings.items():
        if name == "nesterov":
            if not isinstance(value, bool | np.bool_):
                raise TypeError(f"{owner}: nesterov must be a bool, got {value!r}")
            checked[name] = bool(value)
        elif name == "betas":
            if not isinstance(value, tuple | list) or len(value) != 2:
                raise TypeError(f"{owner}: betas must be two numbers, got {value!r}")
            checked[name] = tuple(_number(owner, name, beta) for beta in value)
        elif name in _RANGES:
            checked[name] = _number(owner, name, value)
        else:
            checked[name] = value
    if checked.get("nesterov") and (checked.get("momentum", 0) <= 0 or checked.get("dampening", 0) != 0):
        raise ValueError(f"{owner}: nesterov needs momentum above 0 and dampening 0")
    return checked


def _number(owner: str, name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        raise TypeError(f"{owner}: {name} must be a number, got {value!r}")
    low, inclusive, high = _RANGES[name]
    number = float(value)
    if not ((number >= low if inclusive else number > low) and number < high):
        limits = f"at least {low:g}" if inclusive else "finite"
        if high != float("inf"):
            limits += f" and below {high:g}"
        raise ValueError(f"{owner}: {name} must be {limits}, got {value!r}")
    return number


class Optimizer:
    """Base of the optimizers: subclasses define `_update(parameter, gradient, state, group)`.

    `parameters` is an iterable of tensors, of (name, tensor) pairs, or of groups: dicts with "params" and
    settings of their own ("lr", "weight_decay", ...) in place of the defaults. A group with "lr_scale" and no
    "lr" of its own gets lr_scale times the default lr. Lists are kept in `param_groups`, settings may be
    changed there between steps.

    Raises ValueError for no parameters at all, a parameter named twice or a setting out of range; TypeError
    for anything that is no tensor, and for an unknown setting in a group.
    """

    settings: ClassVar[tuple[str, ...]] = ()  # what a group may set, in the order of the constructor
    array_names: ClassVar[tuple[str, ...]] = ()  # state arrays of the parameter's shape

    def __init__(self, parameters: Iterable[Any], defaults: Mapping[str, Any]) -> None:
        self.defaults = check_settings(type(self).__name__, defaults)
        self.param_groups: list[Group] = []
        self.state: dict[
            int, dict[str, Any]
        ] = {}  # id(parameter) -> "step" and arrays; made at its first step
        if isinstance(parameters, Tensor | Mapping):
            raise TypeError(
                f"{type(self).__name__}: parameters must be an iterable of tensors or groups, "
                f"got a single {type(parameters).__name__}"
            )
        items = list(parameters)
        if not items:
            raise ValueError(f"{type(self).__name__}: got an empty list of parameters")
        groups = items if isinstance(items[0], Mapping) else [{"params": items}]
        for group in groups:
            self.add_param_group(group)

    def add_param_group(self, group: Mapping[str, Any]) -> None:
        """Adds {"params": tensors, settings...}; what is not set comes from the defaults."""
        owner = type(self).__name__
        if not isinstance(group, Mapping) or "params" not in group:
            raise TypeError(f"{owner}: a group must be a dict with 'params', got {group!r}")
        given = group["params"]
        members = [given] if isinstance(given, Tensor) else list(given)
        members = [m[1] if isinstance(m, tuple) and len(m) == 2 else m for m in members]
        if not members:
            raise ValueError(f"{owner}: a group has an empty list of parameters")
        known = {id(p) for g in self.param_groups for p in g["params"]}
        for i, parameter in enumerate(members):
            if not isinstance(parameter, Tensor):
                raise TypeError(f"{owner}: parameter {i} must be a Tensor, got {type(parameter).__name__}")
            if not parameter.is_leaf or not np.issubdtype(parameter.dtype, np.floating):
                raise ValueError(f"{owner}: parameter {i} must be a floating tensor that no operator made")
            if id(parameter) in known:
                raise ValueError(f"{owner}: parameter {i} of shape {parameter.shape} appears twice")
            known.add(id(parameter))
        unknown = [k for k in group if k not in (*self.settings, "params", "lr_scale", "initial_lr", "name")]
        if unknown:
            raise TypeError(
                f"{owner}: unknown group setting {', '.join(map(repr, unknown))}; "
                f"known: {', '.join(self.settings)}"
            )
        filled = {**self.defaults, **{k: v for k, v in group.items() if k != "params"}}
        if "lr_scale" in group and "lr" not in group:
            scale = check_settings(owner, {"lr_scale": group["lr_scale"]})["lr_scale"]
            filled["lr"] = self.defaults["lr"] * scale
        self.param_groups.append({"params": members, **check_settings(owner, filled)})

    def zero_grad(self) -> None:
        """Drops the gradients of all parameters (sets them to None)."""
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    def step(self) -> None:
        """Moves every parameter that has a gradient and requires one; the others, and their state, stay as
        they are.
        """
        settle()  # inside of a forward pass: what it has computed so far belongs to the old values
        capture = capturing.active()
        if capture is not None:
            self._record_step(capture)
            return
        with ExitStack() as gathering:  # a back end may make many small steps in one
            open_backends: set[int] = set()
            for group in self.param_groups:
                for parameter in group["params"]:
                    if parameter.grad is None or not parameter.requires_grad:
                        continue
                    backend = kernels.backend(parameter.data)
                    if id(backend) not in open_backends:
                        open_backends.add(id(backend))
                        gathering.enter_context(backend.together())
                    state = self.state.get(id(parameter))
                    if state is None:
                        state = self.state[id(parameter)] = {"step": 0}
                    state["step"] += 1
                    self._update(parameter.data, parameter.grad.data, state, group)
                    parameter.mark_changed()

    def _record_step(self, capture: capturing.Capture) -> None:
        """The step inside a captured one. Parameters of one group and one count of steps share their numbers, which are
        asked for again before each replay."""
        owner = type(self).__name__
        if capture.place.launches_only:
            capturing.refuse(f"{owner}.step()", "on the CPU only steps without gradients are captured")
        alike: dict[tuple[int, int], list[tuple[Tensor, dict[str, Any]]]] = {}
        for number, group in enumerate(self.param_groups):
            for parameter in group["params"]:
                if parameter.grad is None or not parameter.requires_grad:
                    continue
                state = self.state.get(id(parameter))
                if state is None:
                    raise capturing.CaptureError(
                        f"{owner}: the first step of a parameter of shape {parameter.shape} inside a captured step; "
                        f"its state must be made in a call before"
                    )
                capture.if_it_fails(partial(_restore, state, dict(state)))
                state["step"] += 1
                alike.setdefault((number, state["step"]), []).append((parameter, state))
        members = [(p.data, state) for several in alike.values() for p, state in several]

        def advance() -> None:
            for _, state in members:
                state["step"] += 1

        capture.before_replay(advance)
        capture.hold(members)
        layout = self._layout()
        capture.depends(lambda: self._layout() == layout)
        for (number, _), several in alike.items():
            group, (first, state) = self.param_groups[number], several[0]
            again = partial(self._update, first.data, first.grad.data, state, group)  # type: ignore[union-attr]
            with kernels.backend(first.data).together(again):
                for parameter, state in several:
                    known = len(state)
                    self._update(parameter.data, parameter.grad.data, state, group)  # type: ignore[union-attr]
                    if len(state) != known:
                        raise capturing.CaptureError(
                            f"{owner}: new state inside a captured step; make it in a call before"
                        )
                    parameter.mark_changed()

    def _layout(self) -> list[Any]:
        """What decides which parameters move, where they and their states lie, and by which kernels: a captured step
        knows no other. (A momentum that is no longer 0 wants a buffer.)"""
        found: list[Any] = []
        for group in self.param_groups:
            found.append([bool(v) for k, v in group.items() if k not in ("params", "lr")])
            found += [(p.requires_grad, id(p.data), id(self.state.get(id(p)))) for p in group["params"]]
        return found

    def _update(self, parameter: Any, gradient: Any, state: dict[str, Any], group: Group) -> None:
        raise NotImplementedError(f"{type(self).__name__} does not define _update")

    # ---- saving ----------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """{"settings": JSON-able, "arrays": {"<parameter>.<name>": array}}: all that a bit-identical resume
        needs.

        Parameters are counted from 0 through the groups in order. The arrays are copies. Python writes floats
        to JSON so that they read back exactly.
        """
        groups, steps, arrays = [], [], {}
        index = 0
        for group in self.param_groups:
            groups.append(
                {k: v for k, v in group.items() if k != "params"} | {"params": len(group["params"])}
            )
            for parameter in group["params"]:
                state = self.state.get(id(parameter), {})
                steps.append(state.get("step", 0))
                for name in self.array_names:
                    if name in state:
                        arrays[f"{index}.{name}"] = np.array(devices.host(state[name]), order="C")
                index += 1
        settings = {"optimizer": type(self).__name__, "groups": groups, "steps": steps}
        return {"settings": json.loads(json.dumps(settings)), "arrays": arrays}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what `state_dict` gave into an optimizer with the same groups of parameters.

        All is checked first; raises OptimizerStateError and changes nothing when it does not fit.
        """
        owner = type(self).__name__
        try:
            settings, arrays = state["settings"], state["arrays"]
            kind, groups, steps = settings["optimizer"], settings["groups"], settings["steps"]
            counts = [group["params"] for group in groups]
            loaded = [
                check_settings(owner, {k: v for k, v in g.items() if k != "params"} | {"params": None})
                for g in groups
            ]
        except (KeyError, TypeError, ValueError) as error:
            raise OptimizerStateError(
                f"{owner}: the saved optimizer state is not readable: {error}"
            ) from error
        if kind != owner:
            raise OptimizerStateError(f"the saved optimizer state is of {kind}, this optimizer is {owner}")
        own = [len(group["params"]) for group in self.param_groups]
        if counts != own or len(steps) != sum(own):
            raise OptimizerStateError(
                f"{owner}: the saved state has groups of {counts} parameters, expected {own}"
            )
        missing = [name for g in loaded for name in self.settings if name not in g]
        if missing:
            raise OptimizerStateError(f"{owner}: the saved groups lack {', '.join(sorted(set(missing)))}")
        restored = self._read_arrays(arrays, steps)
        for group, values in zip(self.param_groups, loaded, strict=True):
            members = group["params"]
            group.clear()
            group.update({**values, "params": members})
        self.state = restored

    def _read_arrays(self, arrays: Mapping[str, Any], steps: list[Any]) -> dict[int, dict[str, Any]]:
        """The state by id(parameter), each array checked against its parameter."""
        owner = type(self).__name__
        parameters = [p for group in self.param_groups for p in group["params"]]
        names = {f"{i}.{name}": (i, name) for i in range(len(parameters)) for name in self.array_names}
        problems = [f"{key} unexpected" for key in arrays if key not in names]
        restored: dict[int, dict[str, Any]] = {}
        for i, step in enumerate(steps):
            if isinstance(step, bool) or not isinstance(step, int) or step < 0:
                problems.append(f"step {step!r} of parameter {i}")
            elif step:
                restored[id(parameters[i])] = {"step": step}
        for key, (i, name) in names.items():
            parameter = parameters[i]
            state = restored.get(id(parameter))
            if state is None or key not in arrays:
                if state is not None and self._needs(name, i):
                    problems.append(f"{key} missing")
                elif key in arrays:
                    problems.append(f"{key} of a parameter without steps")
                continue
            array = np.asarray(arrays[key])
            if array.shape != parameter.shape or array.dtype != parameter.dtype:
                problems.append(
                    f"{key} expected {parameter.shape} {parameter.dtype}, got {array.shape} {array.dtype}"
                )
                continue
            state[name] = zeros_like(parameter.data)
            state[name][...] = devices.like(array, parameter.data)
        if problems:
            raise OptimizerStateError(f"{owner}: the saved state does not fit: {'; '.join(problems)}")
        return restored

    def _needs(self, name: str, index: int) -> bool:
        """Whether a parameter that has made steps must have this array (overridden where momentum is
        optional).
        """
        return True

    def __repr__(self) -> str:
        lines = []
        for i, group in enumerate(self.param_groups):
            shown = ", ".join(f"{k}={v}" for k, v in group.items() if k != "params")
            lines.append(f"  group {i}: {len(group['params'])} parameters, {shown}")
        return "\n".join([f"{type(self).__name__}(", *lines, ")"])


def _restore(state: dict[str, Any], before: dict[str, Any]) -> None:
    """The state of a parameter as it was."""
    state.clear()
    state.update(before)


def zeros_like(array: Any) -> Any:
    """Zeros of the array's shape, dtype and strides' order, on its back end."""
    return kernels.backend(array).xp.zeros_like(array)
