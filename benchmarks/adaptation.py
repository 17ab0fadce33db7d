"""What each method of domain adaptation does on two domain shifts.

    python -m benchmarks.adaptation jpeg --data DIR --out benchmarks/results/adaptation
    python -m benchmarks.adaptation fashion --data DIR --out benchmarks/results/adaptation
    python -m benchmarks.adaptation table --out benchmarks/results/adaptation

DIR holds cifar-10-batches-py, cifar10-jpeg.zip, fashion-mnist and resnet20-12fca82f.th, at the top or in folders. Every
run is a run folder below --work; what is finished is not repeated and what was interrupted is continued, so the
command may be killed and given again. Each result is added to OUT/SHIFT.json as it comes; `table` writes the Markdown
table and the plot.

Target labels score and are seen by no method, except by `finetune` (few labels) and the ceiling (all labels), which
say so. The kind of recipe, the thresholds and the shares were chosen on shifts of another kind that are made of
source images alone (`--development`: CIFAR-10 at a lower resolution; clothes blended over smooth noise). Not all was:
the self-training of `jpeg` was made longer, at a rate of 0.007 instead of 0.01 and with a faster average of the
teacher, after its first results on the target, and a prototype had been looked at on a quarter of the JPEG test images.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import domain_shifts
from minidl import kernels
from minidl.adaptation import AdaptSettings, adapt, read_report
from minidl.data import Splits
from minidl.training import Settings, fine_tune, plots, run_status
from minidl.training.checkpoint import readable_json, write_text

SMALL = {"layers": [1, 1, 1]}
"""Options of resnet20 that make a ResNet-8, which is enough for clothes."""


@dataclass(frozen=True)
class Recipe:
    """A row of the table: settings of `adapt`, and which data it learns from."""

    name: str
    title: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    protocol: str = "train"


@dataclass(frozen=True)
class Shift:
    """A domain shift: how the data is opened, what all runs have in common, and the rows."""

    name: str
    title: str
    common: Mapping[str, Any]
    recipes: tuple[Recipe, ...]


SELF = {
    "method": "source",
    "self_training": True,
    "student_augment": "basic",
    "epochs": 3,
    "steps_per_epoch": 50,
}
LARGE = {"batch_size": 128, "source_batch_size": 64, "lr": 0.007, "epochs": 5}

JPEG = Shift(
    "jpeg",
    "Lossless CIFAR-10 to JPEG files, published ResNet-20",
    {"model": "resnet20", "batch_size": 64, "epochs": 1, "steps_per_epoch": 60},
    (
        Recipe("self", "self-training", {**SELF, **LARGE}),
        Recipe("source", "the source alone, as many steps", {**SELF, **LARGE, "self_training": False}),
        Recipe("adabn", "AdaBN", {"method": "adabn", "batch_size": 256}),
        Recipe(
            "adabn-prior", "AdaBN, the source as prior", {"method": "adabn", "batch_size": 256, "prior": 1e4}
        ),
        Recipe("coral", "deep CORAL", {"method": "coral"}),
        Recipe("mmd", "maximum mean discrepancy", {"method": "mmd"}),
        Recipe("dann", "domain-adversarial", {"method": "dann"}),
        Recipe("infomax", "information maximisation", {"method": "infomax"}),
        Recipe("finetune", "fine-tuning on 10 target labels per class", {"method": "finetune"}),
        Recipe("copies", "source images and JPEG copies of them", {"method": "source"}, "copies"),
        Recipe("self-unseen", "self-training, images new to the network", {**SELF, **LARGE}, "unseen"),
        Recipe(
            "ceiling",
            "all target labels",
            {
                "method": "finetune",
                "labels_per_class": 5000,
                "source_batch_size": 128,
                "epochs": 3,
                "steps_per_epoch": 50,
            },
        ),
    ),
)

SIGNS = {"method": "mixup", "mix_share": 0.7, "mix_signs": True, "epochs": 4}

FASHION = Shift(
    "fashion",
    "Fashion-MNIST to Fashion-MNIST blended over photos, ResNet-8",
    {
        "model": "resnet20",
        "model_options": SMALL,
        "statistics": "batch",
        "batch_size": 64,
        "lr": 0.05,
        "epochs": 2,
        "steps_per_epoch": 50,
    },
    (
        Recipe("source", "the source alone, as many steps", {"method": "source", "epochs": 4}),
        Recipe("adabn", "AdaBN", {"method": "adabn", "batch_size": 256}),
        Recipe("coral", "deep CORAL", {"method": "coral"}),
        Recipe("mmd", "maximum mean discrepancy", {"method": "mmd"}),
        Recipe("dann", "domain-adversarial", {"method": "dann"}),
        Recipe("infomax", "information maximisation", {"method": "infomax"}),
        Recipe("mixup", "domain mixup", {"method": "mixup"}),
        Recipe("mixup-signs", "domain mixup with negatives", SIGNS),
        Recipe(
            "mixup-self",
            "domain mixup with negatives, self-training",
            {
                **SIGNS,
                **SELF,
                "method": "mixup",
                "epochs": 4,
                "threshold": 0.6,
                "average": 0.98,
                "balance": True,
            },
        ),
        Recipe("finetune", "fine-tuning on 10 target labels per class", {"method": "finetune"}),
        Recipe("ceiling", "all target labels", {"method": "finetune", "labels_per_class": 1800, "epochs": 4}),
    ),
)
ABOUT = """\
Made by `python -m benchmarks.adaptation`. Mean and standard deviation over the seeds; a seed decides the training (and
for clothes the source network), the images are always the same. CPU seconds of one thread on a machine that had other
work to do, the first pass over the images included where it was the first run with a network.

