"""The base of the errors that minidl raises for bad input from files."""

from __future__ import annotations


class MinidlError(Exception):
    """Bad input from outside the program: a weights file, a data set, a checkpoint.

    The message is one sentence that names the file or argument, what was expected and what came.
    The command line prints it without a traceback and exits with code 1.
    """


class UsageError(MinidlError):
    """A wrong combination of command-line arguments: printed without a traceback, exit code 2."""
