"""One tiny data set and one finished run for all tests of the commands."""

from __future__ import annotations

from pathlib import Path

import pytest

from minidl.cli.main import main
from minidl.kernels import set_num_threads
from tests.minidl.training.tiny import MODEL_ARGUMENTS, write_photos


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Networks this small are slower on several threads, and much slower on a busy machine."""
    set_num_threads(1)


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photos(tmp_path_factory.mktemp("photos"), train=8, val=3)


@pytest.fixture(scope="session")
def run(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    assert (
        main(
            [
                "finetune",
                str(photos),
                *MODEL_ARGUMENTS,
                "--out",
                str(out),
                *["--epochs", "2", "--batch-size", "4"],
            ]
        )
        == 0
    )
    return out
