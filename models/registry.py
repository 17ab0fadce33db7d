"""The list of architectures by name, and `create`, which builds one and loads its weights."""

from __future__ import annotations

import difflib
import inspect
import json
import logging
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from minidl.models.base import Model
from minidl.models.config import PretrainedConfig
from minidl.nn import StateDictError

__all__ = ["Architecture", "architecture", "create", "list_models", "parse_options", "register"]

logger = logging.getLogger("minidl.models")


@dataclass(frozen=True)
class Architecture:
    """A registered name: a class, the options it is built with, and how its images are prepared."""

    name: str
    builder: Callable[..., Model]
    options: Mapping[str, Any]
    config: PretrainedConfig
    description: str


_registry: dict[str, Architecture] = {}
_Builder = TypeVar("_Builder", bound=Callable[..., Model])


def register(
    name: str, config: PretrainedConfig, description: str = "", **options: Any
) -> Callable[[_Builder], _Builder]:
    """Decorator: makes a Model class (or a function that returns one) available to `create` under a name.

    `options` are the builder's keyword arguments for this name; the same class may be registered many times.
    """

    def enter(builder: _Builder) -> _Builder:
        if name in _registry:
            raise ValueError(f"register: the model {name!r} is already registered")
        _check_options(name, builder, options)
        _registry[name] = Architecture(name, builder, options, config, description)
        return builder

    return enter


def list_models(contains: str = "") -> list[str]:
    """The registered names in the order of registration, or those that contain a text."""
    return [name for name in _registry if contains in name]


def architecture(name: str) -> Architecture:
    """The entry of a name; ValueError with the nearest names for an unknown one."""
    if name not in _registry:
        near = difflib.get_close_matches(str(name), _registry, n=3) or list(_registry)
        raise ValueError(f"unknown model {name!r}; did you mean {', '.join(near)}?")
    return _registry[name]


def create(
    name: str,
    num_classes: int | None = None,
    in_channels: int = 3,
    weights: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    pretrained_cfg: PretrainedConfig | Mapping[str, Any] | None = None,
    **options: Any,
) -> Model:
    """Builds a registered network.

    Args:
        name: one of `list_models()`.
        num_classes: outputs; None takes the weights' number, or the architecture's.
        in_channels: channels of the images.
        weights: a file for `minidl.weights.load`, or a state dict; loaded strictly. When the file has another
            number of classes than `num_classes`, a new classifier replaces the loaded one: that is logged,
            and noted in `model.replaced_classifier`.
        pretrained_cfg: replaces the architecture's preprocessing; a dict changes single fields.
        options: override the architecture's options; JSON values (lists for tuples) are fine.

    Raises ValueError or TypeError for an unknown name or option, nn.StateDictError when the weights do not
    fit.
    """
    entry = architecture(name)
    _check_options(name, entry.builder, options)
    noted = {"in_channels": in_channels, **_jsonable(name, options)}
    config = entry.config
    if isinstance(pretrained_cfg, PretrainedConfig):
        config = pretrained_cfg
    elif pretrained_cfg is not None:
        config = config.replace(**pretrained_cfg)
    config = config.with_channels(in_channels)
    chosen = {**entry.options, **options}
    classes = config.num_classes if num_classes is None else num_classes
    state = _state(weights)
    stored = None
    if state is not None:
        stored = _stored_classes(state, chosen.get("classifier_name", config.classifier))
    model = entry.builder(num_classes=stored or classes, in_channels=in_channels, **chosen)
    model.name = name
    model.options = noted
    model.pretrained_cfg = config.replace(classifier=model.classifier_name, num_classes=stored or classes)
    if state is not None:
        _load(model, state, None if isinstance(weights, Mapping) else weights)
        if num_classes is not None and num_classes != model.num_classes:
            model.replaced_classifier = (model.num_classes, num_classes)
            logger.info(
                "%s: the weights' classifier has %d classes, replaced by a new one with %d",
                name,
                model.num_classes,
                num_classes,
            )
            model.reset_classifier(num_classes)
    return model


def parse_options(texts: Iterable[str]) -> dict[str, Any]:
    """{"widths": [32, 64], "stem": "cifar"} from ["widths=[32,64]", "stem=cifar"], and from "widths=32,64"
    too.

    Values are JSON; what is not is taken as text. ValueError for a text without "=" or a name given twice.
    """
    options: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        key = key.strip().replace("-", "_")
        if not equals or not key.isidentifier():
            raise ValueError(f"a model option must be NAME=VALUE, got {text!r}")
        if key in options:
            raise ValueError(f"the model option {key} is given twice")
        options[key] = _parse_value(value.strip())
    return options


def _parse_value(text: str) -> Any:
    for candidate in (text, f"[{text}]" if "," in text else text, text.lower()):
        try:
            return json.loads(candidate)
        except ValueError:
            continue
    return text


def _check_options(name: str, builder: Callable[..., Model], options: Mapping[str, Any]) -> None:
    parameters = inspect.signature(builder).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return  # what it hands on is checked there
    known = [p.name for p in parameters if p.name not in ("num_classes", "in_channels")]
    unknown = [option for option in options if option not in known]
    if unknown:
        raise TypeError(
            f"model {name}: unknown option {', '.join(map(repr, unknown))}; known: {', '.join(known)}"
        )


def _jsonable(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return dict(json.loads(json.dumps(options)))
    except TypeError as error:
        raise TypeError(f"model {name}: options must be JSON values: {error}") from None


def _state(weights: str | os.PathLike[str] | Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    if weights is None or isinstance(weights, Mapping):
        return weights
    from minidl.weights import load

    return load(weights)


def _load(model: Model, state: Mapping[str, Any], path: Any) -> None:
    try:
        model.load_state_dict(state)
    except StateDictError as error:
        source = error.source if path is None else os.fspath(path)
        details = (error.missing, error.unexpected, error.mismatched)
        raise StateDictError(f"model {model.name}", *details, source=source) from None


def _stored_classes(state: Mapping[str, Any], classifier: str) -> int | None:
    """The number of classes in a state dict, if it holds that classifier."""
    weight = state.get(f"{classifier}.weight")
    shape: tuple[int, ...] = getattr(weight, "shape", ())
    return int(shape[0]) if len(shape) == 2 and shape[0] > 0 else None
