"""`minidl gradcheck` runs the table, shows what is wrong and says so in its exit code."""

from __future__ import annotations

import json

import pytest

from minidl.cli.main import main
from tests.planting import planted


def test_operators_that_are_right_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gradcheck", "--operator", "softmax"]) == 0
    out = capsys.readouterr().out
    lines = [line.split() for line in out.splitlines()]
    assert ["cpu", *"222222220"] in lines and ["reference", *"222222200"] in lines
    assert "4 entries checked" in out and "0 wrong" in out


def test_patterns_choose_and_all_shows(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gradcheck", "--backend", "reference", "--operator", "su[bm]", "--all"]) == 0
    out = capsys.readouterr().out
    assert [line.split()[0] for line in out.splitlines()[2:3]] == ["sub"] and "1 entries" in out


def test_a_wrong_gradient_is_shown_with_its_report(capsys: pytest.CaptureFixture[str]) -> None:
    with planted("minidl.ops.unary:TanhBackward.forward", "1 - y * y", "1 - y"):
        assert main(["gradcheck", "--backend", "cpu", "--operator", "tanh"]) == 1
    out = capsys.readouterr().out
    assert "failed" in out and "the gradient is wrong" in out and "worst element" in out


def test_json_holds_every_check(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gradcheck", "--backend", "reference", "--operator", "abs*", "--json"]) == 0
    found = {r["operator"]: r for r in json.loads(capsys.readouterr().out)}
    assert found["abs"]["checks"]["gradient"] == "ok" and found["abs"]["checks"]["reference"] == "-"
    assert found["abs_at_zero"]["checks"]["gradient"] == "-"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--backend", "gpu"], "expects one of cpu, reference"),
        (["--operator", "nosuch"], "no operator's name"),
    ],
)
def test_wrong_use_is_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["gradcheck", *arguments]) == 2
    assert message in capsys.readouterr().err
