"""The `minidl` command: finds the sub-command, turns errors into one line and an exit code.

Exit codes: 0 done, 1 the work failed, 2 wrong use, 130 interrupted by Ctrl-C.
"""

from __future__ import annotations

import argparse
import os
import sys
import textwrap
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module
from typing import NoReturn

from minidl.cli import interrupt
from minidl.errors import MinidlError, UsageError

COMMANDS = (
    "quickstart",
    "finetune",
    "pretrain",
    "adapt",
    "evaluate",
    "predict",
    "convert",
    "summary",
    "models",
    "warmup",
    "gradcheck",
)
"""Each is a module of this package with `add_parser(subparsers)` and `run(arguments) -> int | None`."""

EXAMPLE = """\
example:
  minidl quickstart
  minidl finetune photos/ --model resnet18 --weights resnet18.pth --out my-run
  minidl evaluate photos/ --checkpoint my-run
  minidl predict bee.jpg --checkpoint my-run

exit codes: 0 done, 1 the work failed, 2 wrong use, 130 interrupted
'minidl COMMAND --help' explains a command and shows an example"""


class _Formatter(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=27)

    def add_argument(self, action: argparse.Action) -> None:
        super().add_argument(action)
        if isinstance(action, argparse._SubParsersAction):  # argparse forgets that the names are indented
            self._action_max_length = max(self._action_max_length, 4 + max(map(len, COMMANDS)))


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, with the nearest known name."""

    def __init__(self, **options: object) -> None:
        options.setdefault("formatter_class", _Formatter)
        options.setdefault("allow_abbrev", False)
        if isinstance(text := options.get("description"), str):
            options["description"] = textwrap.fill(text, 100)
        super().__init__(**options)  # type: ignore[arg-type]

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see '{self.prog} --help')")

    def parse_args(self, args=None, namespace=None):  # type: ignore[no-untyped-def]
        known, unknown = self.parse_known_args(args, namespace)
        if unknown:
            prog, options = getattr(known, "parser", self).prog, _options(getattr(known, "parser", self))
            near = get_close_matches(unknown[0].split("=")[0], options, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise UsageError(f"unknown argument {unknown[0]!r}{hint} (see '{prog} --help')")
        return known


def _options(parser: argparse.ArgumentParser) -> list[str]:
    return [option for action in parser._actions for option in action.option_strings]


def build_parser() -> Parser:
    """The parser of the whole command line; loads nothing heavy."""
    parser = Parser(
        prog="minidl",
        description="Fine-tune pretrained image classifiers, evaluate them and use them, without PyTorch.",
        epilog=EXAMPLE,
    )
    parser.add_argument("--version", action="store_true", help="print the version and stop")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=Parser, title="commands")
    for name in COMMANDS:
        module = import_module(f"minidl.cli.{name}")
        sub = module.add_parser(commands)
        sub.set_defaults(run=module.run, parser=sub)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line (without the program's name); returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    _tolerant_output()
    try:
        _check_command(arguments)
        parser = build_parser()
        parsed = parser.parse_args(arguments)
        if parsed.version:
            import minidl

            print(f"minidl {getattr(minidl, '__version__', 'unknown')}")
            return 0
        if parsed.command is None:
            parser.print_help()
            return 2
        with interrupt.remembered():
            code = parsed.run(parsed) or 0
        sys.stdout.flush()  # here, where a reader that is gone can still be answered for
        return code
    except BrokenPipeError:
        # the reader (head, less) is gone: nothing to say, and nobody to say it to
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt as error:
        _complain("interrupted" + "".join(f"; {hint}" for hint in getattr(error, "__notes__", ())))
        return 130
    except UsageError as error:
        return _failed(error, 2)
    except (MinidlError, OSError, ValueError, MemoryError) as error:
        return _failed(error, 1)


def entry() -> NoReturn:
    """The console script."""
    sys.exit(main())


def _check_command(arguments: Sequence[str]) -> None:
    name = next((a for a in arguments if not a.startswith("-")), None)
    if name is not None and name not in COMMANDS:
        near = get_close_matches(name, COMMANDS, 1)
        hint = f"; did you mean '{near[0]}'?" if near else f"; the commands are {', '.join(COMMANDS)}"
        raise UsageError(f"there is no command {name!r}{hint} (see 'minidl --help')")


def _tolerant_output() -> None:
    """A terminal that cannot show a character (a class name, say) shows a substitute instead of failing, and
    a stream that the caller closed swallows what is written to it.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 (open as long as the program runs)
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


def _failed(error: BaseException, code: int) -> int:
    if os.environ.get("MINIDL_DEBUG"):
        import traceback

        traceback.print_exception(error)
    _complain(f"error: {one_line(error)}")
    return code


def one_line(error: BaseException) -> str:
    """What an exception says, as one line without control characters."""
    if isinstance(error, MemoryError):
        return "not enough memory; try a smaller --batch-size"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    text = " ".join(str(error).split())
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text) or type(error).__name__


def _complain(text: str) -> None:
    print(f"minidl: {text}", file=sys.stderr, flush=True)
