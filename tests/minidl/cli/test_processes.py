"""What only a process of its own can show: kill -9, Ctrl-C, a limit on the size of files."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from minidl import weights
from minidl.cli.main import main
from tests.kill_resume import TINY, bits, command, run_and_kill

posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals and limits")


@pytest.fixture(scope="module")
def reference(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The last weights of the run that nothing disturbs."""
    out = tmp_path_factory.mktemp("reference") / "run"
    assert main(["finetune", str(photos), "--out", str(out), *TINY]) == 0
    return bits(out / "last.safetensors")


def test_killed_twice_and_resumed_ends_in_the_same_weights(
    photos: Path, reference: dict[str, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    killed = [run_and_kill(photos, out, TINY, after) for after in (0.15, 1.2)]
    assert killed[0]
    subprocess.run(command(photos, out, TINY), check=True, stdout=subprocess.DEVNULL, timeout=120)
    assert bits(out / "last.safetensors") == reference
    assert not list(out.glob(".*")) and not (out / "resume.safetensors").exists()


@posix
def test_ctrl_c_says_how_to_go_on(photos: Path, reference: dict[str, bytes], tmp_path: Path) -> None:
    out = tmp_path / "run"
    with subprocess.Popen(
        command(photos, out, TINY), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        try:
            begun = time.monotonic()
            while not (out / "last.safetensors").exists():
                assert process.poll() is None and time.monotonic() - begun < 60
                time.sleep(0.002)
            process.send_signal(signal.SIGINT)
            _, message = process.communicate(timeout=60)
        finally:
            process.kill()  # else a failed test would wait for it without end
    assert process.returncode == 130
    assert message.decode().startswith("minidl: interrupted; give the same command with --resume")
    assert message.count(b"\n") == 1
    assert main(["finetune", str(photos), "--out", str(out), "--resume", *TINY]) == 0
    assert bits(out / "last.safetensors") == reference


@posix
@pytest.mark.parametrize(("limit", "state_is_there"), [(4_000, False), (20_000, True)])
def test_a_file_size_limit_leaves_nothing_half_written(
    photos: Path, reference: dict[str, bytes], tmp_path: Path, limit: int, state_is_there: bool
) -> None:
    out = tmp_path / "run"
    limited = (
        f"import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\n"
        "from minidl.cli.main import main; sys.exit(main(sys.argv[1:]))"
    )
    arguments = ["finetune", str(photos), "--out", str(out), *TINY]
    done = subprocess.run(
        [sys.executable, "-c", limited, *arguments], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert done.stderr.startswith("minidl: error: ") and done.stderr.count("\n") == 1
    assert "resume.safetensors: cannot be written" in done.stderr
    assert not list(out.glob(".*"))
    assert (out / "resume.safetensors").exists() == state_is_there
    for file in out.glob("*.safetensors"):
        weights.load(file)
    assert main([*arguments, "--resume"]) == 0
    assert bits(out / "last.safetensors") == reference
