"""The benchmark command: its arithmetic, its tables, its gate, and a run of it."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import cases, convolution, ladder, memory, networks, pages, plots, report
from benchmarks.timing import Timing, interleave

ROOT = Path(__file__).parents[2]
MACHINE = {
    "processor": "A processor",
    "vectors": "512 bits",
    "threads": 2,
    "cpus": 2,
    "system": "Linux",
    "python": "3.11",
    "versions": {"minidl": "0.1", "torch": "2.13"},
}


def kernel_row(direction: str, ours: float, theirs: float) -> dict[str, Any]:
    seconds = {"minidl": [ours] * 5, "torch NCHW": [9.0] * 5, "torch NHWC": [theirs] * 5}
    row = {
        "convolution": "3x3",
        "network": "CIFAR",
        "direction": direction,
        "difference": 0.0,
        "seconds": seconds,
    }
    return {**row, "gflop": 50.0, "gbytes": 10.0, "limit": 100.0}


@pytest.fixture
def data() -> dict[str, Any]:
    names = (
        "minidl",
        "torch NCHW",
        "torch NHWC",
        "ONNX Runtime",
        "OpenVINO",
        "minidl bf16",
        "OpenVINO bf16",
        "minidl eager",
    )
    network = {"network": "resnet18", "batch": 16, "missing": {"torch.compile": "no compiler"}}
    return {
        "machine": MACHINE,
        "time": "2026-01-02 03:04",
        "turns": 5,
        "multiply_adds": 100.0,
        "bandwidth": 10.0,
        "convolution": [kernel_row("forward", 2.0, 1.0), kernel_row("forward", 1.0, 4.0)],
        "networks": [{**network, "seconds": {n: [float(i + 1)] * 5 for i, n in enumerate(names)}}],
        "memory": [
            {
                "network": "resnet18",
                "peak": {"minidl": 100 << 20, "torch NCHW": 300 << 20, "torch NHWC": 200 << 20},
                "before": {"minidl": 10 << 20, "torch NCHW": 30 << 20, "torch NHWC": 20 << 20},
            }
        ],
        "startup": [{"what": "minidl predict, resnet18, empty cache", "seconds": [5.0]}],
    }


SCRIPTS = [path for path in sorted((ROOT / "benchmarks").rglob("*.py")) if path.name != "__main__.py"]


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda p: p.stem)
def test_every_script_can_be_imported(path: Path) -> None:
    importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))


def test_a_ratio_is_the_median_of_the_ratios_of_each_turn() -> None:
    timing = Timing({"a": [1.0, 2.0, 4.0, 8.0, 1.0], "b": [2.0, 4.0, 8.0, 16.0, 100.0]})
    assert timing.ratio("a", "b")[:2] == (2.0, 2.0)
    assert timing.median("a") == 2.0 and timing.fastest(["a", "b"]) == "a"


def test_contestants_take_turns_in_alternating_order() -> None:
    calls: list[str] = []
    runs = {name: (lambda name=name: calls.append(name)) for name in "abc"}
    timing = interleave(runs, turns=3, warmup=1)
    assert "".join(calls) == "abc" + "abc" + "cba" + "abc"
    assert {name: len(values) for name, values in timing.seconds.items()} == dict.fromkeys("abc", 3)


def test_short_work_is_repeated_within_a_turn() -> None:
    calls = []
    interleave({"a": lambda: calls.append(1)}, turns=1, warmup=1, min_seconds=10.0)
    assert len(calls) == 1 + 1000


def test_flops_and_bytes_of_a_shape() -> None:
    shape = convolution.Shape("x", 2, 8, 3, 5, 1, 2)
    assert shape.out_size == 4
    assert shape.flops == 2 * 2 * 16 * 3 * 5
    weight, output = 3 * 5, 2 * 16 * 5
    assert shape.bytes_moved("forward") == 4 * (2 * 16 * 3 + output + weight)  # three quarters are never read
    assert shape.bytes_moved("input gradient") == 4 * (2 * 64 * 3 + output + weight)


def test_every_distinct_convolution_of_the_networks_is_measured() -> None:
    from minidl import models, nn

    for name, size in (("resnet18", 224), ("resnet50", 224), ("resnet20", 32)):
        found = {(s.channels, s.outputs, s.kernel, s.stride) for s in convolution.SHAPES}
        for module in models.create(name).modules():
            if isinstance(module, nn.Conv2d) and (size > 32 or module.in_channels > 3):
                shape = (module.in_channels, module.out_channels, module.kernel_size[0], module.stride[0])
                assert shape in found, f"{name}: {shape}"


def test_the_roofline_takes_the_limit_that_binds() -> None:
    compute, bound = report.roofline(kernel_row("forward", 2.0, 1.0), bandwidth=10.0)
    assert (compute, bound) == (0.25, 0.5)


def test_the_document_holds_every_part_and_says_who_is_missing(data: dict[str, Any]) -> None:
    text = report.markdown(data)
    assert "| 3x3 | forward | 2000.00 | 25 | 25% | 50% | torch NHWC | 1000.00 | 0.50 (0.50-0.50) |" in text
    assert "geometric mean 1.41, median 2.25, lowest 0.50, highest 4.00" in text
    assert "| resnet18 | 1000.0 | 16 | 8000.0 | torch NCHW | 2000.00 | 2.00 (2.00-2.00) |" in text
    assert "| resnet18 | 100 (10) | 300 (30) | 200 (20) | 0.50 |" in text
    assert "- torch.compile did not take part: no compiler" in text
    for line in text.splitlines():
        if line.startswith("|"):
            assert line.endswith("|")


def test_tables_have_as_many_cells_as_columns(data: dict[str, Any]) -> None:
    for part in ("convolution", "networks", "memory", "startup"):
        head = report.head(part)[-2:]
        for row in data[part]:
            assert report.line(part, row, data).count("|") == head[0].count("|") == head[1].count("|")
    widths = {line.count("|") for line in report.readme_table(data) if line.startswith("|")}
    assert len(widths) == 1


def test_the_readme_table_is_replaced_between_its_markers(data: dict[str, Any], tmp_path: Path) -> None:
    page = tmp_path / "README.md"
    page.write_text(f"before\n{report.BEGIN}\nold\n{pages.END}\nafter\n", encoding="utf8")
    for _ in range(2):
        pages.write_table(page, report.BEGIN, ["a", "b"])
        assert page.read_text(encoding="utf8") == f"before\n{report.BEGIN}\na\nb\n{pages.END}\nafter\n"
    with pytest.raises(ValueError, match=r"README\.md: expected the markers <!-- other -->"):
        pages.write_table(page, "<!-- other -->", ["a"])
    assert "| resnet18, peak memory | 100 MiB | 0.50 times its memory | - | - |" in report.readme_table(data)


def test_a_busy_machine_is_said(data: dict[str, Any]) -> None:
    assert "busy" not in report.markdown(data)
    for load, said in ((None, False), (0.4, False), (7.5, True)):
        loaded = {**data, "load": load}
        assert ("busy (load 7.5" in report.markdown(loaded)) is said
        assert ("busy (load 7.5" in report.readme_table(loaded)[0]) is said


@pytest.mark.parametrize(
    ("page", "begin"),
    [
        ("README.md", report.BEGIN),
        ("docs/convolution.md", ladder.BEGIN),
        ("docs/convolution-cuda.md", ladder.BEGIN),
    ],
)
def test_the_pages_have_the_markers(page: str, begin: str) -> None:
    pages.replace_between((ROOT / page).read_text(encoding="utf8"), begin, [])


def test_results_without_anybody_else_are_tables_too(data: dict[str, Any]) -> None:
    for row in data["convolution"] + data["networks"]:
        row["seconds"] = {"minidl": row["seconds"]["minidl"]}
    data["memory"][0]["peak"] = {"minidl": 1 << 20}
    assert "| 3x3 | forward | 2000.00 | 25 | 25% | 50% | - |  |  |" in report.markdown(data)
    assert report.readme_table(data)


def test_pictures_are_drawn_of_what_there_is(data: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    assert [p.name for p in plots.write(data, tmp_path)] == ["networks.png", "convolution.png"]
    assert all((tmp_path / name).stat().st_size > 5000 for name in ("networks.png", "convolution.png"))
    assert plots.write({**data, "networks": [], "convolution": []}, tmp_path) == []


def test_a_missing_matplotlib_is_named(
    data: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match="pictures need matplotlib: pip install"):
        plots.write(data, tmp_path)


def test_different_work_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    case = cases.Network("resnet18", 1, 32, False)
    right = cases.Contestant(lambda: np.array([1.0, 2.0]))
    near = cases.Contestant(lambda: np.array([1.0, 2.0 + 1e-5]))
    wrong = cases.Contestant(lambda: np.array([1.0, 2.1]))
    assert networks.check(case, {"minidl": right, "near": near}, {}) < 1e-5
    with pytest.raises(SystemExit, match=r"the result of wrong differs by 5\.0e-02; not timed"):
        networks.check(case, {"minidl": right, "wrong": wrong}, {})
    networks.check(case, {"minidl": right, "wrong bf16": cases.Contestant(lambda: np.array([1.0, 2.05]))}, {})
    training = cases.Network("resnet18", 1, 32, True)
    steps = [cases.Contestant(lambda: 1.0, lambda g=g: {"w": np.array([1.0, g])}) for g in (1.0, 1.01, 2.0)]
    networks.check(training, {"minidl": steps[0], "near": steps[1]}, {})
    with pytest.raises(SystemExit, match="the gradients of wrong differ by"):
        networks.check(training, {"minidl": steps[0], "wrong": steps[2]}, {})


def test_a_contestant_that_fails_is_left_out_and_named() -> None:
    def fail() -> None:
        raise RuntimeError("no compiler\nmore")

    case, missing = cases.Network("resnet18", 1, 32, False), {"A": "b"}
    contestants = {"minidl": cases.Contestant(lambda: 1.0), "other": cases.Contestant(fail)}
    assert networks.check(case, contestants, missing) == 0
    assert list(contestants) == ["minidl"] and missing == {"A": "b", "other": "no compiler"}
    with pytest.raises(RuntimeError):
        networks.check(case, {"minidl": cases.Contestant(fail)}, {})


def test_a_nan_is_not_timed() -> None:
    case = cases.Network("resnet18", 1, 32, False)
    good, bad = (cases.Contestant(lambda v=v: np.array([1.0, v])) for v in (1.0, np.nan))
    with pytest.raises(SystemExit):
        networks.check(case, {"minidl": good, "bad": bad}, {})


@pytest.mark.skipif(sys.platform == "win32", reason="the system does not tell")
def test_peak_memory_counts_what_was_held_once() -> None:
    before = memory.peak_resident()
    np.ones(1 << 25).sum()  # 256 MiB, held for a moment
    after = memory.peak_resident()
    assert before is not None and after is not None
    assert after - before > 100 << 20 or before > 256 << 20


def test_a_small_run_writes_its_files(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks", "--quick", "--only", "overhead", "--threads", "1"]
    done = subprocess.run(
        [*command, "--out", str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    data = json.loads((tmp_path / "results.json").read_text())
    assert data["machine"]["threads"] == 1 and data["multiply_adds"] > 0 and data["bandwidth"] > 0
    assert [row["chain"] for row in data["overhead"]]
    assert (tmp_path / "results.md").read_text().startswith("# Benchmark\n")


def test_a_bad_expression_is_refused() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--select", "("],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2 and "--select: no regular expression" in done.stderr
