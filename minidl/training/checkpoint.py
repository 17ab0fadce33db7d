"""A trained network in one file: the weights, and beside them all that is needed to use them again.

A checkpoint is a safetensors file whose header carries a JSON document (classes, model and options,
preprocessing, settings, versions, metrics). One file is replaced by one rename, so weights and document can
never belong to two epochs. A readable copy of the document is written next to it as `.json`; it is never
read back.
"""

from __future__ import annotations

import json
import os
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from minidl.errors import MinidlError

if TYPE_CHECKING:
    from minidl.models import Autoencoder, Model

FORMAT = "minidl-checkpoint"
FORMAT_VERSION = 1
DOCUMENT_KEY = "minidl"
"""The entry of the safetensors metadata that holds the JSON document."""


@dataclass
class Checkpoint:
    """The weights of a classifier or an autoencoder and how to use them.

    `state` maps names to arrays; `model` and `options` are the arguments of `minidl.models.create`
    (`num_classes` is the number of `classes`) or `create_autoencoder` (there are no classes);
    `preprocessing` is a `pretrained_cfg` as a dictionary;
    `metrics` are the figures at the end of `epoch` (counted from 1; 0 is before training).
    """

    state: Mapping[str, np.ndarray]
    model: str
    options: dict[str, Any]
    classes: list[str]
    preprocessing: dict[str, Any]
    settings: dict[str, Any] = field(default_factory=dict)
    epoch: int = 0
    metrics: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=lambda: versions())

    def document(self) -> dict[str, Any]:
        """Everything but the weights, JSON-able."""
        entries = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "state"}
        return {"format": FORMAT, "format_version": FORMAT_VERSION, **entries}

    @property
    def is_autoencoder(self) -> bool:
        """Whether `build_autoencoder` builds this network, and not `build_model`."""
        from minidl import models

        return self.model in models.list_models(task="autoencoder")

    def build_autoencoder(self) -> Autoencoder:
        """The autoencoder with these weights, in evaluation mode. Raises MinidlError when the two do not fit."""
        from minidl import models

        try:
            network = models.create_autoencoder(self.model, pretrained_cfg=self.preprocessing, **self.options)
        except (TypeError, ValueError) as error:
            raise MinidlError(f"the checkpoint's autoencoder cannot be built: {error}") from error
        network.load_state_dict(self.state)
        return network.eval()

    def build_model(self) -> Model:
        """The classifier with these weights, in evaluation mode. Raises MinidlError when the two do not fit."""
        from minidl import models
        from minidl.nn.init import skipped

        if self.is_autoencoder:
            raise MinidlError(
                f"the checkpoint holds an autoencoder ({self.model}), which knows no classes; "
                "'minidl finetune DATA --weights RUN' makes a classifier of it"
            )
        try:
            with skipped():
                model = models.create(
                    self.model,
                    num_classes=len(self.classes),
                    pretrained_cfg=self.preprocessing,
                    **self.options,
                )
        except (TypeError, ValueError) as error:
            raise MinidlError(f"the checkpoint's model cannot be built: {error}") from error
        model.load_state_dict(self.state)
        return model.eval()


def versions() -> dict[str, str]:
    """The versions that a result may depend on."""
    import minidl

    found = {"minidl": getattr(minidl, "__version__", "unknown"), "python": platform.python_version()}
    found["numpy"] = np.__version__
    try:
        from importlib.metadata import version

        found["numba"] = version("numba")
    except Exception:  # a frozen application has no package metadata: the entry is for readers only
        found["numba"] = "unknown"
    found["machine"] = f"{platform.system()} {platform.machine()}"
    return found


def save_checkpoint(checkpoint: Checkpoint, path: str | os.PathLike[str]) -> None:
    """Write `path` (`.safetensors`) and its readable `.json` copy, each all or nothing, the weights first.

    Raises MinidlError when a file cannot be written; an older checkpoint is then intact.
    """
    from minidl import weights

    target = Path(path)
    document = checkpoint.document()
    weights.save(checkpoint.state, target, {DOCUMENT_KEY: json.dumps(document)})
    write_text(target.with_suffix(".json"), readable_json(document))


