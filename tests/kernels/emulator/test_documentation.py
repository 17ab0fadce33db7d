"""The code of docs/gpu-without-a-gpu.md runs, and prints what the document says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.kernels.emulator.needs import emulator

pytestmark = emulator

DOCUMENT = Path(__file__).parents[3] / "docs" / "gpu-without-a-gpu.md"


def test_the_documents_code_gives_the_documents_report(capsys: pytest.CaptureFixture[str]) -> None:
    text = DOCUMENT.read_text(encoding="utf8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    report = re.search(r"```\n(row_sum: .*?)\n```", text, re.DOTALL)
    assert len(blocks) == 3 and report is not None
    scope: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, DOCUMENT.name, "exec"), scope)
    printed = capsys.readouterr().out
    assert printed.startswith("True\n")
    assert report[1] in printed
    assert re.search(r"sum\.cu:\d+: \d+ global accesses of 4 bytes a lane, [\d.]+ sectors each", printed)
