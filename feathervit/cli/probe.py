"""The verb `probe`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tyro.conf import Positional

from .printing import add_row, new_table, print_json, print_result, set_threads
from .reading import ReadingFlags


@dataclass
class Probe(ReadingFlags):
    """Measure frozen features with nearest neighbours and a linear classifier."""

    checkpoint: Positional[str]
    """A weights file or a run folder, of pre-training or a classifier."""
    data: str | None = None
    """A name or folder with labels; the data the checkpoint was trained on if not given."""
    neighbours: int = 20
    """Number of nearest neighbours."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where the model runs; auto: a GPU if there is one."""
    skip_unreadable: bool = False
    """Skip images that cannot be read, and count them."""
    threads: int | None = None
    """CPU threads (PyTorch's choice if not given)."""
    json: bool = False
    """Print one JSON object on standard output and nothing else."""


def probe(args: Probe, _: dict) -> int:
    from ..evaluation.probe import probe as run

    set_threads(args.threads)
    result = run(
        args.checkpoint,
        args.data,
        neighbours=args.neighbours,
        device=args.device,
        skip_unreadable=args.skip_unreadable,
        reading=args.fields(),
    )
    if args.json:
        print_json({"checkpoint": args.checkpoint, **result})
        return 0
    table = new_table("features", f"{result['neighbours']} nearest neighbours", "linear classifier")
    for name, figures in result["tokens"].items():
        add_row(table, name, *(_accuracy(figures[kind], result["imbalanced"]) for kind in ("knn", "linear")))
    print_result(table)
    print_result(f"top-1 on {result['n']} {result['split']} images, fitted on {result['n_train']}", highlight=False)
    return 0


def _accuracy(figures: dict[str, float], imbalanced: bool) -> str:
    macro = f", macro {100 * figures['balanced_accuracy']:.2f} %" if imbalanced else ""
    return f"{100 * figures['top1']:.2f} %{macro}"
