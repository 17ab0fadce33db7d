"""Random calls of every operator that has a gradient, many of them.

    python tests/random_shapes.py [PATTERN ...] [--examples 100] [--seed 0]

The test suite runs a few of them; this runs as many as asked for and prints the count, the share of operators whose
second-order check passed on random shapes, and what failed, shrunk to a small call.
"""

from __future__ import annotations

import argparse
import fnmatch
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from hypothesis import HealthCheck, given, seed, settings  # noqa: E402

from tests.minidl.trust.shapes import STRATEGIES, Case  # noqa: E402
from tests.minidl.trust.shapes.checking import REASONS, check, drawn  # noqa: E402


def main() -> int:
    """The exit code: 1 when an operator failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("patterns", nargs="*", metavar="PATTERN", help="only operators that match")
    parser.add_argument("--examples", type=int, default=100, help="calls of each operator (default: 100)")
    parser.add_argument("--seed", type=int, default=0, help="of the random choices (default: 0)")
    arguments = parser.parse_args()
    names = [
        n
        for n in sorted(STRATEGIES)
        if not arguments.patterns or any(fnmatch.fnmatch(n, p) for p in arguments.patterns)
    ]
    start, calls, elements, failed = time.perf_counter(), 0, 0, []
    for name in names:

        @seed(arguments.seed)
        @settings(
            max_examples=arguments.examples,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(drawn(name))
        def run(case: Case) -> None:
            nonlocal calls, elements
            calls += 1
            elements += sum(a.size for a in case.arrays)
            check(case)

        try:
            run()
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            failed.append(name)
            notes = "\n".join(getattr(error, "__notes__", []))
            print(f"{name}: {type(error).__name__}: {error}\n{notes}\n", flush=True)
    passed = len(names) - len(failed)
    print(
        f"{calls} random calls of {len(names)} operators ({elements} input elements) in "
        f"{time.perf_counter() - start:.0f} s\n"
        f"second order passed on random shapes: {passed} of {len(names)} operators with a gradient "
        f"({100 * passed / max(len(names), 1):.1f} %); failed: {', '.join(failed) or 'none'}\n"
        f"operators without a gradient: {len(REASONS)}"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
