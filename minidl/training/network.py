"""From names and files to a network that is ready to be trained or evaluated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minidl import models
from minidl.errors import MinidlError, UsageError
from minidl.models import Model
from minidl.nn import StateDictError
from minidl.training.checkpoint import Checkpoint, has_document, load_checkpoint
from minidl.training.reporting import Reporter
from minidl.training.settings import Settings

SHOWN_NAMES = 3


@dataclass(frozen=True)
class Network:
    """A model, the name of its classifier module and its preprocessing as a JSON-able dictionary (a
    `pretrained_cfg`).
    """

    model: Model
    classifier: str
    preprocessing: dict[str, Any]


def build_network(settings: Settings, classes: list[str], reporter: Reporter, fresh: bool = True) -> Network:
    """The network of the settings with one output per class; says in the log where its weights came from.

    `fresh=False` leaves out the weights file: a resumed run brings its own weights.

    Raises MinidlError when the weights file is bad or does not fit, UsageError for unknown names and options.
    """
    if not fresh:
        model = models.create(
            settings.model,
            num_classes=len(classes),
            pretrained_cfg=settings.preprocess or None,
            **settings.model_options,
        )
        return Network(model, model.classifier_name, preprocessing_of(model, len(classes)))
    model = load_model(
        settings.model, settings.weights, settings.model_options, settings.preprocess, reporter
    )
    name, have, want = model.classifier_name, model.num_classes, len(classes)
    if settings.weights is None or not have:
        model.reset_classifier(want)
        if settings.weights is not None:
            reporter.log(f"classifier {name!r}: new, for {want} classes")
    elif have != want:
        model.reset_classifier(want)
        reporter.log(
            f"classifier {name!r}: the weights have {have} classes, the data {want}: replaced by a new one"
        )
    elif settings.new_classifier:
        model.reset_classifier(want)
        reporter.log(f"classifier {name!r}: replaced by a new one, as asked for")
    else:
        reporter.log(
            f"classifier {name!r}: kept, the weights and the data have {want} classes each "
            "(a new one: --new-classifier)"
        )
    return Network(model, name, preprocessing_of(model, want))


def preprocessing_of(model: Model, num_classes: int) -> dict[str, Any]:
    """The model's `pretrained_cfg` as a dictionary, for `num_classes` classes."""
    return model.pretrained_cfg.replace(num_classes=num_classes, classifier=model.classifier_name).to_dict()


def load_model(
    name: str,
    weights_file: str | None,
    options: Mapping[str, Any],
    preprocess: Mapping[str, Any],
    reporter: Reporter,
) -> Model:
    """A registered model with the weights of a file (None: random ones) and as many classes as the file has.

    Raises MinidlError, in one line, when the file is bad or does not fit; UsageError for unknown names and
    options.
    """
    try:
        models.architecture(name)  # an unknown name is said before a large file is read
    except ValueError as error:
        raise UsageError(str(error)) from error
    state = None
    if weights_file is not None and has_document(weights_file):
        checkpoint = load_checkpoint(weights_file)
        if checkpoint.is_autoencoder:
            return _encoder_model(checkpoint, name, options, preprocess, weights_file, reporter)
        state = checkpoint.state
    elif weights_file is not None:
        from minidl import weights

        state = weights.load(weights_file)
        for note in getattr(state, "notes", ()):
            reporter.log(f"{weights_file}: {note}")
    else:
        reporter.log(f"{name}: no weights were given, it starts from random ones")
    try:
        return models.create(name, weights=state, pretrained_cfg=dict(preprocess) or None, **options)
    except StateDictError as error:
        raise MinidlError(f"{weights_file}: does not fit {name}: {condensed(error)}") from error
    except (TypeError, ValueError) as error:
        raise UsageError(str(error)) from error


def known_model(weights_file: str) -> dict[str, Any]:
    """The settings "model", "model_options" and "preprocess" of the classifier that a checkpoint of minidl holds,
    or that its autoencoder's encoder makes; empty for other weights, which do not say what they belong to.
    """
    if not Path(weights_file).exists():
        raise MinidlError(f"{weights_file}: no such weights file or run folder")
    if not has_document(weights_file):
        return {}
    checkpoint = load_checkpoint(weights_file)
    if not checkpoint.is_autoencoder:
        found = {"model": checkpoint.model, "model_options": checkpoint.options}
        return {**found, "preprocess": checkpoint.preprocessing}
    model = checkpoint.build_autoencoder().classifier(1)
    return {
        "model": model.name,
        "model_options": model.options,
        "preprocess": model.pretrained_cfg.to_dict(),
    }


def _encoder_model(
    checkpoint: Checkpoint,
    name: str,
    options: Mapping[str, Any],
    preprocess: Mapping[str, Any],
    file: str,
    reporter: Reporter,
) -> Model:
    """The classifier `name` with the encoder of a pretrained autoencoder."""
    source = checkpoint.build_autoencoder().classifier(1).train()
    if source.name != name:
        raise UsageError(f"{file}: its encoder makes the model {source.name}, not {name}")
    reporter.log(f"{file}: the encoder of {checkpoint.model}, pretrained for {checkpoint.epoch} epochs")
    state = source.state_dict()
    try:
        model = models.create(name, weights=state, pretrained_cfg=dict(preprocess) or None, **options)
    except StateDictError as error:
        raise MinidlError(f"{file}: does not fit {name} with these options: {condensed(error)}") from error
    except (TypeError, ValueError) as error:
        raise UsageError(str(error)) from error
    model.reset_classifier(0)
    return model


def condensed(error: StateDictError) -> str:
    """The counts and the first names of what does not fit, in one line."""
    parts = []
    for what, names in (
        ("missing", error.missing),
        ("unexpected", error.unexpected),
        ("of another shape", [f"{name} {why}" for name, why in error.mismatched.items()]),
    ):
        if names:
            more = ", ..." if len(names) > SHOWN_NAMES else ""
            parts.append(f"{len(names)} tensors {what} ({', '.join(names[:SHOWN_NAMES])}{more})")
    return "; ".join(parts)
