"""A run that is interrupted anywhere and resumed ends in the weights of the uninterrupted one, bit for bit."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import minidl.weights.files as files
from minidl import weights
from minidl.errors import MinidlError, UsageError
from minidl.training import Settings, fine_tune, run_status
from tests.minidl.training.tiny import OPTIONS, write_photos


class Killed(BaseException):
    """Stands for a process that is gone: nothing in the library may catch it and go on."""


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photos(tmp_path_factory.mktemp("data"), train=8, val=3)


def settings(**changes: Any) -> Settings:
    given = {"epochs": 3, "batch_size": 4, "augment": "basic", "seed": 3, **changes}
    return Settings("resnet20", model_options={**OPTIONS, "dropout": 0.2}, **given)


def run(photos: Path, out: Path, resume: bool = False, **changes: Any) -> dict[str, np.ndarray]:
    """The last weights of a run that saves its state after every step."""
    fine_tune(photos, settings(**changes), out, resume=resume, workers=1, step_seconds=1e-9, draw=False)
    return weights.load(out / "last.safetensors")


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return a.keys() == b.keys() and all(x.tobytes() == b[name].tobytes() for name, x in a.items())


@pytest.fixture(scope="module")
def reference(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("reference") / "run"
    run(photos, out)
    return out


def kill_at(monkeypatch: pytest.MonkeyPatch, number: int, *, renamed: bool) -> None:
    """The process dies at rename `number` of all files written, just before or just after it."""
    replace = os.replace
    count = 0

    def dying(source: str, target: str) -> None:
        nonlocal count
        count += 1
        if count == number and not renamed:
            raise Killed
        replace(source, target)
        if count == number:
            raise Killed

    monkeypatch.setattr(files.os, "replace", dying)


@pytest.mark.parametrize("renamed", [False, True], ids=["before the rename", "after the rename"])
@pytest.mark.parametrize("number", [1, 3, *range(5, 11), 12, 21])
def test_killed_at_any_rename_and_resumed_ends_in_the_same_weights(
    photos: Path, reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, renamed: bool
) -> None:
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        kill_at(patch, number, renamed=renamed)
        with pytest.raises(Killed):
            run(photos, out)
    assert same(run(photos, out, resume=True), weights.load(reference / "last.safetensors"))
    assert same(weights.load(out / "best.safetensors"), weights.load(reference / "best.safetensors"))
    assert figures(out) == figures(reference)
    assert sorted(p.name for p in out.iterdir()) == sorted(p.name for p in reference.iterdir())


def figures(out: Path) -> list[str]:
    """The lines of metrics.csv without the seconds."""
    return [line.rpartition(",")[0] for line in (out / "metrics.csv").read_text().splitlines()]


def test_the_table_has_one_line_for_each_epoch(reference: Path) -> None:
    assert [line.split(",")[0] for line in figures(reference)] == ["epoch", "1", "2", "3"]


@pytest.mark.parametrize(
    "changes", [{"freeze": "trunk", "augment": "none", "epochs": 6}, {"optimizer": "adamw"}]
)
def test_other_kinds_of_run_resume_exactly_too(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    whole = run(photos, tmp_path / "whole", **changes)
    with monkeypatch.context() as patch:
        kill_at(patch, 12, renamed=True)
        with pytest.raises(Killed):
            run(photos, tmp_path / "cut", **changes)
    assert same(run(photos, tmp_path / "cut", resume=True, **changes), whole)


def test_the_number_of_workers_does_not_change_the_weights(
    photos: Path, reference: Path, tmp_path: Path
) -> None:
    fine_tune(photos, settings(), tmp_path / "run", workers=0, step_seconds=None, draw=False)
    assert same(weights.load(tmp_path / "run/last.safetensors"), weights.load(reference / "last.safetensors"))


def full_disk(after: int) -> Callable[[int], None]:
    """An fsync that fails from call `after` + 1 on, as on a disk that has become full."""
    calls = 0

    def failing(handle: int) -> None:
        nonlocal calls
        calls += 1
        if calls > after:
            raise OSError(errno.ENOSPC, "No space left on device")

    return failing


def test_a_full_disk_is_one_sentence_and_leaves_the_state_before_it(
    photos: Path, reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(files.os, "fsync", full_disk(after=20))
        with pytest.raises(MinidlError, match=r"No space left on device; what was saved before .* is intact"):
            run(photos, out)
    assert run_status(out) == "unfinished"
    assert not list(out.glob(".*"))
    assert same(run(photos, out, resume=True), weights.load(reference / "last.safetensors"))


def test_a_new_run_never_overwrites_a_folder(photos: Path, reference: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds a finished run"):
        fine_tune(photos, settings(), reference)
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(UsageError, match="is not the folder of a run"):
        fine_tune(photos, settings(), tmp_path, resume=True)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_run_resumes_only_with_its_own_settings_and_data(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        kill_at(patch, 4, renamed=True)
        with pytest.raises(Killed):
            run(photos, out)
    with pytest.raises(UsageError, match="started with settings"):
        run(photos, out, resume=True, lr=0.5)
    with pytest.raises(UsageError, match="started with data"):
        run(write_photos(tmp_path / "other", train=9, val=3), out, resume=True)


def test_a_damaged_state_is_refused(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        kill_at(patch, 4, renamed=True)
        with pytest.raises(Killed):
            run(photos, out)
    state = out / "resume.safetensors"
    state.write_bytes(state.read_bytes()[:-100])
    with pytest.raises(MinidlError, match="truncated"):
        run(photos, out, resume=True)


def test_a_finished_run_is_left_alone(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    first = run(photos, out)
    stamp = (out / "last.safetensors").stat().st_mtime_ns
    assert same(run(photos, out, resume=True), first)
    assert (out / "last.safetensors").stat().st_mtime_ns == stamp
