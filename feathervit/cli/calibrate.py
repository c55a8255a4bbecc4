"""The verb `calibrate`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tyro.conf import Positional

from .printing import add_row, new_table, other_line, print_json, print_result, set_threads
from .reading import ReadingFlags


@dataclass
class Calibrate(ReadingFlags):
    """Fit a temperature on the validation split and store it with the weights, so that probabilities match accuracies.

    The verbs evaluate, predict and export apply it from then on. Accuracy does not change.
    """

    checkpoint: Positional[str]
    """A run folder (its best weights), or a weights file."""
    data: str | None = None
    """A name or folder; the data the checkpoint was trained on if not given."""
    others: tuple[str, ...] = ()
    """Image files or folders outside all classes, to measure how many of them are still assigned a class."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where the model runs; auto: a GPU if there is one."""
    skip_unreadable: bool = False
    """Skip images that cannot be read, and count them."""
    threads: int | None = None
    """CPU threads (PyTorch's choice if not given)."""
    json: bool = False
    """Print one JSON object on standard output and nothing else."""


def calibrate(args: Calibrate, _: dict) -> int:
    from ..evaluation.calibration import calibrate as run

    set_threads(args.threads)
    result = run(args.checkpoint, args.data, args.device, args.skip_unreadable, args.fields(), args.others)
    if args.json:
        print_json(result)
        return 0
    text = f"temperature {result['temperature']:.3f}, fitted on val, stored in {result['checkpoint']}"
    print_result(text, markup=False, highlight=False, soft_wrap=True)
    table = new_table("split", "images", "NLL before", "after", "calibration error before", "after")
    for split in ("val", "test"):
        if split in result:
            before, after = result[split]["before"], result[split]["after"]
            nll = [f"{figures['nll']:.4f}" for figures in (before, after)]
            ece = [f"{100 * figures['ece']:.2f} %" for figures in (before, after)]
            add_row(table, split, str(result[split]["n"]), *nll, *ece)
    print_result(table)
    before, crossed = (result["val"][when]["ece"] for when in ("before", "cross_validated"))
    text = f"cross-validated on val: calibration error {100 * before:.2f} % before, {100 * crossed:.2f} % after"
    if crossed >= before:
        text += "; warning: the error does not fall, so these images are too few to show an improvement"
    print_result(text, highlight=False, soft_wrap=True)
    print_result(other_line(result["other"]), highlight=False, soft_wrap=True)
    return 0
