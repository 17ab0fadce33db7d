"""The list of architectures by name; `create` and `create_autoencoder` build one and load its weights."""

from __future__ import annotations

import difflib
import inspect
import json
import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, cast

from minidl.models.base import Model, Registered
from minidl.models.config import PretrainedConfig
from minidl.nn import StateDictError

if TYPE_CHECKING:
    from minidl.models.autoencoder import Autoencoder

__all__ = [
    "Architecture",
    "architecture",
    "create",
    "create_autoencoder",
    "list_models",
    "parse_options",
    "register",
]

logger = logging.getLogger("minidl.models")


@dataclass(frozen=True)
class Architecture:
    """A registered name: a class, the options it is built with, and how its images are prepared.

    `task` is "classifier" (for `create`) or "autoencoder" (for `create_autoencoder`).
    """

    name: str
    builder: Callable[..., Registered]
    options: Mapping[str, Any]
    config: PretrainedConfig
    description: str
    task: str = "classifier"


_registry: dict[str, Architecture] = {}
_Builder = TypeVar("_Builder", bound=Callable[..., Registered])
_GIVEN = ("num_classes", "in_channels", "input_size")  # what `create` hands on itself


def register(
    name: str, config: PretrainedConfig, description: str = "", task: str = "classifier", **options: Any
) -> Callable[[_Builder], _Builder]:
    """Decorator: makes a Model or Autoencoder class (or a function that returns one) available under a name.

    `options` are the builder's keyword arguments for this name; the same class may be registered many times.
    A builder with a parameter `input_size` is given the preprocessing's (C, H, W), one without `in_channels`.
    """

    def enter(builder: _Builder) -> _Builder:
        if name in _registry:
            raise ValueError(f"register: the model {name!r} is already registered")
        _check_options(name, builder, options)
        _registry[name] = Architecture(name, builder, options, config, description, task)
        return builder

    return enter


def list_models(contains: str = "", task: str | None = None) -> list[str]:
    """The registered names in the order of registration, or those that contain a text and do a task."""
    return [name for name, entry in _registry.items() if contains in name and task in (None, entry.task)]


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
    """Builds a registered classifier.

    Args:
        name: one of `list_models()`, but not an autoencoder.
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
    if entry.task != "classifier":
        raise ValueError(
            f"model {name} is an {entry.task}, no classifier: create_autoencoder (minidl pretrain) builds it"
        )
    _check_options(name, entry.builder, options)
    noted = {"in_channels": in_channels, **_jsonable(name, options)}
    config = _config(entry, pretrained_cfg).with_channels(in_channels)
    chosen = {**entry.options, **options}
    classes = config.num_classes if num_classes is None else num_classes
    state = _state(weights)
    stored = None
    if state is not None:
        stored = _stored_classes(state, chosen.get("classifier_name", config.classifier))
    given: dict[str, Any] = {"in_channels": in_channels}
    if "input_size" in inspect.signature(entry.builder).parameters:
        given = {"input_size": config.input_size}
    model = cast(Model, entry.builder(num_classes=stored or classes, **given, **chosen))
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


def create_autoencoder(
    name: str,
    input_size: Sequence[int] | None = None,
    weights: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    pretrained_cfg: PretrainedConfig | Mapping[str, Any] | None = None,
    **options: Any,
) -> Autoencoder:
    """Builds a registered autoencoder.

    Args:
        name: one of `list_models(task="autoencoder")`.
        input_size: (C, H, W) of the images; None takes the preprocessing's.
        weights, pretrained_cfg, options: as for `create`.

    Raises ValueError or TypeError for an unknown name or option, nn.StateDictError when the weights do not
    fit.
    """
    from minidl.models.autoencoder import Autoencoder

    entry = architecture(name)
    if entry.task != "autoencoder":
        raise ValueError(
            f"model {name} is no autoencoder; those are {', '.join(list_models('', 'autoencoder'))}"
        )
    _check_options(name, entry.builder, options)
    config = _config(entry, pretrained_cfg)
    config = config if input_size is None else config.with_input(input_size)
    model = entry.builder(input_size=config.input_size, **{**entry.options, **options})
    assert isinstance(model, Autoencoder)
    model.name, model.options, model.pretrained_cfg = name, _jsonable(name, options), config
    state = _state(weights)
    if state is not None:
        _load(model, state, None if isinstance(weights, Mapping) else weights)
    return model


def _config(entry: Architecture, given: PretrainedConfig | Mapping[str, Any] | None) -> PretrainedConfig:
    if isinstance(given, PretrainedConfig):
        return given
    return entry.config if given is None else entry.config.replace(**given)


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


def _check_options(name: str, builder: Callable[..., Registered], options: Mapping[str, Any]) -> None:
    parameters = inspect.signature(builder).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return  # what it hands on is checked there
    known = [p.name for p in parameters if p.name not in _GIVEN]
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


def _load(model: Registered, state: Mapping[str, Any], path: Any) -> None:
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
