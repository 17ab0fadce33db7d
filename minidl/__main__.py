"""`python -m minidl` is the `minidl` command."""

from minidl.cli.main import entry

if __name__ == "__main__":
    entry()
