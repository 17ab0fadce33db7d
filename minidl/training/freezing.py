"""Which part of a network stays as it is while the rest is trained."""

from __future__ import annotations

from difflib import get_close_matches

from minidl.nn import Module

MODES = "none, trunk (or encoder), bn or until:LAYER"


def check_mode(mode: str) -> None:
    """Raise ValueError unless `mode` is one of `none`, `trunk` or `encoder`, `bn`, `until:LAYER`."""
    if mode in ("none", "trunk", "encoder", "bn") or (
        mode.startswith("until:") and len(mode) > len("until:")
    ):
        return
    raise ValueError(f"freeze must be {MODES}, got {mode!r}")


def freeze(model: Module, mode: str, classifier: str) -> str:
    """Freeze a part of `model`; returns a sentence that says what is trained.

    - `none`: everything is trained, batch norms included.
    - `trunk` or `encoder`: only the module named `classifier` is; batch norms use their stored statistics.
    - `bn`: all convolutions and the classifier are; batch norms, with their scales and shifts, stay as they
      are. The choice for small data sets and small batches, whose statistics are too noisy to replace those
      of the pretraining.
    - `until:LAYER`: everything up to and including the module LAYER (in the order of definition, batch
      norms too) stays.

    Raises ValueError for another mode or an unknown LAYER.
    """
    check_mode(mode)
    if mode in ("trunk", "encoder"):
        model.freeze(bn="eval")
        model.get_submodule(classifier).unfreeze()
    elif mode == "bn":
        model.freeze_norms()
    elif mode.startswith("until:"):
        _freeze_until(model, mode.removeprefix("until:"))
    trained = sum(p.size for p in model.parameters() if p.requires_grad)
    total = sum(p.size for p in model.parameters())
    if not trained:
        raise ValueError(f"freeze {mode!r} leaves nothing to train")
    return f"freeze {mode}: {trained:,} of {total:,} parameters are trained"


def _freeze_until(model: Module, layer: str) -> None:
    names = [name for name, _ in model.named_modules() if name]
    if layer not in names:
        near = get_close_matches(layer, names, 1)
        hint = (
            f"; did you mean {near[0]}?"
            if near
            else f"; its parts are {', '.join(n for n, _ in model.named_children())}"
        )
        raise ValueError(f"freeze until:{layer}: the model has no part {layer!r}{hint}")
    leaves = [
        (name, module) for name, module in model.named_modules() if name and not list(module.children())
    ]
    inside = [i for i, (name, _) in enumerate(leaves) if name == layer or name.startswith(layer + ".")]
    for _, module in leaves[: inside[-1] + 1]:
        module.freeze(bn="eval")
