"""The page about the ladder names every step and has a place for its measured table."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from minidl.kernels.ladder import STEPS
from tests.minidl.test_documents import blocks

DOCS = Path(__file__).parents[2] / "docs"


def test_the_page_links_every_step_and_every_picture_exists():
    page = (DOCS / "convolution.md").read_text(encoding="utf8")
    for step in STEPS:
        assert f"../kernels/ladder/cpu/{step.module}.py" in page
    pictures = {part.split(")")[0] for part in page.split("](pictures/")[1:]}
    assert pictures
    for name in pictures:
        assert (DOCS / "pictures" / name).exists(), name


def test_the_page_has_the_measured_table():
    page = (DOCS / "convolution.md").read_text(encoding="utf8")
    table = page.split("<!-- ladder -->")[1].split("<!-- end -->")[0]
    for step in STEPS:
        assert f"| {step.number} {step.title} |" in table


def test_the_pages_code_runs():
    scope = {"x": np.zeros((1, 4, 4, 8), np.float32), "w": np.zeros((2, 3, 3, 8), np.float32)}
    exec(compile(blocks("docs/convolution.md"), "convolution.md", "exec"), scope)
    assert scope["y"].shape == (1, 4, 4, 2)
