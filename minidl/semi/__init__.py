"""Learning from few labels and many images without: each method is one file over the public API.

`fixmatch` trains on its own confident predictions; `spread` and `cluster` label the images first, by the
features of the encoder, and then train as usual. The latter two need scikit-learn (`pip install
"minidl[semi]"`).
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from minidl.semi.cluster import cluster_labels
from minidl.semi.fixmatch import FixMatchLoader, TwoViews, fixmatch_loss, strong_transform
from minidl.semi.spread import spread_labels

__all__ = [
    "METHODS",
    "FixMatchLoader",
    "TwoViews",
    "check_options",
    "cluster_labels",
    "fixmatch_loss",
    "spread_labels",
    "strong_transform",
]

METHODS: dict[str, dict[str, tuple[float, float, float]]] = {
    "fixmatch": {"threshold": (0.95, 0.0, 1.0), "ratio": (3, 1, 100), "weight": (1.0, 0.0, 1e6)},
    "spread": {"neighbours": (10, 1, 10**6), "alpha": (0.5, 0.0, 1.0), "keep": (0.8, 0.0, 1.0)},
    "cluster": {"clusters": (100, 2, 10**6), "keep": (0.8, 0.0, 1.0)},
}
"""The methods and their options: (default, lowest, highest); where the default is an integer, so is the option."""


def check_options(method: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a method, those not given at their defaults. Raises ValueError naming what is wrong."""
    if method not in METHODS:
        raise ValueError(f"semi must be one of {', '.join(METHODS)}, got {method!r}")
    known = METHODS[method]
    for name, value in given.items():
        if name not in known:
            near = get_close_matches(str(name), known, 1)
            hint = f"; did you mean {near[0]}?" if near else f"; known: {', '.join(known)}"
            raise ValueError(f"{method}: unknown option {name!r}{hint}")
        default, low, high = known[name]
        kinds = int if isinstance(default, int) else (int, float)
        if isinstance(value, bool) or not isinstance(value, kinds) or not low <= value <= high:
            kind = "an integer" if isinstance(default, int) else "a number"
            raise ValueError(f"{method}: {name} must be {kind} in {low:g}..{high:g}, got {value!r}")
    return {**{name: entry[0] for name, entry in known.items()}, **given}


def have_scikit_learn() -> bool:
    """Whether `spread` and `cluster` can run."""
    from importlib.util import find_spec

    return find_spec("sklearn") is not None
