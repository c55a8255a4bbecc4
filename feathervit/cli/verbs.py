"""The verbs: each a dataclass of flags and the function that runs it. A verb loads its room when it runs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from ..config import RunConfig
from ..errors import ConfigError
from ..fields import to_dict
from ..recipes import RECIPES
from ..shipped import list_weights
from ..zoo import MODELS
from .calibrate import Calibrate, calibrate
from .export import Export, export
from .pictures import (
    PicturesAttention,
    PicturesPatches,
    PicturesPositions,
    PicturesReconstructions,
    PicturesRouting,
    Probe,
    Report,
    pictures_attention,
    pictures_patches,
    pictures_positions,
    pictures_reconstructions,
    pictures_routing,
    probe,
    report,
)
from .printing import add_row, new_console, new_table, print_json, set_threads
from .results import (
    ResultsPack,
    ResultsReproduce,
    ResultsTable,
    results_pack,
    results_reproduce,
    results_table,
)
from .rooms import (
    BenchmarkAugment,
    BenchmarkInfer,
    BenchmarkTrain,
    DataCache,
    DataCheck,
    DataShow,
    benchmark_augment,
    benchmark_infer,
    benchmark_train,
    data_cache,
    data_check,
    data_show,
)
from .study import StudyFlags, study

Positional = tyro.conf.Positional


@dataclass
class Train:
    """Train a model: a recipe, or a model and data, into a run folder.

    Every field of the recipe can be set by its dotted name; --from, --folds and --fold are short for --start-from,
    --split.folds and --split.fold. With no recipe named, the recipe is the one that fits the data; for one's own pictures that
    is `folder`, which chooses model, sizes and epochs by the pictures, whatever is shown here, and says why. With --recipe NAME
    before --help the defaults are that recipe's. --arch.attention, --arch.feedforward and --arch.patches take the name of
    another kind of part, whose fields --help then shows.
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


@dataclass
class Pretrain(Train):
    """Pre-train a masked auto-encoder without labels: what `train --from` starts from.

    Pictures may lie in any folders inside --data. Every field of the recipe can be set by its dotted name. With no recipe
    named, the recipe is the pre-training one that fits the data; for one's own pictures that is `mae_folder`, which chooses
    by the pictures and says why.
    """