No method saw a label of the target except the fine-tuning on few and the row with all of them, which is a ceiling for
its number of steps only. Runs are short: the steps of each and what the settings were chosen by stand in
`benchmarks/adaptation.py`. The published network was trained on the lossless originals of the unlabelled JPEG files;
"images new to the network" are half of the test images, and the other half scores."""

SHIFTS = {shift.name: shift for shift in (JPEG, FASHION)}


def find(data: Path, name: str) -> Path:
    """The file or folder called `name` in `data` or below it."""
    for place in (data / name, *sorted(data.rglob(name))):
        if place.exists():
            return place
    raise SystemExit(f"{data}: there is no {name} here")


def open_shift(name: str, protocol: str, data: Path, development: bool) -> tuple[Splits, Splits]:
    """(source, target) of a shift under a recipe's protocol, or of the shift for its development."""
    cifar = find(data, "cifar-10-batches-py")
    if name == "fashion":
        return domain_shifts.fashion_shift(find(data, "fashion-mnist"), None if development else cifar)
    if development:
        return domain_shifts.resolution_shift(cifar)
    zipped = find(data, "cifar10-jpeg.zip")
    source, target = domain_shifts.jpeg_shift(cifar, zipped, "unseen" if protocol == "unseen" else "train")
    return domain_shifts.with_jpeg_copies(source) if protocol == "copies" else source, target


def source_weights(shift: Shift, source: Splits, data: Path, work: Path, seed: int) -> Path:
    """The network to start from: the published one, or a small one trained on the source with this seed."""
    if shift.name == "jpeg":
        return find(data, "resnet20-12fca82f.th")
    out = work / shift.name / f"source-{seed}"
    if run_status(out) != "finished":
        settings = Settings(
            "resnet20", model_options=SMALL, epochs=2, batch_size=128, lr=0.1, augment="basic", seed=seed
        )
        fine_tune(source, settings, out, resume=True, workers=1, step_seconds=20.0, draw=False)
    return out


def run_one(
    shift: Shift,
    recipe: Recipe,
    seed: int,
    data: Path,
    work: Path,
    development: bool,
    known: dict[tuple[str, str], Any],
) -> dict[str, Any]:
    """One run of one recipe, new or continued; its figures. `known` keeps what networks make of the images before."""
    source, target = open_shift(shift.name, recipe.protocol, data, development)
    weights = source_weights(shift, source, data, work, seed)
    settings = AdaptSettings(**{**shift.common, **recipe.settings, "weights": str(weights), "seed": seed})
    kind = "development" if development else "target"
    out = work / shift.name / kind / f"{recipe.name}-{seed}"
    started = time.process_time()
    same = str(weights), recipe.protocol
    done = adapt(
        source, target, settings, out, resume=True, before=known.get(same), workers=1, step_seconds=20.0
    )
    known[same] = known.get(same) or done.before
    report = read_report(out)
    accuracy = {
        domain: [report[domain][when]["accuracy"] for when in ("before", "after")]
        for domain in ("source", "target")
    }
    return {
        **accuracy,
        "images": report["target"]["after"]["images"],
        "changed": report["changed"],
        "distances": report["distances"],
        "cpu_seconds": round(time.process_time() - started, 1),
        "settings": dict(recipe.settings),
    }


def read_results(file: Path) -> dict[str, Any]:
    """What earlier runs brought: recipe/seed -> figures."""
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf8")) if file.exists() else {}
    return found