def load_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Read a checkpoint: a `.safetensors` file, or a run folder, whose best checkpoint is taken.

    Raises MinidlError naming the file when there is none or it was not written by minidl.
    """
    from minidl import weights

    file = checkpoint_file(path)
    if file.suffix.lower() in (".pth", ".pt", ".th", ".tar", ".bin", ".ckpt"):
        raise MinidlError(
            f"{file}: is no checkpoint of minidl, those end in .safetensors; use --model NAME --weights {file} instead"
        )
    if file.name == "resume.safetensors":
        raise MinidlError(f"{file}: is the state of an unfinished run, not a checkpoint")
    text = weights.load_metadata(file).get(DOCUMENT_KEY)
    if text is None:
        raise MinidlError(
            f"{file}: holds weights but no description of their model; use --model NAME --weights {file} instead"
        )
    document = read_document(text, file, FORMAT)
    state = weights.load(file)
    try:
        return Checkpoint(
            state=state,
            model=_entry(document, "model", str),
            options=_entry(document, "options", dict),
            classes=[str(name) for name in _entry(document, "classes", list)],
            preprocessing=_entry(document, "preprocessing", dict),
            settings=_entry(document, "settings", dict),
            epoch=_entry(document, "epoch", int),
            metrics=_entry(document, "metrics", dict),
            versions=_entry(document, "versions", dict),
        )
    except ValueError as error:
        raise MinidlError(f"{file}: damaged description of the model: {error}") from None


def checkpoint_file(path: str | os.PathLike[str]) -> Path:
    """The safetensors file that `path` stands for: itself, or the best (else the last) checkpoint of a run
    folder.
    """
    place = Path(path)
    if place.suffix == ".json" and place.with_suffix(".safetensors").exists():
        return place.with_suffix(".safetensors")
    if not place.is_dir():
        if not place.exists():
            raise MinidlError(f"{place}: no such checkpoint or run folder")
        return place
    for name in ("best.safetensors", "last.safetensors"):
        if (place / name).exists():
            return place / name
    if (place / "resume.safetensors").exists():
        raise MinidlError(
            f"{place}: holds an unfinished run without a checkpoint yet; continue it with --resume"
        )
    raise MinidlError(f"{place}: holds no checkpoint (neither best.safetensors nor last.safetensors)")


def has_document(path: str | os.PathLike[str]) -> bool:
    """Whether `path` is a run folder or a checkpoint of minidl, whose model and preprocessing are known."""
    from minidl import weights

    place = Path(path)
    if place.is_dir():
        return True
    if not place.is_file() or place.suffix.lower() not in (".safetensors", ".json"):
        return False
    return DOCUMENT_KEY in weights.load_metadata(checkpoint_file(place))


def read_document(text: str, where: str | os.PathLike[str], expected: str) -> dict[str, Any]:
    """A JSON document written by this package, its format and version checked; MinidlError names `where`."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise MinidlError(f"{where}: its description is damaged ({error})") from None
    if not isinstance(document, dict) or document.get("format") != expected:
        raise MinidlError(f"{where}: its description is not of the format {expected!r}")
    if document.get("format_version") != FORMAT_VERSION:
        raise MinidlError(
            f"{where}: written in version {document.get('format_version')!r} of the format {expected!r}, "
            f"this version of minidl reads version {FORMAT_VERSION}"
        )
    return document


def readable_json(document: Mapping[str, Any]) -> str:
    """Indented JSON with short lists on one line."""
    text = json.dumps(document, indent=2, ensure_ascii=False)
    short = re.compile(r"\[\s*([^\[\]{}]{1,300}?)\s*\]")
    return short.sub(lambda found: "[" + re.sub(r"\s*\n\s*", " ", found[1]) + "]", text) + "\n"


def _entry(document: dict[str, Any], name: str, kind: type) -> Any:
    value = document.get(name)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ValueError(f"{name!r} should be a {kind.__name__}, got {type(value).__name__}")
    return value


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file, all or nothing; MinidlError when it cannot be written."""
    from minidl.weights.files import atomic_write

    with atomic_write(path) as file:
        file.write(text.encode("utf-8"))
