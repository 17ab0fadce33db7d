"""The code of docs/gpu-without-a-gpu.md runs, and prints what the document says."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.kernels.emulator.needs import emulator
from tests.minidl.test_documents import ROOT, blocks

pytestmark = emulator

NAME = "docs/gpu-without-a-gpu.md"


def test_the_documents_code_gives_the_documents_report(capsys: pytest.CaptureFixture[str]) -> None:
    text = (ROOT / NAME).read_text(encoding="utf8")
    report = re.search(r"```\n(row_sum: .*?)\n```", text, re.DOTALL)
    assert report is not None
    exec(compile(blocks(NAME), NAME, "exec"), dict[str, Any]())
    printed = capsys.readouterr().out
    assert printed.startswith("True\n")
    assert report[1] in printed
    assert re.search(r"sum\.cu:\d+: \d+ global accesses of 4 bytes a lane, [\d.]+ sectors each", printed)
