"""Kill a fine-tuning run at random moments, resume it each time, and compare with the run that was left alone.

    python -m tests.kill_resume [--kills 10] [--seed 0] [--model NAME ...]

Each of the `--kills` runs is killed (SIGKILL) once or more, at a moment drawn between its start and its end, then
resumed until it is finished; its weights must equal the reference's bit for bit. The default data set and network
are tiny; `--data`, `--model` and the rest after `--` choose others, for example

    python -m tests.kill_resume --data photos/ -- --model resnet18 --weights resnet18.pth --epochs 2
"""

from __future__ import annotations

import argparse
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from minidl import weights
from tests.minidl.training.tiny import MODEL_ARGUMENTS, write_photos

TINY = [
    *MODEL_ARGUMENTS,
    *("--epochs", "10", "--batch-size", "4", "--augment", "basic"),
    *("--save-seconds", "0.02", "--no-pictures", "--threads", "1"),
]


def command(data: Path, out: Path, options: list[str]) -> list[str]:
    """The command line of a run that may be resumed."""
    return [sys.executable, "-m", "minidl", "finetune", str(data), "--out", str(out), "--resume", *options]


def run_and_kill(data: Path, out: Path, options: list[str], after: float | None) -> bool:
    """Start or resume a run and kill it `after` seconds (None: never) from the moment its state exists.

    Returns whether it was killed: a run may be finished before. When it is resumed the state is there from the
    start, so that moments of loading are among those at which it dies.
    """
    with subprocess.Popen(
        command(data, out, options), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as process:
        while process.poll() is None and not (out / "resume.safetensors").exists():
            time.sleep(0.002)
        try:
            process.wait(after)
        except subprocess.TimeoutExpired:
            process.kill()
        assert process.stderr is not None
        message = process.stderr.read().decode()
        code = process.wait()
    if code > 0:
        raise SystemExit(f"the run failed with exit code {code}: {message}")
    return code < 0 or (sys.platform == "win32" and code == 1)


def bits(file: Path) -> dict[str, bytes]:
    """The bytes of every tensor in a weights file."""
    return {name: array.tobytes() for name, array in weights.load(file).items()}


def main() -> None:
    """Run the reference, then the killed runs; exit code 1 at the first difference."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", type=Path)
    parser.add_argument("options", nargs="*", help="after --: options of minidl finetune")
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    folder = Path(tempfile.mkdtemp(prefix="minidl-kill-"))
    try:
        data = arguments.data or write_photos(folder / "photos", train=8, val=3)
        options = arguments.options or TINY
        # once to compile the kernels, once to see how long a run takes from its first state to its end
        subprocess.run(command(data, folder / "first", options), check=True, stdout=subprocess.DEVNULL)
        started = time.monotonic()
        run_and_kill(data, folder / "reference", options, after=None)
        whole = time.monotonic() - started
        expected = {
            name: bits(folder / "reference" / name) for name in ("last.safetensors", "best.safetensors")
        }
        if expected["last.safetensors"] != bits(folder / "first/last.safetensors"):
            raise SystemExit("two runs that nothing disturbed differ")
        print(f"reference: {whole:.1f} s")
        done, window = 0, whole
        while done < arguments.kills:
            out, moments = folder / f"run{done}", []
            while done < arguments.kills:
                after = rng.uniform(0.0, window)
                if not run_and_kill(data, out, options, after):
                    window /= 2  # it was finished before: draw earlier moments
                    break
                done += 1
                moments.append(after)
                print(f"kill {done} after {after:.2f} s")
            subprocess.run(command(data, out, options), check=True, stdout=subprocess.DEVNULL)
            same = all(bits(out / name) == tensors for name, tensors in expected.items())
            print(
                f"resumed after {len(moments)} kills: {'identical' if same else 'DIFFERENT'} weights",
                flush=True,
            )
            if not same:
                raise SystemExit(1)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
