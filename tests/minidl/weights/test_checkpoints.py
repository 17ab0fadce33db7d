"""The state dict is found inside checkpoints of many shapes, and what cannot be found is said."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minidl import weights
from minidl.errors import MinidlError
from minidl.weights.checkpoint import WRAPPERS

ONE = {"w": np.ones(2, np.float32)}
TWO = {"w": np.full(2, 2, np.float32)}


def write(folder: Path, content: Any) -> Path:
    path = folder / "checkpoint.pkl"
    path.write_bytes(pickle.dumps(content, 2))
    return path


@pytest.mark.parametrize("name", WRAPPERS)
def test_the_usual_names_lead_to_the_state_dict(name: str, tmp_path: Path) -> None:
    state = weights.load(write(tmp_path, {"epoch": 3, name: ONE}))
    assert list(state) == ["w"]
    assert state.notes[1:] == [f"tensors found under {name!r}", "ignored: 'epoch'"]


def test_wrappers_are_followed_inwards(tmp_path: Path) -> None:
    state = weights.load(write(tmp_path, {"model": {"state_dict": ONE, "args": 1}, "epoch": 1}))
    assert "tensors found under 'model.state_dict'" in state.notes
    assert "ignored: 'args'" in state.notes and "ignored: 'epoch'" in state.notes


def test_the_plain_weights_are_preferred_to_their_average_and_the_choice_is_said(tmp_path: Path) -> None:
    state = weights.load(write(tmp_path, {"ema": TWO, "model": ONE}))
    assert state["w"][0] == 1
    assert "ignored: 'ema'" in state.notes


def test_key_chooses_among_state_dicts(tmp_path: Path) -> None:
    path = write(tmp_path, {"ema": TWO, "model": ONE, "gan": {"generator.net": TWO}})
    assert weights.load(path, key="ema")["w"][0] == 2
    assert weights.load(path, key="gan.generator.net")["w"][0] == 2
    with pytest.raises(MinidlError, match=r"has no entry 'tail', there are: 'ema', 'model', 'gan'"):
        weights.load(path, key="tail")
    with pytest.raises(MinidlError, match=r"its entry 'gan' is not a dictionary of tensors"):
        weights.load(path, key="gan")
    with pytest.raises(MinidlError, match=r"has no entry 'ema.w.x'"):
        weights.load(path, key="ema.w.x")


def test_a_single_unusual_name_is_followed_and_two_are_a_question(tmp_path: Path) -> None:
    state = weights.load(write(tmp_path, {"backbone": ONE, "epoch": 1}))
    assert "tensors found under 'backbone'" in state.notes
    with pytest.raises(MinidlError, match="holds several state dicts, choose one with key=: 'left', 'right'"):
        weights.load(write(tmp_path, {"left": ONE, "right": TWO}))


def test_a_tensor_beside_the_state_dict_does_not_hide_it(tmp_path: Path) -> None:
    state = weights.load(write(tmp_path, {"best": np.float32([1]), "state_dict": ONE}))
    assert list(state) == ["w"]


def test_entries_that_are_no_tensors_are_left_out_and_named(tmp_path: Path) -> None:
    state = weights.load(write(tmp_path, {**ONE, "extra_state": None, "version": 2, 5: ONE["w"]}))
    assert list(state) == ["w"]
    assert "ignored beside the tensors: 'extra_state', 'version', (int)" in state.notes


@pytest.mark.parametrize(
    ("names", "short", "prefix"),
    [
        (["module.a", "module.b"], ["a", "b"], "module."),
        (["_orig_mod.a", "_orig_mod.b"], ["a", "b"], "_orig_mod."),
        (["_orig_mod.module.a", "_orig_mod.module.b"], ["a", "b"], "_orig_mod.module."),
        (["module.a", "b"], ["module.a", "b"], ""),
        (["module.", "module.b"], ["module.", "module.b"], ""),
    ],
)
def test_a_prefix_is_removed_when_all_names_have_it(
    names: list[str], short: list[str], prefix: str, tmp_path: Path
) -> None:
    state = weights.load(write(tmp_path, dict.fromkeys(names, ONE["w"])))
    assert list(state) == short
    assert [note for note in state.notes if "prefix" in note] == (
        [f"prefix {prefix!r} removed from all 2 names"] if prefix else []
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "holds no tensors, its entries are: none"),
        (
            {"epoch": 3, "optimizer": {"state": {0: {"m": ONE["w"]}}}},
            "holds no tensors, its entries are: 'epoch'",
        ),
        ([1, 2], "holds a list of 2 items, a dictionary of tensors was expected"),
        (5, "holds an object of type int, a dictionary of tensors was expected"),
        (ONE["w"], "a dictionary of tensors was expected"),
    ],
)
def test_a_file_without_a_state_dict_says_what_it_holds(content: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(MinidlError) as caught:
        weights.load(write(tmp_path, content))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_names_from_a_file_cannot_reach_the_terminal_raw(tmp_path: Path) -> None:
    state = weights.load(write(tmp_path, {"state_dict": ONE, "\x1b[2Jboo\n": 1, "y" * 500: 2}))
    note = next(note for note in state.notes if note.startswith("ignored"))
    assert "\x1b" not in note and "\n" not in note and len(note) < 200
