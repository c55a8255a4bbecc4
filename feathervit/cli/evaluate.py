"""The verbs `evaluate` and `predict`."""

from __future__ import annotations

import contextlib
import sys
import warnings
from dataclasses import asdict, dataclass
from typing import Literal

from tyro.conf import Positional

from ..errors import ConfigError, DataWarning
from ..evaluation.confusion import confused_pairs, interval, macro_accuracy, worst_first
from ..streams import quiet_libraries
from .printing import add_row, new_table, other_line, print_json, print_result, set_threads
from .reading import ReadingFlags

PAIRS = 10  # number of printed pairs of confused classes


@dataclass
class Evaluate(ReadingFlags):
    """Evaluate a checkpoint on labelled images: accuracy, calibration, each class, most confused pairs."""

    checkpoint: Positional[str]
    """A run folder (its best weights), a weights file, or weights in the package."""
    data: str | None = None
    """A name or folder; the data the checkpoint was trained on if not given."""
    split: Literal["train", "val", "test"] | None = None
    """The split to use; if not given: test, else val, else all images."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where the model runs; auto: a GPU if there is one."""
    skip_unreadable: bool = False
    """Skip images that cannot be read, and count them."""
    flip: bool = False
    """Average the logits of each image and its mirror image."""
    threads: int | None = None
    """CPU threads (PyTorch's choice if not given)."""
    json: bool = False
    """Print one JSON object on standard output and nothing else."""


def evaluate(args: Evaluate, _: dict) -> int:
    from ..evaluation.evaluate import evaluate as run

    set_threads(args.threads)
    split, result = run(
        args.checkpoint, args.data, args.split, args.device, args.skip_unreadable, args.fields(), args.flip
    )
    if args.json:
        print_json({"checkpoint": args.checkpoint, "split": split, **result.to_dict()})
        return 0
    low, high = interval(result.top1, result.n)
    macro = f"macro accuracy {100 * result.balanced_accuracy:.2f} %"
    print_result(
        f"{split}: top-1 {100 * result.top1:.2f} % of {result.n} images (95 % interval {100 * low:.1f} to {100 * high:.1f} %), "
        f"top-{result.top5_k} {100 * result.top5:.2f} %, {macro_accuracy(result.to_dict()) or macro}; "
        f"calibration error {100 * result.ece:.2f} %",
        highlight=False,
    )
    table = new_table("class", "recognised", "images", "most often predicted as")
    for name, share, n, other, times in worst_first(result):
        recognised = "" if share is None else f"{100 * share:.1f} %"
        add_row(table, name, recognised, str(n), f"{other} ({times})" if times else "")
    print_result(table)
    if pairs := confused_pairs(result)[:PAIRS]:
        table = new_table("most confused", "predicted as", "images")
        for true, predicted, times, n in pairs:
            add_row(table, true, predicted, f"{times} of {n}")
        print_result(table)
    return 0


@dataclass
class Predict:
    """Name the classes of image files."""

    checkpoint: Positional[str]
    """A run folder (its best weights), a weights file, or weights in the package; also as --from NAME."""
    images: Positional[tuple[str, ...]]
    """Image files, folders of them, or patterns such as 'photos/*.jpg'."""
    top: int = 3
    """Number of classes to name per image."""
    min_confidence: float | None = None
    """Answer "other" if the highest probability is below this, from 0 to 1 (the value of `calibrate` if not given)."""
    max_image_gib: float | None = None
    """Memory limit of one decoded image, in GiB (as in training if not given)."""
    draw: str | None = None
    """A folder for copies of the images with their labels drawn in."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where the model runs; auto: a GPU if there is one."""
    threads: int | None = None
    """CPU threads (PyTorch's choice if not given)."""
    json: bool = False
    """Print one JSON object on standard output and nothing else."""
    csv: bool = False
    """Print comma-separated values on standard output."""


def predict(args: Predict, _: dict) -> int:
    import csv

    from ..evaluation.evaluate import predict as run

    if args.json and args.csv:
        raise ConfigError("--json and --csv exclude each other")
    if not args.images:
        raise ConfigError("no images named: give files or folders after the checkpoint")
    if args.top < 1:
        raise ConfigError(f"--top must be at least 1, got {args.top}")
    if args.min_confidence is not None and not 0 <= args.min_confidence <= 1:
        raise ConfigError(f"--min-confidence must be a share from 0 to 1, got {args.min_confidence}")
    set_threads(args.threads)
    with contextlib.ExitStack() as quiet:
        messages = []
        if args.json:  # put all messages into the JSON object, because both streams may go to one file
            messages = quiet.enter_context(warnings.catch_warnings(record=True))
            quiet.enter_context(quiet_libraries())
        predictions, failures, other = run(
            args.checkpoint, args.images, args.top, args.device, args.min_confidence, args.max_image_gib
        )
        if args.draw:
            from ..checkpoint import load_weights
            from ..plots.labelled import draw_predictions

            draw_predictions(predictions, args.draw, load_weights(args.checkpoint).config)
    if args.json:
        print_json(
            {
                "predictions": [prediction.to_dict() for prediction in predictions],
                "other": other and asdict(other),
                "unreadable": failures,
                "warnings": [str(w.message) for w in messages if issubclass(w.category, DataWarning)],
            }
        )
        return 1 if failures else 0
    for failure in failures:
        print(f"feathervit: {failure}", file=sys.stderr)
    if args.csv:
        out = csv.writer(sys.stdout, lineterminator="\n")
        out.writerow(["file", "rank", "class", "probability", "label"])
        for p in predictions:
            for rank, (name, share) in enumerate(zip(p.classes, p.probabilities, strict=True), 1):
                out.writerow([p.source, rank, name, f"{share:.6f}", p.label])
        if other:
            print(f"feathervit: {other_line(asdict(other))}", file=sys.stderr)
    elif predictions:
        labelled = bool(other or args.min_confidence)
        table = new_table("file", *["label"] * labelled, *(f"{n}." for n in range(1, len(predictions[0].classes) + 1)))
        for p in predictions:
            guesses = (f"{c} {100 * s:.1f} %" for c, s in zip(p.classes, p.probabilities, strict=True))
            add_row(table, p.source, *[p.label] * labelled, *guesses)
        print_result(table)
        if other:
            print_result(other_line(asdict(other)), highlight=False, soft_wrap=True)
    return 1 if failures else 0