def train(args: Train, explicit: dict[str, Any]) -> int:
    from ..training.run import pretrain
    from ..training.run import train as plain

    run = pretrain if isinstance(args, Pretrain) else plain
    if not args.out:
        raise ConfigError("no run folder named: give --out FOLDER")
    set_threads(args.threads)
    fields = {k: v for k, v in explicit.items() if k not in ("recipe", "data")}
    outcome = run(
        explicit.get("recipe"),
        data=explicit.get("data"),
        out=args.out,
        resume=args.resume,
        overwrite=args.overwrite,
        max_minutes=args.max_minutes,
        skip_unreadable=args.skip_unreadable,
        console=new_console(args.json),
        command=args.command,
        **fields,
    )
    if args.json:
        result = outcome.result
        splits = {n: getattr(result, n) for n in ("val", "test")} if result else {}
        keep = ("n", "top1", "top5", "balanced_accuracy", "nll", "ece", "masked_mse", "visible_mse")
        print_json(
            {
                "out": args.out,
                "finished": outcome.finished,
                **{n: {"split": n, **{k: s[k] for k in keep if k in s}} for n, s in splits.items() if s},
                **({"minutes": result.minutes, "images_per_s": result.images_per_s} if result else {}),
            }
        )
    return 130 if outcome.interrupted and not outcome.finished else 0


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

    set_threads(args.threads)
    split, found = run(args.checkpoint, args.data, args.split, args.device, args.skip_unreadable)
    if args.json:
        print_json({"checkpoint": args.checkpoint, "split": split, **found.to_dict()})
        return 0
    console = new_console(False)
    console.print(
        f"{split}: top-1 {100 * found.top1:.2f} %, top-{found.top5_k} {100 * found.top5:.2f} %, balanced "
        f"{100 * found.balanced_accuracy:.2f} %, of {found.n} images; calibration error {100 * found.ece:.2f} %",
        highlight=False,
    )
    if len(found.class_names) <= 30:
        table = new_table("class", "recognised", "most often taken for")
        for i, name in enumerate(found.class_names):
            row = found.confusion[i]
            wrong = max((n, j) for j, n in enumerate(row) if j != i)
            share = found.per_class[name]
            mistaken = f"{found.class_names[wrong[1]]} ({wrong[0]} of {sum(row)})" if wrong[0] else ""
            add_row(table, name, "no images" if share is None else f"{100 * share:.1f} %", mistaken)
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
    min_confidence: float = 0.0
    """Answer "unsure" where the best guess has a probability under this, from 0 to 1."""
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
    if not 0 <= args.min_confidence <= 1:
        raise ConfigError(f"--min-confidence must be a share from 0 to 1, got {args.min_confidence}")
    set_threads(args.threads)
    found, failures = run(args.checkpoint, args.pictures, args.top, args.device, args.min_confidence)
    for failure in failures:
        print(f"feathervit: {failure}", file=sys.stderr)
    if args.json:
        print_json(
            {
                "predictions": [
                    {
                        "file": p.source,
                        "label": p.label,
                        "sure": p.sure,
                        "classes": p.classes,
                        "probabilities": p.probabilities,
                    }
                    for p in found
                ],
                "unreadable": failures,
            }
        )
    elif args.csv:
        out = csv.writer(sys.stdout)
        out.writerow(["file", "rank", "class", "probability", "label"])
        for p in found:
            for rank, (name, share) in enumerate(zip(p.classes, p.probabilities, strict=True), 1):
                out.writerow([p.source, rank, name, f"{share:.6f}", p.label])
    elif found:
        asked = args.min_confidence > 0
        table = new_table("file", *["label"] * asked, *(f"{n}." for n in range(1, len(found[0].classes) + 1)))
        for p in found:
            guesses = (f"{c} {100 * s:.1f} %" for c, s in zip(p.classes, p.probabilities, strict=True))
            add_row(table, p.source, *[p.label] * asked, *guesses)
        new_console(False).print(table)
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
        print_json({"models": rows, "weights": list_weights()})
        return 0
    table = new_table("name", "parameters", "MMACs", "tokens", "image", "patch", "source")
    for r in rows:
        size = [str(r["tokens"]), f"{r['img_size']} px", f"{r['patch_size']} px", r["source"]]
        table.add_row(r["name"], f"{r['parameters']:,}", f"{r['macs'] / 1e6:.0f}", *size)
    new_console(False).print(table)
    print("With a head of 100 classes; all experts are computed. Any timm model goes by timm:NAME.")
    print(
        f"Weights that come with the package (--from, evaluate, export, pretrained=True): {', '.join(list_weights())}."
    )
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
        print_json({"recipes": [row | {"config": to_dict(RECIPES[row["name"]].config)} for row in rows]})
        return 0
    table = new_table("name", "source", "needs", "expected", "cost")
    for row in rows:
        table.add_row(*row.values())
    new_console(False).print(table)
    return 0


@dataclass
class Demo:
    """Pre-train on handwritten digits, then train on ten labels a class, with it and from scratch. No download."""

    out: str = "runs/demo"
    """Folder of the three runs; what an earlier demo left there is replaced."""
    seed: int = 0
    json: bool = False


def demo(args: Demo, _: dict) -> int:
    from ..demo import run

    found = run(Path(args.out), args.seed, new_console(args.json))
    if args.json:
        print_json(found)
    return 0 if found["finished"] else 130  # it has no other way to end early than Ctrl-C


Verb = tuple[type, Callable[[Any, dict[str, Any]], int]]
VERBS: dict[str, Verb] = {
    "demo": (Demo, demo),
    "pretrain": (Pretrain, train),
    "train": (Train, train),
    "evaluate": (Evaluate, evaluate),
    "calibrate": (Calibrate, calibrate),
    "predict": (Predict, predict),
    "probe": (Probe, probe),
    "export": (Export, export),
    "report": (Report, report),
    "models": (Models, models),
    "recipes": (Recipes, recipes),
    "data check": (DataCheck, data_check),
    "data show": (DataShow, data_show),
    "data cache": (DataCache, data_cache),
    "pictures reconstructions": (PicturesReconstructions, pictures_reconstructions),
    "pictures routing": (PicturesRouting, pictures_routing),
    "pictures attention": (PicturesAttention, pictures_attention),
    "pictures patches": (PicturesPatches, pictures_patches),
    "pictures positions": (PicturesPositions, pictures_positions),
    "study": (StudyFlags, study),
    "benchmark augment": (BenchmarkAugment, benchmark_augment),
    "benchmark train": (BenchmarkTrain, benchmark_train),
    "benchmark infer": (BenchmarkInfer, benchmark_infer),
    "results table": (ResultsTable, results_table),
    "results reproduce": (ResultsReproduce, results_reproduce),
    "results pack": (ResultsPack, results_pack),
}