def spread(values: list[float]) -> str:
    """Mean, and standard deviation where there are several values, in percent."""
    mean = f"{100 * statistics.mean(values):.2f}"
    return f"{mean} ± {100 * statistics.stdev(values):.2f}" if len(values) > 1 else mean


def rows_of(shift: Shift, results: Mapping[str, Any]) -> list[tuple[Recipe, list[dict[str, Any]]]]:
    """The runs of every recipe that has any."""
    found = [
        (recipe, [run for key, run in sorted(results.items()) if key.rpartition("/")[0] == recipe.name])
        for recipe in shift.recipes
    ]
    return [(recipe, runs) for recipe, runs in found if runs]


def table(shift: Shift, results: Mapping[str, Any]) -> list[str]:
    """Lines of Markdown."""
    lines = [
        f"## {shift.title}",
        "",
        "| method | target before, % | target after, % | gain, points | source after, % | seeds | CPU s a run |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for recipe, runs in rows_of(shift, results):
        before, after = ([run["target"][i] for run in runs] for i in (0, 1))
        gains = [b - a for a, b in zip(before, after, strict=True)]
        source = [run["source"][1] for run in runs]
        cpu = statistics.median(run["cpu_seconds"] for run in runs)
        lines.append(
            f"| {recipe.title} | {spread(before)} | {spread(after)} | {spread(gains)} | {spread(source)} | "
            f"{len(runs)} | {cpu:.0f} |"
        )
    return [*lines, ""]


def draw(shift: Shift, results: Mapping[str, Any], path: Path) -> None:
    """A bar for each method: the mean over the seeds, with a point for each."""
    rows = rows_of(shift, results)
    figure = plots.new_figure(8.0, 1.2 + 0.38 * len(rows))
    axes = figure.subplots()
    for at, (recipe, runs) in enumerate(reversed(rows)):
        after = [100 * run["target"][1] for run in runs]
        color = plots.GREY if recipe.name in ("ceiling", "copies") else plots.BLUE
        axes.barh(at, statistics.mean(after), color=color, alpha=0.7)
        axes.plot(after, [at] * len(after), "k.", markersize=5)
    start = statistics.mean(
        100 * run["target"][0] for recipe, runs in rows for run in runs if recipe.protocol != "unseen"
    )
    axes.axvline(start, color=plots.ORANGE, label="before")
    axes.set_yticks(range(len(rows)), [recipe.title for recipe, _ in reversed(rows)])
    values = [100 * v for _, runs in rows for run in runs for v in run["target"]]
    margin = 0.1 * (max(values) - min(values)) + 0.2
    axes.set_xlim(min(values) - margin, max(values) + margin)
    axes.set_xlabel("accuracy on the target, %")
    figure.suptitle(shift.title)  # over the names as well
    axes.grid(axis="x", alpha=0.3)
    axes.legend(loc="best")
    plots.save_figure(figure, path)


def write_table(out: Path) -> None:
    """results.md and a plot for each shift that has results."""
    lines = ["# Domain adaptation", "", ABOUT, ""]
    for shift in SHIFTS.values():
        results = read_results(out / f"{shift.name}.json")
        if results:
            lines += table(shift, results)
            if plots.have_matplotlib():
                draw(shift, results, out / f"{shift.name}.png")
    write_text(out / "results.md", "\n".join(lines))
    print("\n".join(lines))


def main() -> None:
    """Run what is missing, then write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=[*SHIFTS, "table"])
    parser.add_argument("--data", type=Path, help="folder of the data sets")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/adaptation"))
    parser.add_argument(
        "--work", type=Path, default=Path("runs/adaptation"), help="folder of the run folders"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these recipes")
    parser.add_argument("--development", action="store_true", help="the shift on which settings are chosen")
    parser.add_argument("--threads", type=int, default=kernels.get_num_threads())
    args = parser.parse_args()
    kernels.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    if args.what != "table":
        if args.data is None:
            parser.error("--data is needed")
        shift = SHIFTS[args.what]
        file = args.out / f"{args.what}{'-development' * args.development}.json"
        known: dict[tuple[str, str], Any] = {}
        for seed in args.seeds:
            for recipe in shift.recipes:  # one seed of all, then the next
                key = f"{recipe.name}/{seed}"
                if key in read_results(file) or (args.only and recipe.name not in args.only):
                    continue
                found = run_one(shift, recipe, seed, args.data, args.work, args.development, known)
                write_text(file, readable_json({**read_results(file), key: found}))
                print(f"{args.what} {key}: target {found['target']}, source {found['source']}", flush=True)
    write_table(args.out)


if __name__ == "__main__":
    main()
