"""The verbs: each a dataclass of flags and the function that runs it. A verb loads its room when it runs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from ..config import RunConfig, to_dict
from ..errors import ConfigError
from ..recipes import RECIPES, recipe
from ..zoo import MODELS

Positional = tyro.conf.Positional


@dataclass
class Train:
    """Train a model: a recipe, or a model and data, into a run folder.

    Every field of the recipe can be set by its dotted name; --from, --folds and --fold are short for --start-from,
    --split.folds and --split.fold. With no recipe named, the recipe is the one that fits the data;
    for one's own pictures that is `folder`, which chooses by the pictures and says why.
    """

    config: Annotated[RunConfig, tyro.conf.arg(name="")]
    out: str = ""
    """Run folder. It must be new or empty, unless --resume or --overwrite."""
    resume: bool = False
    """Go on where the run in --out was stopped; it ends in the weights it would have had."""
    overwrite: bool = False
    """Start anew in a folder that holds a run."""
    max_minutes: float | None = None
    """Stop with a checkpoint after this many minutes."""
    skip_unreadable: bool = False
    """Leave out pictures that cannot be read, and count them."""
    threads: int | None = None
    """CPU threads (PyTorch's choice if not given)."""
    json: bool = False
    """Print one JSON object on standard output and nothing else."""
    command: tyro.conf.Suppress[str] = ""


def train(args: Train, explicit: dict[str, Any]) -> int:
    from ..training.run import train as run

    if not args.out:
        raise ConfigError("no run folder named: give --out FOLDER")
    _set_threads(args.threads)
    fields = {k: v for k, v in explicit.items() if k not in ("recipe", "data")}
    outcome = run(
        explicit.get("recipe"),
        data=explicit.get("data"),
        out=args.out,
        resume=args.resume,
        overwrite=args.overwrite,
        max_minutes=args.max_minutes,
        skip_unreadable=args.skip_unreadable,
        console=_console(args.json),
        command=args.command,
        **fields,
    )
    if args.json:
        result = outcome.result
        splits = {n: getattr(result, n) for n in ("val", "test")} if result else {}
        keep = ("n", "top1", "top5", "balanced_accuracy", "nll", "ece")
        _print_json(
            {
                "out": args.out,
                "finished": outcome.finished,
                **{n: {"split": n, **{k: s[k] for k in keep}} for n, s in splits.items() if s},
                **({"minutes": result.minutes, "images_per_s": result.images_per_s} if result else {}),
            }
        )
    return 130 if outcome.interrupted else 0


@dataclass
class Evaluate:
    """Figures of a checkpoint on a labelled image set: top-1, top-5, per class, calibration."""

    checkpoint: Positional[str]
    """A weights file, or a run folder (its best weights)."""
    data: str | None = None
    """A name or folder; the data the checkpoint was trained on if not given."""
    split: Literal["train", "val", "test"] | None = None
    """Which split; the test split, else val, else all there is, if not given."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    skip_unreadable: bool = False
    threads: int | None = None
    json: bool = False
    """Print one JSON object on standard output and nothing else."""


def evaluate(args: Evaluate, _: dict) -> int:
    from ..evaluation.run import evaluate as run

    _set_threads(args.threads)
    split, found = run(args.checkpoint, args.data, args.split, args.device, args.skip_unreadable)
    if args.json:
        _print_json({"checkpoint": args.checkpoint, "split": split, **found.to_dict()})
        return 0
    console = _console(False)
    console.print(
        f"{split}: top-1 {100 * found.top1:.2f} %, top-{found.top5_k} {100 * found.top5:.2f} %, balanced "
        f"{100 * found.balanced_accuracy:.2f} %, of {found.n} images; calibration error {100 * found.ece:.2f} %",
        highlight=False,
    )
    if len(found.class_names) <= 30:
        table = _table("class", "recognised", "most often taken for")
        for i, name in enumerate(found.class_names):
            row = found.confusion[i]
            wrong = max((n, j) for j, n in enumerate(row) if j != i)
            share = found.per_class[name]
            mistaken = f"{found.class_names[wrong[1]]} ({wrong[0]} of {sum(row)})" if wrong[0] else ""
            _add_row(table, name, "no images" if share is None else f"{100 * share:.1f} %", mistaken)
        console.print(table)
    return 0


@dataclass
class Predict:
    """Name the classes of picture files."""

    checkpoint: Positional[str]
    """A weights file, or a run folder (its best weights)."""
    pictures: Positional[tuple[str, ...]]
    """Picture files, or folders of them."""
    top: int = 3
    """How many classes to name for each picture."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    threads: int | None = None
    json: bool = False
    """Print one JSON object on standard output and nothing else."""
    csv: bool = False
    """Print comma-separated values on standard output."""


def predict(args: Predict, _: dict) -> int:
    import csv

    from ..evaluation.run import predict as run

    if args.json and args.csv:
        raise ConfigError("--json and --csv exclude each other")
    if not args.pictures:
        raise ConfigError("no pictures named: give files or folders after the checkpoint")
    if args.top < 1:
        raise ConfigError(f"--top must be at least 1, got {args.top}")
    _set_threads(args.threads)
    found, failures = run(args.checkpoint, args.pictures, args.top, args.device)
    for failure in failures:
        print(f"feathervit: {failure}", file=sys.stderr)
    if args.json:
        _print_json(
            {
                "predictions": [
                    {"file": p.source, "classes": p.classes, "probabilities": p.probabilities} for p in found
                ],
                "unreadable": failures,
            }
        )
    elif args.csv:
        out = csv.writer(sys.stdout)
        out.writerow(["file", "rank", "class", "probability"])
        for p in found:
            for rank, (name, share) in enumerate(zip(p.classes, p.probabilities, strict=True), 1):
                out.writerow([p.source, rank, name, f"{share:.6f}"])
    elif found:
        table = _table("file", *(f"{n}." for n in range(1, len(found[0].classes) + 1)))
        for p in found:
            _add_row(
                table, p.source, *(f"{c} {100 * s:.1f} %" for c, s in zip(p.classes, p.probabilities, strict=True))
            )
        _console(False).print(table)
    return 1 if failures else 0


@dataclass
class Models:
    """The named models: parameters, multiply-accumulates, tokens, source."""

    json: bool = False


def models(args: Models, _: dict) -> int:
    from ..benchmark.cost import cost
    from ..models import create_model

    rows = []
    for name, known in MODELS.items():
        found = cost(create_model(name, num_classes=100), known.img_size, 3)
        rows.append(
            {
                "name": name,
                "parameters": found.parameters,
                "macs": found.macs,
                "tokens": found.tokens,
                "img_size": known.img_size,
                "patch_size": known.patch_size,
                "source": known.source,
            }
        )
    if args.json:
        _print_json({"models": rows})
        return 0
    table = _table("name", "parameters", "MMACs", "tokens", "image", "patch", "source")
    for r in rows:
        size = [str(r["tokens"]), f"{r['img_size']} px", f"{r['patch_size']} px", r["source"]]
        table.add_row(r["name"], f"{r['parameters']:,}", f"{r['macs'] / 1e6:.0f}", *size)
    _console(False).print(table)
    print("With a head of 100 classes; all experts are computed. Any timm model goes by timm:NAME.")
    return 0


@dataclass
class Recipes:
    """The recipes: where each comes from, what it needs, what it should reach."""

    json: bool = False


def recipes(args: Recipes, _: dict) -> int:
    rows = [
        {"name": r.name, "source": r.source, "needs": r.needs, "expected": r.expected, "cost": r.cost}
        for r in RECIPES.values()
    ]
    if args.json:
        _print_json({"recipes": [row | {"config": to_dict(RECIPES[row["name"]].config)} for row in rows]})
        return 0
    table = _table("name", "source", "needs", "expected", "cost")
    for row in rows:
        table.add_row(*row.values())
    _console(False).print(table)
    return 0


@dataclass
class DataCheck:
    """Look for what is wrong with a folder of pictures. Exit status 1 when something must be mended."""

    path: Positional[str]
    json: bool = False


def data_check(args: DataCheck, _: dict) -> int:
    from ..data.check import check_folder

    report = check_folder(args.path)
    if args.json:
        _print_json(report.to_dict())
    else:
        for line in report.lines():
            print(line)
    return 1 if report.must_mend else 0


@dataclass
class DataShow:
    """Write a PNG grid of samples by class; with --recipe, originals above augmented versions."""

    data: Positional[str]
    """A name or folder."""
    recipe: str | None = None
    """Show what this recipe's augmentation makes of the samples."""
    out: str = "samples.png"
    """The PNG file to write."""
    per_class: int = 8
    """Samples of each class."""
    seed: int = 0


def data_show(args: DataShow, _: dict) -> int:
    from ..data.grid import show

    print(show(args.data, args.recipe, Path(args.out), args.per_class, args.seed))
    return 0


@dataclass
class DataCache:
    """The cache of decoded pictures: where it is and how large, or --clear it."""

    clear: bool = False
    """Remove all of it."""


def data_cache(args: DataCache, _: dict) -> int:
    from ..data.cache import cache_folder, clear_cache

    if args.clear:
        print(f"{clear_cache() / 1e6:.1f} MB freed in {cache_folder()}")
    else:
        size = sum(p.stat().st_size for p in cache_folder().glob("**/*") if p.is_file())
        print(f"{cache_folder()}: {size / 1e6:.1f} MB")
    return 0


@dataclass
class BenchmarkAugment:
    """Augmentation against torchvision's and timm's loops over images, in one run."""

    sizes: tuple[int, ...] = (32, 64, 96)
    """Image sides in pixels."""
    threads: tuple[int, ...] = (1, 2)
    """CPU threads to measure with."""
    batch: int = 1024
    repeats: int = 7
    """Runs of which the median counts."""
    device: Literal["cpu", "cuda"] = "cpu"
    out: str | None = None
    """Also write the JSON here."""
    json: bool = False


def benchmark_augment(args: BenchmarkAugment, _: dict) -> int:
    from ..benchmark.augment import run, table
    from ..results import write_json

    found = run(args.sizes, args.threads, args.batch, args.repeats, args.device)
    if args.out:
        write_json(args.out, found)
    if args.json:
        _print_json(found)
    else:
        print(table(found))
    return 0


@dataclass
class BenchmarkTrain:
    """What a training step costs: images a second, memory, and the shares of its parts, for any model."""

    model: str = "mlit_xxs"
    """One of ours, or timm:NAME."""
    recipe: str = "mlit_cifar100"
    """Whose augmentation, optimiser and loss are used."""
    img_size: int | None = None
    patch_size: int | None = None
    batch_size: int = 128
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    rounds: int = 5
    """Rounds of which the median counts."""
    threads: int | None = None
    out: str | None = None
    """Also write the JSON here."""
    json: bool = False


def benchmark_train(args: BenchmarkTrain, _: dict) -> int:
    from ..benchmark.train import run, table
    from ..results import write_json

    if args.rounds < 1:
        raise ConfigError(f"--rounds must be at least 1, got {args.rounds}")
    _set_threads(args.threads)
    names = ("model", "img_size", "patch_size", "batch_size", "device", "precision")
    found = run(
        replace(recipe(args.recipe), arch=None, **{name: getattr(args, name) for name in names}), rounds=args.rounds
    )
    if args.out:
        write_json(args.out, found)
    if args.json:
        _print_json(found)
    else:
        print(table(found))
    return 0


@dataclass
class Demo:
    """Train on handwritten digits, evaluate, predict: the whole way in two minutes, no download."""

    out: str = "runs/demo"
    """Run folder; what an earlier demo left there is replaced."""
    seed: int = 0
    json: bool = False


def demo(args: Demo, _: dict) -> int:
    from ..demo import run

    found = run(Path(args.out), args.seed, _console(args.json))
    if args.json:
        _print_json(found)
    return 0 if found["finished"] else 130  # it has no other way to end early than Ctrl-C


Verb = tuple[type, Callable[[Any, dict[str, Any]], int]]
VERBS: dict[str, Verb] = {
    "demo": (Demo, demo),
    "train": (Train, train),
    "evaluate": (Evaluate, evaluate),
    "predict": (Predict, predict),
    "models": (Models, models),
    "recipes": (Recipes, recipes),
    "data check": (DataCheck, data_check),
    "data show": (DataShow, data_show),
    "data cache": (DataCache, data_cache),
    "benchmark augment": (BenchmarkAugment, benchmark_augment),
    "benchmark train": (BenchmarkTrain, benchmark_train),
}


def _console(json_wanted: bool):
    """Where people read: standard output, or standard error when standard output is for a program."""
    from rich.console import Console

    stream = sys.stderr if json_wanted else sys.stdout
    return Console(stderr=json_wanted, width=None if stream.isatty() else 4096)  # a program wants whole lines


def _table(*columns: str):
    from rich.table import Table

    return Table(*columns, box=None)


def _add_row(table: Any, *cells: str) -> None:
    """A row of text as it is: names may hold square brackets, which rich would take for markup."""
    from rich.markup import escape

    table.add_row(*map(escape, cells))


def _print_json(value: dict[str, Any]) -> None:
    print(json.dumps(value))


def _set_threads(threads: int | None) -> None:
    if threads is not None:
        if not 1 <= threads <= 1024:
            raise ConfigError(f"--threads must be from 1 to 1024, got {threads}")
        import torch

        torch.set_num_threads(threads)
